"""Labelers that call no model: the constitution on detector scores, users' signals, and an absent labeler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from alignment.conversation import asked
from alignment.ids import content_id
from alignment.labels.constitution import Constitution
from alignment.labels.labeler import Comparison, Vote
from alignment.records import Side

Scores = Mapping[str, float]
Scorer = Callable[[Sequence[str], Sequence[str]], Sequence[Scores]]
"""Returns detector scores in 0..1 for each (prompt, answer)."""

_WEAK = 0.3


class ConstitutionLabeler(NamedTuple):
    """Ranks two answers by the detectors of the comparison's principle; each answer is scored alone, so order cannot matter."""

    constitution: Constitution
    scorer: Scorer
    scorer_version: str
    min_margin: float
    declines_at: float = 0.5
    name: str = "constitution"

    @property
    def version(self) -> str:
        """Content address of the principles, detectors and thresholds."""
        return content_id(self.constitution.fingerprint, self.scorer_version, self.min_margin, self.declines_at)[:16]

    def vote(self, comparisons: Sequence[Comparison]) -> list[Vote]:
        """Vote for the answer with more utility: `tie` below `min_margin`, `unscored` if it declines a harmless request."""
        texts = sorted({(asked(one.selected.interaction.messages), each.text) for one in comparisons for each in (one.first, one.second)})
        scored = self.scorer([prompt for prompt, _ in texts], [text for _, text in texts])
        return [self._vote(one, dict(zip(texts, scored, strict=True))) for one in comparisons]

    def _vote(self, one: Comparison, known: Mapping[tuple[str, str], Scores]) -> Vote:
        first, second = (known[asked(one.selected.interaction.messages), each.text] for each in (one.first, one.second))
        gap = one.principle.margin(dict(first), dict(second))
        margin = abs(gap)
        if margin <= 0 or margin < self.min_margin:
            return Vote("tie", margin)
        better = first if gap > 0 else second
        if one.selected.side is Side.HELPFUL and better.get("refusal", 0.0) >= self.declines_at:
            return Vote("unscored", margin, {"reason": "the better answer declines a harmless request"})
        return Vote("first" if gap > 0 else "second", margin)


class SignalsLabeler(NamedTuple):
    """Users' reactions to a logged answer, as a weak label; `signals` maps an exchange to (kind, value) pairs.

    It abstains on harmful requests: users who ask for harm are pleased by harm. It cannot be calibrated without users.
    """

    signals: Mapping[str, Sequence[tuple[str, str]]]
    name: str = "signals"
    version: str = "1"

    def vote(self, comparisons: Sequence[Comparison]) -> list[Vote]:
        """Vote for or against the logged answer; `unscored` without a logged answer, without signals, or if they cancel out.

        `detail` counts the signals for and against the answer.
        """
        return [self._vote(one) for one in comparisons]

    def _vote(self, one: Comparison) -> Vote:
        logged = [each.kind == "logged" for each in (one.first, one.second)]
        said = self.signals.get(one.selected.interaction.id, ())
        if one.selected.side is Side.HARM or sum(logged) != 1 or not said:
            return Vote("unscored", detail={"reason": "no signal that counts"})
        liked = sum((kind, value) == ("thumbs", "up") for kind, value in said)
        disliked = sum((kind, value) == ("thumbs", "down") or kind in ("regenerated", "edit") for kind, value in said)
        counted = {"liked": liked, "disliked": disliked}
        if liked == disliked:
            return Vote("unscored", detail={**counted, "reason": "signals cancel out"})
        return Vote("first" if logged[0] == (liked > disliked) else "second", _WEAK, counted)


class Absent(NamedTuple):
    """A labeler that cannot vote tonight, with the reason. It is shown, and costs nothing."""

    name: str
    reason: str
    version: str = ""

    def vote(self, comparisons: Sequence[Comparison]) -> list[Vote]:
        """Return `unscored` for every comparison."""
        return [Vote("unscored", detail={"reason": self.reason})] * len(comparisons)
