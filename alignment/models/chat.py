"""The protocol that every model speaks, and what the rest of the project may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

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


class Choice(NamedTuple):
    """A model's choice among options: the probability of each (they sum to 1), or None and why it made none."""

    probabilities: tuple[float, ...] | None
    reason: str = ""


class Written(NamedTuple):
    """What a model wrote, without its thinking; `reason` says why it is not a whole answer, and is empty for one that is."""

    text: str
    reason: str = ""


class Writer(Protocol):
    """A model that writes one answer a conversation, and says of each why there is none."""

    @property
    def model_id(self) -> str:
        """Content address of the model, as `ChatModel.model_id`."""
        ...

    def write(self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int, subjects: Sequence[str]) -> list[Written]:
        """Answer each conversation greedily; `subjects` as in `Chooser.choose`.

        A reason begins with `cut` (the text is there as far as it goes), `refused`, `limit` or `unavailable`.

        Raises:
            ModelError: the model refuses to work at all.
            TeacherUnavailable: its server gave no answers.
        """
        ...


class Chooser(Protocol):
    """A model that is asked to answer with one of a few letters, and can say how sure it is."""

    @property
    def model_id(self) -> str:
        """Content address of the model, as `ChatModel.model_id`."""
        ...

    def choose(self, conversations: Sequence[Sequence[Message]], options: Sequence[str], *, subjects: Sequence[str] = ()) -> list[Choice]:
        """Return the choice among `options` (single letters) for each conversation.

        `subjects` are the exchanges that the conversations are about, under whose ids answers may be kept; none keeps nothing.

        Raises:
            ModelError: the model refuses to work at all.
            TeacherUnavailable: its server gave no answers.
        """
        ...
