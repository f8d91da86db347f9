"""Who acts on the pages. Everything that is stored under a person's name asks here and nowhere else.

Effects: reads and changes the visitor's session state.
"""

from __future__ import annotations

import streamlit as st

from dashboard import show


def actor() -> str:
    """Return the name under which the visitor decides, empty if there is none."""
    return str(st.session_state.get("reviewer") or "")


def draw() -> None:
    """Draw who acts: a field until there is a name, then the name, so that the next key is a verdict and not a letter of it."""
    if name := actor():
        with st.container(gap=None):
            st.caption("You act as")
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                show.show_text(name)
                st.button("Change", type="tertiary", on_click=_forget)
    else:
        st.text_input("Your name", key="reviewer_typed", max_chars=80, placeholder="needed to decide", on_change=_keep)


def _keep() -> None:
    st.session_state.reviewer = (st.session_state.reviewer_typed or "").strip()


def _forget() -> None:
    st.session_state.reviewer = ""
