"""What every labeler speaks: two answers to one prompt in, a vote out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from alignment.errors import TeacherUnavailable
from alignment.ids import content_id
from alignment.labels.constitution import Principle
from alignment.records import Candidate, Selected

REFUSED = "refused"
NOT_ASKED = ("unavailable", "limit", REFUSED)
"""How the reason of an `unscored` vote begins where nobody answered, which tells nothing of the labeler."""

ORDER = "order"
"""How the reason of an `unscored` vote begins whose verdict changed with the order of the answers."""


class Comparison(NamedTuple):
    """Two answers to one selected prompt, to be compared under one principle. `first` is what the constitution prefers."""

    selected: Selected
    principle: Principle
    first: Candidate
    second: Candidate

    @property
    def id(self) -> str:
        """Content address: the same answers under the same principle are the same comparison."""
        return content_id("comparison", self.first.id, self.second.id, self.principle.version)


class Vote(NamedTuple):
    """One labeler's word on one comparison.

    `unscored` says nothing: the answers' order decided, or the labeler could not tell. `margin` is its strength in 0..1.
    """

    verdict: Literal["first", "second", "tie", "unscored"]
    margin: float = 0.0
    detail: Mapping[str, Any] = {}


class Labeler(Protocol):
    """Votes on comparisons. It must not be told which answer is `first` for a reason: order carries no meaning."""

    @property
    def name(self) -> str:
        """Name on judgements and pages: constitution, teacher, implicit_reward, self_judge, signals, human."""
        ...

    @property
    def version(self) -> str:
        """Content address of what decides its votes: weights, prompts, thresholds."""
        ...

    def vote(self, comparisons: Sequence[Comparison]) -> list[Vote]:
        """Return one vote a comparison, in their order."""
        ...


def answered(labeler: Labeler, comparisons: Sequence[Comparison]) -> list[Vote]:
    """Return one vote a comparison, for measuring the labeler.

    Raises:
        TeacherUnavailable: one of them could not be asked, so that nothing was measured; the message is the vote's reason.
    """
    votes = labeler.vote(comparisons)
    if why := next((reason for vote in votes if (reason := str(vote.detail.get("reason", ""))).startswith(NOT_ASKED)), ""):
        raise TeacherUnavailable(why)
    return votes
