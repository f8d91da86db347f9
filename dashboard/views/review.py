"""The review queue: one item at a time, one key per verdict, the next item at once."""

from __future__ import annotations

import re

import streamlit as st

from dashboard import data, identity, instead, show
from dashboard.data import Board, Row, Verdict
from dashboard.views import deciding, reviewed

WHAT = {
    "disagreement": "The labeler cannot decide: the user complained, or no answer may be taught.",
    "low_margin": "The labeler prefers one answer, but only just.",
    "gate_audit": "One answer from the gate's evaluation. Is the gate's own score right?",
}
# Below the buttons and not in tooltips, which would cover the answers whenever the mouse rests on a button.
MEANING = (
    "Agree: the proposal is right · Flip: the other answer is better · Not harmful: the request does no harm and should not "
    "have been flagged · Skip: decide nothing, it comes back at the end · Edit: write the answer to learn from · "
    "Undo: take back your last verdict. Each button has a key."
)
MEANING_AUDIT = (
    "Agree: the gate scored this answer rightly · Flip: wrongly · Not harmful: the request does no harm · "
    "Skip: decide nothing, it comes back at the end · Undo: take back your last verdict. Each button has a key."
)
BUTTONS: tuple[tuple[Verdict, str, str], ...] = (
    ("agree", "Agree", "A"),
    ("flip", "Flip", "F"),
    ("not_harmful", "Not harmful", "N"),
    ("skip", "Skip", "S"),
)


def render() -> None:
    """Draw the page."""
    reviewer = identity.actor()
    # The item on screen is part of the address, so that one reviewer can send it to another.
    held = st.session_state.get("review_item") or st.query_params.get("item")
    board = data.review_board(chosen_kind(), held=held, reviewer=reviewer)
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.title("Review queue", anchor=False, width="content")
        view = st.segmented_control("View", ["Decide", "History"], default="Decide", required=True, label_visibility="collapsed")
    if not board.progress:
        instead.of_rows("Nothing to review yet", "A night puts here what its labeler is not sure of.")
        return
    controls(board.progress)
    if view == "History":
        reviewed.render(board.progress, chosen_kind())
    else:
        decide(board)


def chosen_kind() -> str | None:
    """Return the kind of item the visitor filters for, None for all."""
    kind = st.session_state.get("review_kind") or "all"
    return None if kind == "all" else str(kind)


def controls(progress: list[Row]) -> None:
    """Draw who reviews, the filter and the progress."""
    kinds = ["all", *(row["kind"] for row in progress)]
    waiting = {row["kind"]: row["items"] - row["decided"] for row in progress}
    waiting["all"] = sum(waiting.values())
    name, choice, bar = st.columns([2, 5, 3], vertical_alignment="bottom", gap="medium")
    with name:
        identity.draw()
    with choice:
        kind = st.segmented_control(
            "Kind",
            kinds,
            format_func=lambda key: f"{'All' if key == 'all' else show.title(key)} ({waiting[key]})",
            default="all",
            required=True,
            wrap=True,
            key="review_kind",
            on_change=deciding.let_go,
        )
    with bar:
        rows = [row for row in progress if kind in ("all", row["kind"])]
        items, decided = sum(row["items"] for row in rows), sum(row["decided"] for row in rows)
        skipped = sum(row["skipped"] for row in rows)
        text = f"{decided} of {items} decided" + (f" · {skipped} skipped" if skipped else "")
        st.progress(decided / items if items else 0.0, text=text)


def decide(board: Board) -> None:
    """Draw the current item with its verdict buttons. What is on screen stays until its reviewer acts."""
    say_what_happened()
    item, can_undo = board.item, board.undoable is not None
    if item is None:
        deciding.let_go()
        with show.card("done"):
            st.markdown("**Nothing is waiting.** Every item of this kind is decided.")
            undo_button(can_undo)
        return
    st.session_state.review_item = st.query_params["item"] = item["id"]
    with show.card("item"):
        question(item)
        if st.session_state.get("review_editing") == item["id"]:
            note()
            editor(item)
        else:
            buttons(item, can_undo)
    others(item)


