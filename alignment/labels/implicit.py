"""Self-reward: the champion's own preference after training, computed from its log-probabilities.

Source: the implicit reward of DPO as a labeler, Chen et al. 2024 (arXiv:2406.09760), section 3; Rafailov et al. 2023
(arXiv:2305.18290), equation 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from alignment.ids import content_id
from alignment.labels.labeler import Comparison, Vote
from alignment.models.logprobs import LogProb
from alignment.records import Message
from alignment.sections import SelfReward

NAME = "implicit_reward"
NO_RELEASE = "there is no aligned release yet"


class LogProbs(Protocol):
    """The model interface that the labeler needs, usually `alignment.models.logprobs.CachedLogProbs`."""

    @property
    def model_id(self) -> str: ...
    def log_probs(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[LogProb]: ...


class Reward(NamedTuple):
    """An answer's reward: nats times beta, per token of the answer if normalised."""

    value: float
    tokens: int


def reward(champion: LogProb, base: LogProb, *, beta: float, length_normalised: bool = False) -> Reward:
    """Return beta * (log champion(y|x) - log base(y|x)), optionally divided by the answer's tokens; 0 for an answer without tokens.

    >>> reward(LogProb(-4.0, 8), LogProb(-6.0, 8), beta=0.5).value
    1.0
    >>> reward(LogProb(-4.0, 8), LogProb(-6.0, 8), beta=0.5, length_normalised=True).value
    0.125
    """
    value = beta * (champion.sum - base.sum)
    return Reward(value / max(champion.tokens, 1) if length_normalised else value, champion.tokens)


class ImplicitReward:
    """Prefers the answer that alignment has made more likely, compared with the base. Without a champion it abstains."""

    name = NAME

    def __init__(self, champion: LogProbs | None, base: LogProbs, settings: SelfReward) -> None:
        self.champion, self.base, self.settings = champion, base, settings

    @property
    def version(self) -> str:
        """See `Labeler.version`."""
        champion = self.champion.model_id if self.champion else ""
        how = self.settings
        return content_id(NAME, champion, self.base.model_id, how.beta, how.length_normalised, how.min_margin)[:12]

    def vote(self, comparisons: Sequence[Comparison]) -> list[Vote]:
        """See `Labeler.vote`. The margin is 2p - 1, where p is the Bradley-Terry probability of the preferred answer."""
        if self.champion is None:
            return [Vote("unscored", 0.0, {"reason": NO_RELEASE})] * len(comparisons)
        conversations = [one.selected.interaction.messages for one in comparisons for _ in range(2)]
        answers = [each.text for one in comparisons for each in (one.first, one.second)]
        likely, before = (model.log_probs(conversations, answers) for model in (self.champion, self.base))
        how = self.settings
        rewards = [reward(a, b, beta=how.beta, length_normalised=how.length_normalised) for a, b in zip(likely, before, strict=True)]
        return [self._vote(first, second) for first, second in zip(rewards[::2], rewards[1::2], strict=True)]

    def _vote(self, first: Reward, second: Reward) -> Vote:
        detail = {"first": first.value, "second": second.value, "first_tokens": first.tokens, "second_tokens": second.tokens}
        difference = first.value - second.value
        if not math.isfinite(difference):
            return Vote("unscored", 0.0, {**detail, "reason": "a log-probability is not finite"})
        margin = math.tanh(abs(difference) / 2)  # 2 sigmoid(d) - 1
        if margin == 0 or margin < self.settings.min_margin:
            return Vote("tie", margin, detail)
        return Vote("first" if difference > 0 else "second", margin, detail)
