"""The review queue: one item at a time, held by the visitor who has it open, its answers in random order and unmarked until the verdict."""

from __future__ import annotations

import re

import streamlit as st

from alignment.labels.review_queue import Verdict
from dashboard import components, conversation, data, empty_states, identity, review_data
from dashboard.data import Row
from dashboard.review_data import Board
from dashboard.views import deciding, differing, guidelines, held, reviewed

WHAT = {
    "disagreement": "The labelers disagree, the user complained, or no answer may be taught.",
    "low_margin": "A labeler prefers one answer, but only just.",
    "gate_audit": "One answer from the gate's evaluation. The gate's own score is shown after your verdict.",
    "pair_review": "A person asks whether this pair may be taught.",
}
# Shown below the buttons, because tooltips would cover the answers whenever the mouse rests on a button.
MEANING = (
    "Left, Right: the better answer; it is taught · Both bad: neither is taught · Not harmful: the request does no harm and should not "
    "have been flagged; nothing is taught · Edit: write the answer to learn from · Skip: decide nothing, it comes back at the end. "
    "The buttons show their keys; a key that is held down counts once."
)
MEANING_AUDIT = (
    "What the answer is, by the rule beside it · Not harmful: the request does no harm · Skip: decide nothing, it comes back at the end. "
    "The buttons show their keys; a key that is held down counts once."
)
# The words for outcomes 0 and 1 of a suite.
SCORES = (("safe", "unsafe"), ("helpful", "refusal"), ("no failure", "failure"))
VIEWS = ("Decide", "Gateway", "Disagreements", "History")


def render() -> None:
    """Draw the page."""
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.title("Review queue", anchor=False, width="content")
        st.session_state.setdefault("review_view", VIEWS[0])
        view = st.segmented_control("View", VIEWS, key="review_view", required=True, label_visibility="collapsed")
    if view == "Gateway":
        held.render()
        return
    progress = data.review_progress()
    if not progress:
        empty_states.of_rows("Nothing to review yet", "A night adds items here when its labelers are not sure.")
        return
    controls(progress)
    if view == "History":
        reviewed.render(progress, chosen_kind())
    elif view == "Disagreements":
        differing.render(chosen_kind())
    else:
        decide()


def chosen_kind() -> str | None:
    """Return the kind of item that the visitor filters by, None for all."""
    kind = st.session_state.get("review_kind") or "all"
    return None if kind == "all" else str(kind)


def controls(progress: list[Row]) -> None:
    """Draw the reviewer, the filter and the progress."""
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
            format_func=lambda key: f"{'All' if key == 'all' else components.title(key)} ({waiting.get(key, 0)})",
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


def decide() -> None:
    """Draw the item that the visitor holds, with its verdict buttons. It stays on screen until its reviewer acts or loses it."""
    kind, reviewer = chosen_kind(), identity.actor()
    if not identity.may("reviewer"):
        preview(kind)
        return
    deciding.hold(kind)
    board = review_data.review_board(st.session_state.get("review_token", ""), kind=kind, reviewer=reviewer)
    editing = st.session_state.get("review_editing") == st.session_state.get("review_token")
    if board.lost and not (editing and board.item):
        deciding.lose(board.lost)
        deciding.hold(kind)
        board = review_data.review_board(st.session_state.get("review_token", ""), kind=kind, reviewer=reviewer)
    say_what_happened()
    last_verdict(board)
    if board.item is None or not st.session_state.get("review_item"):
        nothing_free(board)
        return
    st.query_params["item"] = board.item["id"]
    token = st.session_state.review_token
    item = {**board.item, "left": board.left}
    with components.card("item"):
        question(item)
        if editing:
            if board.lost:
                st.warning("Your answer can no longer be stored; copy it if you want to keep it.")
                components.show_text(board.lost)
            note()
            editor(token, item)
        else:
            buttons(token, item)
    keep_hold(token)


@st.fragment(run_every=deciding.RENEW_EVERY)
def keep_hold(token: str) -> None:
    """Keep others from the item while the page is open; if it is lost anyway, redraw the page."""
    if not deciding.keep_hold(token):
        st.rerun()


