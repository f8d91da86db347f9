"""Actions of the review queue's buttons: hold an item, store or take back a verdict, and remember the message for the reviewer.

Effects: appends to the store; changes the visitor's session state.
"""

from __future__ import annotations

import time
from uuid import uuid4

import streamlit as st

from alignment.errors import AlignError
from alignment.labels.review_queue import Verdict
from dashboard import identity, review_data
from dashboard.data import Row

QUICK = 0.4
"""Seconds after an item appears in which verdicts are ignored: nobody has read it yet, so a second press was meant for the last item."""
RENEW_EVERY, RENEW_AFTER = 30.0, 20.0


def hold(kind: str | None) -> None:
    """Make sure that the page holds an item for its visitor: the one on screen, else the one asked for, else the next free one."""
    state, reviewer = st.session_state, identity.actor()
    if state.get("review_item"):
        if state.get("review_for") == reviewer:
            return
        let_go()  # a different person is signed in now
    # Store the token before holding the item, so that an interrupted run finds its item again.
    token = state.setdefault("review_token", uuid4().hex)
    # Use the address only once: a press that overtakes the page sends the old address along, with the item that was just decided.
    addressed = None if state.get("review_addressed") else st.query_params.get("item")
    state.review_addressed = True
    claimed = review_data.claim_item(token, reviewer, kind=kind, item=state.get("review_wanted") or addressed)
    if claimed.refused:
        state.review_lost = claimed.refused
    if claimed.showing is None and claimed.refused:
        let_go(store=False)
        claimed = review_data.claim_item(state.setdefault("review_token", uuid4().hex), reviewer, kind=kind, item=None)
    state.pop("review_wanted", None)
    if claimed.showing:
        state.review_item, state.review_for = claimed.showing.item, reviewer
        state.review_shown_at = state.review_renewed_at = time.monotonic()


def keep_hold(token: str) -> bool:
    """Renew the hold on the item on screen if that is due; return whether it is still held."""
    state = st.session_state
    if state.get("review_token") != token or time.monotonic() - state.get("review_renewed_at", 0.0) < RENEW_AFTER:
        return True
    state.review_renewed_at = time.monotonic()
    try:
        return not review_data.renew_hold(token)
    except AlignError:
        return True  # a busy store does not end the hold; the next round tries again


def lose(why: str) -> None:
    """Remove from the screen an item that the visitor can no longer decide, and remember why."""
    st.session_state.review_lost = why
    # An item that only changed is free again at once.
    let_go()


def let_go(*, store: bool = True) -> None:
    """Remove the item from the screen and the address; with `store`, release it to others at once."""
    state = st.session_state
    token = state.pop("review_token", None)
    for name in ("review_item", "review_for", "review_wanted", "review_editing"):
        state.pop(name, None)
    st.query_params.pop("item", None)
    if store and token:
        try:
            review_data.release_hold(token)
        except AlignError:
            return  # the hold expires by itself


def open_item(item: str) -> None:
    """Put an item on the screen in place of the current one."""
    let_go()
    st.session_state.review_wanted = item
    st.session_state.review_view = "Decide"


def edit(token: str) -> None:
    """Open the editor for the item on screen."""
    st.session_state.review_editing = token


def stop_editing() -> None:
    """Close the editor."""
    st.session_state.pop("review_editing", None)


def save(token: str, item: Row, field: str) -> None:
    """Store the answer in the editor's `field`, unless it is empty."""
    text = st.session_state[field]
    if text and text.strip():
        act(token, item, "edit", "Wrote a better answer", text)
    else:
        st.session_state.review_said = "Nothing saved: the answer is empty"


def act(token: str, item: Row, verdict: Verdict, words: str, edited_answer: str | None = None) -> None:
    """Store a verdict and release the item. A second press for an item no longer on screen does nothing."""
    state = st.session_state
    if state.get("review_token") != token:
        return
    if time.monotonic() - state.get("review_shown_at", 0.0) < QUICK:
        state.review_said = "Not taken: this item had only just appeared"
        return
    try:
        outcome = review_data.record_verdict(
            token, verdict, reviewer=identity.actor(), note=state.get("review_note", "").strip(), edited_answer=edited_answer
        )
    except AlignError as error:
        state.review_problem = str(error)
        return
    if outcome.refused:
        lose(outcome.refused)
        return
    state.review_last = {"item": item, "verdict": verdict, "words": words, "left": item["left"]}
    state.review_note = ""
    let_go(store=False)


def undo(verdict: str) -> None:
    """Take back the reviewer's last verdict, whose id is `verdict`, and show its item again."""
    try:
        item = review_data.undo_verdict(verdict, identity.actor())
    except AlignError as error:
        st.session_state.review_problem = str(error)
        return
    if item:
        open_item(item)
        st.session_state.review_said = "Taken back"
        st.session_state.pop("review_last", None)
