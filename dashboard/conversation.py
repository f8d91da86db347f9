"""A conversation for a person who decides on its last turn: all turns, with the last one in view. Draws; changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import streamlit as st

from dashboard import components, data

ROLES = {"user": "User", "assistant": "Model", "system": "System", "tool": "Tool"}
LONG, BEGINNING = 900, 300
"""An earlier turn longer than LONG characters shows its first BEGINNING characters, with the whole folded away."""
SCROLLS, HEIGHT = 700, 230
"""Earlier turns of more than SCROLLS characters, or more than three, scroll in a panel of HEIGHT pixels, from their end."""


class ShownTurn(NamedTuple):
    """One turn of a conversation."""

    role: str
    text: str


def turns_of(messages: str | None, prompt: str | None) -> list[ShownTurn]:
    """Return the turns of a conversation; only the prompt if the conversation is unknown.

    >>> turns_of('[{"role": "user", "content": "Hi"}]', None)
    [ShownTurn(role='user', text='Hi')]
    >>> turns_of(None, "Hi")
    [ShownTurn(role='user', text='Hi')]
    """
    found: Any = data.parsed(messages, [])
    said = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    turns = [ShownTurn(str(one.get("role", "")), str(one.get("content") or "")) for one in said]
    # An item may ask about a different text than the last logged turn; then that text is the question.
    if prompt is not None and (not turns or turns[-1].text != prompt):
        turns.append(ShownTurn("user", prompt))
    return turns


def draw(turns: Sequence[ShownTurn]) -> None:
    """Draw the turns; the last one in its own panel, below the earlier turns."""
    if earlier := turns[:-1]:
        count = sum(len(turn.text) for turn in earlier)
        said = "1 turn" if len(earlier) == 1 else f"{len(earlier)} turns"
        st.caption(f"Earlier in this conversation · {said} · {count:,} characters")
        scrolls = count > SCROLLS or len(earlier) > 3
        with st.container(key="earlier-turns", border=True, gap="small", height=HEIGHT if scrolls else "content", autoscroll=scrolls):
            for number, turn in enumerate(earlier):
                _earlier(number, turn)
    for turn in turns[-1:]:
        name = "Last turn" if len(turns) > 1 else "Prompt"
        st.caption(f"**{name}** · {ROLES.get(turn.role, 'another role')} · {len(turn.text):,} characters")
        components.show_text(turn.text, key="prompt", most=components.WHOLE)


def _earlier(number: int, turn: ShownTurn) -> None:
    with st.container(gap=None, key=f"turn-{number}-{'model' if turn.role == 'assistant' else 'other'}"):
        st.caption(f"**{ROLES.get(turn.role, 'Another role')}**")
        if len(turn.text) <= LONG:
            components.show_text(turn.text, width="stretch")
            return
        components.show_text(turn.text[:BEGINNING] + " …", width="stretch")
        with st.expander(f"The whole turn · {len(turn.text):,} characters"):
            components.show_text(turn.text, width="stretch", most=components.WHOLE)