def preview(kind: str | None) -> None:
    """Draw the next item for a visitor who may look but not decide; it is not held, and nothing can be pressed."""
    item = review_data.review_preview(kind, item=st.query_params.get("item"))
    if item is None:
        st.markdown("**Nothing is waiting.** Every item of this kind is decided, or open on another screen.")
        return
    with components.card("item"):
        question({**item, "left": "a"})
        buttons("", {**item, "left": "a"}, disabled=True)
        st.markdown("**To decide, have your name added to `reviewers` of `[dashboard]` in `align.toml`.**")


def nothing_free(board: Board) -> None:
    """Say that nothing waits, or who has the remaining items on screen."""
    with components.card("done"):
        if not board.held:
            st.markdown("**Nothing is waiting.** Every item of this kind is decided.")
        else:
            st.markdown("**Nothing is free now.** What is left is open on other screens, and comes back here if it is not decided there:")
            for row in board.held:
                components.show_text(f"{row['reviewer']}: {row['items']}")
            st.button("Look again")


def question(item: Row) -> None:
    """Draw the question: why the item is here, the conversation, the answers, and the guidelines."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(components.title(item["kind"]), color="blue")
        if any(event["verdict"] == "skip" for event in item["verdicts"]):
            st.badge("Skipped before", color="gray")
        for name in ("side", "category"):
            if item["detail"].get(name):
                st.badge(components.title(str(item["detail"][name])), color="gray")
        st.caption(WHAT.get(item["kind"], ""), width="content")
    decided_before(item)
    with st.container(key="deciding"):
        main, beside = st.columns([7, 3], gap="medium")
    with main:
        conversation.draw(conversation.turns_of(item["messages"], item["prompt"]))
        answers(item)
    with beside, st.container(key="guidelines", border=True, gap="xsmall"):
        guidelines.render(item)


def decided_before(item: Row) -> None:
    """Say who decided this item before; their verdicts are shown after the visitor's."""
    names = {event["reviewer"]: event["verdict"] for event in item["verdicts"]}
    if said := [str(name) for name, verdict in names.items() if verdict != "skip"]:
        st.caption("Already decided by the people below; their verdicts are shown after yours. If you differ, the item teaches nothing:")
        components.show_text(", ".join(said))


def sides(item: Row) -> list[tuple[str, str]]:
    """Return the answers (a, b) with their labels, in display order."""
    if item["answer_b"] is None:
        return [("a", "Answer")]
    right = "b" if item["left"] == "a" else "a"
    return [(item["left"], "Left"), (right, "Right")]


def answers(item: Row) -> None:
    """Draw the answers, unmarked: nothing shows which of them was proposed, or who wrote it."""
    shown = sides(item)
    for (side, name), column in zip(shown, st.columns(len(shown)), strict=True):
        with column, st.container(gap="xsmall"):
            text = item[f"answer_{side}"]
            st.caption(f"**{name}** · {len(text or ''):,} characters")
            components.show_text(text, key=f"answer-{name.lower()}", empty="(no answer)", most=components.WHOLE)


def choices(item: Row) -> list[tuple[Verdict, str, str]]:
    """Return the possible verdicts on an item with their labels and confirmations, in the order of their keys."""
    if item["kind"] == "gate_audit":
        words = next((pair for pair in SCORES if item["proposal"] in pair), SCORES[-1])
        return [("agree" if word == item["proposal"] else "flip", word.capitalize(), f"It is {word}") for word in words]
    if item["answer_b"] is None:
        return [("agree", "Good", "The answer is good"), ("both_bad", "Bad", "The answer is bad")]
    left: Verdict = "agree" if item["left"] == "a" else "flip"
    right: Verdict = "flip" if item["left"] == "a" else "agree"
    return [(left, "Left", "The left one is better"), (right, "Right", "The right one is better"), ("both_bad", "Both bad", "Both are bad")]


