"""A person's ruling on one pair on the Pairs page: exclude it, flip it, ask the reviewers, or take that back.

Effects: appends to the store when a button is pressed; changes the visitor's session state.
"""

from __future__ import annotations

import streamlit as st

from alignment.errors import AlignError
from alignment.pairs.rulings import Action
from dashboard import components, formats, identity, review_data
from dashboard.data import Row

WORDS: dict[str, str] = {"exclude": "Excluded", "flip": "Flipped", "review": "Sent to review", "restore": "Taken back"}
ANSWERS = {
    "agree": "kept by review", "flip": "flipped by review", "edit": "answer rewritten in review", "both_bad": "left out by review",
    "not_harmful": "left out by review",
}  # fmt: skip
MEANING = (
    "Exclude: no pair of this exchange is taught. Flip: the rejected answer is taught, as a human's label. "
    "Review: it is not taught until a reviewer has decided. This applies from the next training set on."
)


def render(row: Row) -> None:
    """Draw the current ruling on a pair, and the panel for a new one."""
    if row["action"]:
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"ruled-{row['id'][:16]}"):
            answer = ANSWERS.get(row["ruled_verdict"] or "", "waits") if row["action"] == "review" else ""
            st.badge(WORDS[row["action"]] + (f", {answer}" if answer else ""), color="orange", icon=":material/gavel:")
            if row["ruled_pair"] != row["id"]:
                st.caption("through another pair of this exchange", width="content")
            st.caption(formats.moment(row["ruled_at"]), width="content")
            components.show_text(f"{row['actor']}: {row['reason']}")
    with st.popover("Exclude, flip or review", type="tertiary"):
        _panel(row)


def _panel(row: Row) -> None:
    name, field = row["id"][:16], f"ruling-reason-{row['id'][:16]}"
    st.text_input("Reason", key=field, max_chars=500, placeholder="what is wrong with it; kept for ever")
    st.caption(MEANING)
    if row["split"] == "eval":
        st.caption("This pair is held out: it measures training and is not taught.")
    actions: list[tuple[Action, str]] = [("exclude", "Exclude"), ("flip", "Flip"), ("review", "Review")]
    if row["action"]:
        actions.append(("restore", "Take it back"))
    may = identity.may("reviewer")
    ready = bool(may and (st.session_state.get(field) or "").strip())
    with st.container(horizontal=True):
        for action, label in actions:
            st.button(label, key=f"{action}-{name}", on_click=act, args=(row["id"], action, field), disabled=not ready)
    if not ready:
        st.caption("A reason is needed. It is stored with your name." if may else "This is for reviewers: see [dashboard] in align.toml.")


def act(pair: str, action: Action, field: str) -> None:
    """Record the visitor's ruling on a pair."""
    try:
        new = review_data.rule_on_pair(pair, action, actor=identity.actor(), reason=st.session_state[field].strip())
    except AlignError as error:
        st.session_state.ruling_problem = str(error)
        return
    st.session_state.ruling_said = WORDS[action] if new else "Already recorded; nothing new was stored"
    st.session_state[field] = ""


def say_what_happened() -> None:
    """Show once what the last click did, or why it failed."""
    if said := st.session_state.pop("ruling_said", None):
        st.toast(said)
    if trouble := st.session_state.pop("ruling_problem", None):
        st.warning("Nothing was stored.")
        components.show_text(trouble)
