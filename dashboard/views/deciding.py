"""What the buttons of the review queue do: store or take back a verdict, and remember what to tell the reviewer.

Effects: appends verdicts to the store; changes the visitor's session state.
"""

from __future__ import annotations

import streamlit as st

from alignment.errors import AlignError
from dashboard import data, identity
from dashboard.data import Verdict

SAID = {
    "agree": "Agreed",
    "flip": "Flipped",
    "edit": "Saved the edited answer",
    "not_harmful": "Marked as not harmful",
    "skip": "Skipped",
}


def let_go() -> None:
    """Take the item off the screen, and out of the address."""
    st.session_state.pop("review_item", None)
    st.query_params.pop("item", None)


def edit(item: str) -> None:
    """Open the editor for an item."""
    st.session_state.review_editing = item


def stop_editing() -> None:
    """Close the editor."""
    st.session_state.pop("review_editing", None)


def save(item: str, field: str) -> None:
    """Store the answer in the editor's `field`, unless it is empty."""
    text = st.session_state[field]
    if text and text.strip():
        act(item, "edit", text)
    else:
        st.session_state.review_said = "Nothing saved: the answer is empty"


def act(item: str, verdict: Verdict, edited_answer: str | None = None) -> None:
    """Store a verdict and let the item go. A second click on an item that is gone from the screen does nothing."""
    if st.session_state.get("review_item") != item:
        return
    try:
        with identity.acting_as("reviewer") as who:
            data.record_verdict(
                item,
                verdict,
                reviewer=who.name,
                note=st.session_state.get("review_note", "").strip(),
                edited_answer=edited_answer,
            )
    except AlignError as error:
        st.session_state.review_problem = str(error)
        return
    st.session_state.review_said = SAID[verdict]
    st.session_state.review_note = ""
    stop_editing()
    let_go()


def undo() -> None:
    """Take back the reviewer's last verdict and show its item again."""
    try:
        with identity.acting_as("reviewer") as who:
            item = data.undo_last(who.name)
    except AlignError as error:
        st.session_state.review_problem = str(error)
        return
    if item:
        st.session_state.review_item, st.session_state.review_said = item, "Taken back"
