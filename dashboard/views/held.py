"""What the gateway holds for a person: one request or answer at a time, and the buttons that decide it."""

from __future__ import annotations

from datetime import datetime

import streamlit as st

from alignment.config import load_settings
from alignment.errors import AlignError
from alignment.store.held import HeldExchange, HeldExchanges, Verdict
from dashboard import components, conversation, formats, identity


def render() -> None:
    """Draw what waits, oldest first."""
    if said := st.session_state.pop("held_said", None):
        st.success(said)
    if problem := st.session_state.pop("held_problem", None):
        st.warning("Not decided.")
        components.show_text(problem)
    waiting = HeldExchanges(load_settings().home).waiting()
    if not waiting:
        st.markdown("**The gateway holds nothing.** Rules with `action: hold` in its policy put requests and answers here.")
        return
    st.caption(f"{len(waiting)} wait for a person; their clients ask for the outcome and get it once you decide.")
    draw(waiting[st.session_state.get("held_place", 0) % len(waiting)])


def draw(item: HeldExchange) -> None:
    """Draw one exchange with its buttons."""
    with components.card("held"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge("Answer" if item.stage == "answer" else "Request", color="blue")
            st.caption(formats.moment(datetime.fromisoformat(item.created_at).replace(tzinfo=None)), width="content")
        components.show_text(f"Held by {item.reason}; asked by {item.client}", key="held-why")
        conversation.draw([conversation.ShownTurn(turn["role"], turn["content"]) for turn in item.conversation])
        if item.stage == "answer":
            st.caption("**The model's answer**")
            components.show_text(item.said, key="held-answer", most=components.WHOLE)
        if not identity.may("reviewer"):
            st.markdown("**To decide, have your name added to `reviewers` of `[dashboard]` in `align.toml`.**")
            return
        st.text_input("Note", key=f"held_note_{item.id}", max_chars=500, placeholder="why; kept with your name")
        with st.container(horizontal=True):
            allowed = "Send this answer" if item.stage == "answer" else "Let the model answer"
            st.button(allowed, key=f"held_allow_{item.id}", on_click=decide, args=(item.id, "allow"))
            st.button("Refuse", key=f"held_refuse_{item.id}", on_click=decide, args=(item.id, "refuse"))
            st.button("Later", on_click=pass_over)


def pass_over() -> None:
    """Show the next one; this one goes on waiting."""
    st.session_state.held_place = st.session_state.get("held_place", 0) + 1


def decide(name: str, verdict: Verdict) -> None:
    """Store the visitor's decision."""
    why = str(st.session_state.get(f"held_note_{name}") or "").strip()
    try:
        # Checked again here: a button that is not drawn can still be pressed.
        with identity.acting_as("reviewer") as who:
            HeldExchanges(load_settings().home).decide(name, verdict, actor=who.name, why=why)
    except AlignError as error:
        st.session_state.held_problem = str(error)
        return
    st.session_state.held_said = (
        "Allowed; the client gets it when it asks next." if verdict == "allow" else "Refused; the client gets a refusal when it asks next."
    )
