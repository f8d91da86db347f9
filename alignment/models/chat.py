"""The protocols of chat models, and the results that they return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from alignment.records import Message

Progress = Callable[[int, int], None]
"""Callback that gets (done, total) after each batch."""


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
        subjects: Sequence[str] = (),
    ) -> list[str]:
        """Answer each conversation; greedy when `temperature` is 0. An answer may be empty.

        `subjects` are the ids of the exchanges that the conversations are about; a model that stores its answers does so under them.

        Raises:
            ModelError: the model cannot answer (for instance a conversation exceeds its context, or its server refuses).
        """
        ...


class Choice(NamedTuple):
    """A model's choice among options: the probability of each (they sum to 1), or None and why it made none."""

    probabilities: tuple[float, ...] | None
    reason: str = ""


class Written(NamedTuple):
    """A model's text without its thinking; `reason` says why the answer is incomplete, and is empty for a complete one."""

    text: str
    reason: str = ""


class Classified(NamedTuple):
    """What a guard model said, and the probability of each option as its first word (None: unknown); `reason` says why it said nothing."""

    text: str
    odds: tuple[float, ...] | None = None
    reason: str = ""


class Writer(Protocol):
    """A model that writes one answer per conversation, and gives the reason for each missing answer."""

    @property
    def model_id(self) -> str:
        """Content address of the model; see `ChatModel.model_id`."""
        ...

    def write(self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int, subjects: Sequence[str]) -> list[Written]:
        """Answer each conversation greedily; `subjects` as in `Chooser.choose`.

        A reason begins with `cut` (the text so far is returned), `refused`, `limit` or `unavailable`.

        Raises:
            ModelError: the model does not work at all.
            TeacherUnavailable: its server returned no answers.
        """
        ...


class Chooser(Protocol):
    """A model that answers with one of a few letters, with a probability for each."""

    @property
    def model_id(self) -> str:
        """Content address of the model; see `ChatModel.model_id`."""
        ...

    def choose(self, conversations: Sequence[Sequence[Message]], options: Sequence[str], *, subjects: Sequence[str] = ()) -> list[Choice]:
        """Return the choice among `options` (single letters) for each conversation.

        `subjects` are the ids of the exchanges that the conversations are about. Answers may be stored under them; without, none is stored.

        Raises:
            ModelError: the model does not work at all.
            TeacherUnavailable: its server returned no answers.
        """
        ...
