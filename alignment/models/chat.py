"""The protocol that every model speaks, and what the rest of the project may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from alignment.records import Message

Progress = Callable[[int, int], None]
"""Called with (done, total) after each batch."""


class ChatModel(Protocol):
    """A model that answers conversations."""

    @property
    def model_id(self) -> str:
        """Content address of the weights (and adapter): equal ids give equal answers."""
        ...

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Answer each conversation; greedy when `temperature` is 0. An answer may be empty.

        Raises:
            ModelError: the model cannot answer (a conversation longer than its context, a server that refuses).
        """
        ...