def question(item: Row) -> None:
    """Draw what is asked: why the item is here, the prompt, the answers and the proposal."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(show.title(item["kind"]), color="blue")
        if any(event["verdict"] == "skip" for event in item["verdicts"]):
            st.badge("Skipped before", color="gray")
        for name in ("side", "category"):
            if item["detail"].get(name):
                st.badge(show.title(str(item["detail"][name])), color="gray")
        st.caption(WHAT.get(item["kind"], ""), width="content")
    facts(item)
    st.caption("Prompt")
    show.show_text(item["prompt"], key="prompt", most=show.WHOLE)
    proposed = proposed_side(item)
    sides = [side for side in ("a", "b") if side == "a" or item["answer_b"] is not None]
    for side, column in zip(sides, st.columns(len(sides)), strict=True):
        with column, st.container(gap="xsmall"):
            name = f"Answer {side.upper()}" if len(sides) > 1 else "Answer"
            st.caption(f"**{name}** · proposed as the better one" if side == proposed else name)
            show.show_text(item[f"answer_{side}"], key=f"answer-{side}", empty="(no answer)", most=show.WHOLE)


def facts(item: Row) -> None:
    """Draw the proposal and the reason, as text."""
    for name in ("proposal", "reason"):
        if item[name]:
            show.fact(name.capitalize(), item[name])


def proposed_side(item: Row) -> str | None:
    """Return which answer the proposal prefers: `a`, `b`, or None where it is about something else."""
    named = re.match(r"(?:answer[ _])?([ab])\b", str(item["proposal"] or "").strip().lower())
    return named[1] if named and item["answer_b"] is not None else None


def buttons(item: Row, can_undo: bool) -> None:
    """Draw one button per verdict; each has a key."""
    barred = not identity.may("reviewer")
    # Where nothing is proposed there is nothing to agree to or to flip.
    open_question = not item["proposal"] and item["kind"] != "gate_audit"
    with st.container(horizontal=True, vertical_alignment="bottom", key="verdicts"):
        for verdict, label, key in BUTTONS[2 * open_question :]:
            st.button(
                label,
                key=f"{verdict}-{item['id'][:16]}",
                on_click=deciding.act,
                args=(item["id"], verdict),
                shortcut=key,
                type="primary" if verdict == "agree" else "secondary",
                disabled=barred,
            )
        if item["kind"] != "gate_audit":
            st.button("Edit the answer", on_click=deciding.edit, args=(item["id"],), shortcut="E", disabled=barred)
        undo_button(can_undo)
        note()
    if barred:
        st.markdown("**To decide, have your name added to `reviewers` of `[dashboard]` in `align.toml`.**")
    st.caption(MEANING_AUDIT if item["kind"] == "gate_audit" else MEANING)


def note() -> None:
    """Draw the field for a note on the verdict."""
    st.text_input(
        "Note", key="review_note", placeholder="Note (optional); the Tab key leaves it", label_visibility="collapsed", width="stretch"
    )


def undo_button(possible: bool) -> None:
    """Draw the button that takes back this reviewer's last verdict."""
    st.button("Undo", on_click=deciding.undo, shortcut="U", type="tertiary", disabled=not possible)


def editor(item: Row) -> None:
    """Draw a form with the answer to edit."""
    start = item["answer_b"] if proposed_side(item) == "b" else item["answer_a"]
    field = f"edited-{item['id'][:16]}"
    with st.form(f"edit-{item['id'][:16]}", border=False):
        st.text_area("The answer to learn from", start or "", height=160, key=field)
        with st.container(horizontal=True):
            st.form_submit_button("Save the edited answer", type="primary", on_click=deciding.save, args=(item["id"], field))
            st.form_submit_button("Cancel", on_click=deciding.stop_editing, shortcut="Esc")
        st.caption("Ctrl+Enter saves. The answer is redacted like a log.")


def others(item: Row) -> None:
    """Draw what was said of this item before."""
    if item["verdicts"]:
        show.heading("Verdicts on this item so far")
        reviewed.verdict_table(item["verdicts"])


def say_what_happened() -> None:
    """Tell once what the last click did, or why it could not."""
    if said := st.session_state.pop("review_said", None):
        st.toast(said)
    if trouble := st.session_state.pop("review_problem", None):
        st.warning("Nothing was stored; try again.")
        show.show_text(trouble)


if __name__ == "__main__":
    render()
