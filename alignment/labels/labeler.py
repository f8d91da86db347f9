"""The interface of all labelers: two answers to one prompt in, a vote out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from alignment.errors import TeacherUnavailable
from alignment.ids import content_id
from alignment.labels.constitution import Principle
from alignment.records import Candidate, Selected

REFUSED = "refused"
NOT_ASKED = ("unavailable", "limit", REFUSED)
"""Prefixes of the reason of an `unscored` vote that nobody answered, which says nothing about the labeler."""

ORDER = "order"
"""Prefix of the reason of an `unscored` vote whose verdict changed with the order of the answers."""


class Comparison(NamedTuple):
    """Two answers to a selected prompt, to be compared under one principle. The constitution prefers `first`."""

    selected: Selected
    principle: Principle
    first: Candidate
    second: Candidate

    @property
    def id(self) -> str:
        """Content address: equal answers under the same principle are the same comparison."""
        return content_id("comparison", self.first.id, self.second.id, self.principle.version)


class Vote(NamedTuple):
    """A labeler's vote on a comparison.

    `unscored` expresses no preference: the verdict depended on the answers' order, or the labeler could not tell. `margin` is the strength
    in 0..1.
    """

    verdict: Literal["first", "second", "tie", "unscored"]
    margin: float = 0.0
    detail: Mapping[str, Any] = {}


class Labeler(Protocol):
    """Votes on comparisons. It must not learn that `first` is the preferred answer: order carries no meaning."""

    @property
    def name(self) -> str:
        """Name in judgements and on pages: constitution, teacher, implicit_reward, self_judge, signals, human."""
        ...

    @property
    def version(self) -> str:
        """Content address of what determines its votes: weights, prompts, thresholds."""
        ...

    def vote(self, comparisons: Sequence[Comparison]) -> list[Vote]:
        """Return one vote per comparison, in order."""
        ...


def answered(labeler: Labeler, comparisons: Sequence[Comparison]) -> list[Vote]:
    """Return one vote per comparison, for measuring the labeler.

    Raises:
        TeacherUnavailable: a comparison could not be asked, so nothing was measured; the message is the vote's reason.
    """
    votes = labeler.vote(comparisons)
    if why := next((reason for vote in votes if (reason := str(vote.detail.get("reason", ""))).startswith(NOT_ASKED)), ""):
        raise TeacherUnavailable(why)
    return votes
