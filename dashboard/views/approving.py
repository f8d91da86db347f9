"""A person's verdict on a decision of the gate: buttons while an answer is awaited, and the permanent record of what was said.

Effects: moves production and appends to the store when a button is pressed; changes the visitor's session state.
"""

from __future__ import annotations

import streamlit as st

from alignment.errors import AlignError
from alignment.release.approval import Say
from dashboard import components, data, formats, identity
from dashboard.data import Row


def word(decision: Row) -> str:
    """Return the name of a decision's status: a decision that waits for a person has released nothing yet."""
    return "waits_for_approval" if decision["waiting"] else str(decision["decision"])


def render(decision: Row) -> None:
    """Draw people's verdicts on the decision and, if it waits for one, the buttons."""
    if trouble := st.session_state.pop("approval_problem", None):
        st.warning("Nothing was changed.")
        components.show_text(trouble)
    if said := st.session_state.pop("approval_said", None):
        st.toast(said)
    for row in data.gate_people(decision["id"]):
        with components.card(f"person-{row['verdict']}"), st.container(horizontal=True, vertical_alignment="center", gap="small"):
            components.badge(row["verdict"])
            st.caption(formats.moment(row["decided_at"]), width="content")
            components.fact("By", row["actor"])
            components.fact("Reason", row["reason"])
    if decision["waiting"]:
        question(decision)


def question(decision: Row) -> None:
    """Draw the reason field and the two buttons, for visitors who may press them."""
    with components.card("approval"), st.container(gap="small"):
        st.markdown("**The gate would promote this release. A person has to approve it.**")
        if not identity.may("approver"):
            components.show_text(
                f"You are signed in as {identity.actor()}. Only people in [dashboard] approvers in align.toml may approve."
            )
            return
        st.text_input("Reason", key="approval_reason", max_chars=500, placeholder="what you looked at; kept for ever")
        silent = not st.session_state.approval_reason
        with st.container(horizontal=True):
            for verdict, label in (("approved", "Approve and release"), ("refused", "Refuse")):
                kind = "primary" if verdict == "approved" else "secondary"
                st.button(label, on_click=answer, args=(decision["night_id"], decision["id"], verdict), disabled=silent, type=kind)  # type: ignore[arg-type]
        if silent:
            st.caption("A reason is needed. It is stored with the decision and your name.")


def answer(night: str, seen: str, verdict: Say) -> None:
    """Record the visitor's answer to the decision `seen`, and act on it."""
    reason = st.session_state.approval_reason.strip()
    try:
        # Checked again here: a button that is not drawn can still be pressed.
        with identity.acting_as("approver") as who:
            here = data.answer_approval(night, verdict, seen=seen, actor=who.name, reason=reason)
    except AlignError as error:
        st.session_state.approval_problem = str(error)
        return
    st.session_state.approval_said = f"{'Approved' if verdict == 'approved' else 'Refused'}; in production: {here}"
    st.session_state.approval_reason = ""