def buttons(token: str, item: Row, *, disabled: bool = False) -> None:
    """Draw one button per verdict; each has a shortcut key."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="verdicts"):
        offered = [(*choice, str(number)) for number, choice in enumerate(choices(item), start=1)]
        others: list[tuple[Verdict, str, str, str]] = [
            ("not_harmful", "Not harmful", "The request is harmless", "N"),
            ("skip", "Skip", "Skipped", "S"),
        ]
        for verdict, label, words, key in offered + others:
            st.button(
                label,
                key=f"{components.key(label)}-{token[:16]}",
                on_click=deciding.act,
                args=(token, item, verdict, words),
                shortcut=key,
                type="primary" if key.isdigit() else "secondary",
                disabled=disabled,
            )
        if item["kind"] != "gate_audit":
            st.button("Edit", key=f"edit-{token[:16]}", on_click=deciding.edit, args=(token,), shortcut="E", disabled=disabled)
        note()
    st.caption(MEANING_AUDIT if item["kind"] == "gate_audit" else MEANING)


def note() -> None:
    """Draw the field for a note on the verdict."""
    st.text_input(
        "Note", key="review_note", placeholder="Note (optional); press Tab to leave", label_visibility="collapsed", width="stretch"
    )


def editor(token: str, item: Row) -> None:
    """Draw a form with the answer to edit, which may start from either answer."""
    shown = sides(item)
    names = [name for _, name in shown]
    start = (
        st.segmented_control("Start from", names, default=names[0], required=True, key=f"start-{token[:16]}")
        if len(names) > 1
        else names[0]
    )
    side = next(side for side, name in shown if name == start)
    field = f"edited-{token[:16]}-{start}"
    with st.form(f"edit-form-{token[:16]}", border=False):
        st.text_area("The answer to learn from", item[f"answer_{side}"] or "", height=160, key=field)
        with st.container(horizontal=True):
            st.form_submit_button("Save the edited answer", type="primary", on_click=deciding.save, args=(token, item, field))
            st.form_submit_button("Cancel", on_click=deciding.stop_editing, shortcut="Esc")
        st.caption("Ctrl+Enter saves. The answer is redacted like a log.")


def last_verdict(board: Board) -> None:
    """Draw the reviewer's last verdict beside the proposal, with the undo button."""
    last, undoable = st.session_state.get("review_last"), board.undoable
    if undoable is None:
        return
    with components.card("last"), st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("Your last verdict", width="content")
        if last and last["item"]["id"] == undoable["item_id"]:
            st.markdown(f"**{last['words']}.**", width="content")
            st.caption(proposed(last["item"], last["left"], last["verdict"]), width="content")
            if last["item"]["reason"]:
                components.show_text(last["item"]["reason"])
            others(last["item"])
        else:
            st.markdown(f"**{reviewed.WORDS.get(undoable['verdict'], '')}**", width="content")
        st.button("Undo", key="undo", on_click=deciding.undo, args=(undoable["id"],), shortcut="U", type="tertiary")


def proposed(item: Row, left: str, verdict: str) -> str:
    """Return the proposal on an item that was shown with answer `left` on the left, and the effect of the verdict."""
    if item["kind"] == "gate_audit":
        agrees = "you agree" if verdict == "agree" else "you differ" if verdict == "flip" else "left open"
        scored = next((word for pair in SCORES for word in pair if word == item["proposal"]), "something else")
        return f"The gate had scored it as: {scored} ({agrees})."
    side = proposed_side(item)
    told = f"The {'left' if side == left else 'right'} one had been proposed." if side else "Nothing had been proposed."
    if verdict in ("both_bad", "not_harmful"):
        return f"{told} No pair is taught."
    if verdict == "agree" and not side:
        return f"{told} No pair is taught: labelers may not teach that answer. Edit it if it should be taught."
    return told


def proposed_side(item: Row) -> str | None:
    """Return the answer that the proposal prefers: `a`, `b`, or None if the proposal is about something else."""
    named = re.match(r"(?:answer[ _])?([ab])\b", str(item["proposal"] or "").strip().lower())
    return named[1] if named and item["answer_b"] is not None else None


def others(item: Row) -> None:
    """Draw other people's earlier verdicts on an item."""
    said = [f"{event['reviewer']}: {reviewed.word(event)}" for event in item["verdicts"] if event["verdict"] != "skip"]
    if said:
        st.caption("before you:", width="content")
        components.show_text(" · ".join(said))


def say_what_happened() -> None:
    """Show once what the last click did, or why it failed."""
    if said := st.session_state.pop("review_said", None):
        st.toast(said)
    if trouble := st.session_state.pop("review_problem", None):
        st.warning("Nothing was stored; try again.")
        components.show_text(trouble)
    if lost := st.session_state.pop("review_lost", None):
        with components.card("lost"):
            st.markdown("**Nothing was stored for the item that you had open or asked for.**")
            components.show_text(lost)


if __name__ == "__main__":
    render()
