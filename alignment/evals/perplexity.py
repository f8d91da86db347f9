"""Retention: how likely a model finds good answers written for this project, in nats per token (log of perplexity).

It takes one forward pass per answer and no generation, and shows damage that a handful of greedy answers does not. Champion and challenger
are paired by answer, so that hard answers count no more than easy ones.

Source: Jelinek et al. 1977 for perplexity; the paired difference as in Miller 2024 (arXiv:2411.00640), section 4.2.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import isfinite, sqrt
from typing import NamedTuple, Protocol

from scipy.stats import norm, t

from alignment.evals.statistics import POWER, Interval
from alignment.models.logprobs import LogProb
from alignment.records import Answer, Message, SuitePrompt

NATS, TOKENS = "nats", "tokens"
_WIDEST = 100.0  # nats per token: no two models differ by as much


class Weigher(Protocol):
    """A model that returns log-probabilities of answers."""

    def log_probs(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[LogProb]: ...


class Shift(NamedTuple):
    """The mean difference in nats per token with its one-sided bounds, and the effect detectable with 80% power."""

    found: Interval
    surely: float
    p_value: float
    detectable: float
    clusters: int


def weigh(model: Weigher, prompts: Sequence[SuitePrompt]) -> list[dict[str, float]]:
    """Return for each prompt's good answer (`right[0]`) its mean `nats` per token (at least 0) and its number of `tokens`.

    Raises:
        ModelError: an answer is longer than the model's context.
    """
    asked: list[list[Message]] = [prompt.conversation for prompt in prompts]
    found = model.log_probs(asked, [prompt.right[0] for prompt in prompts])
    return [{NATS: -one.sum / one.tokens, TOKENS: float(one.tokens)} for one in found]


def nats_of(answer: Answer) -> float | None:
    """Return an answer's nats per token; None if it was not measured or is not finite."""
    value = answer.scores.get(NATS)
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def shift(champion: Sequence[float], challenger: Sequence[float], clusters: Sequence[Hashable], confidence: float, claims: int) -> Shift:
    """Return the paired mean difference, challenger minus champion, with Student's bounds over cluster means.

    `surely` is the lower bound at the confidence required to claim a failure (see `gate`). With fewer than two clusters nothing is bounded.
    """
    by_cluster: dict[Hashable, list[float]] = {}
    for old, new, name in zip(champion, challenger, clusters, strict=True):
        by_cluster.setdefault(name, []).append(new - old)
    means = [sum(mine) / len(mine) for mine in by_cluster.values()]
    n = len(means)
    if n < 2:
        return Shift(Interval(sum(means), -_WIDEST, _WIDEST), -_WIDEST, 1.0, _WIDEST, n)
    mean = sum(means) / n
    error = sqrt(sum((one - mean) ** 2 for one in means) / (n - 1) / n)
    reach = float(t.ppf(confidence, n - 1)) * error
    surely = mean - float(t.ppf(1 - (1 - confidence) / claims, n - 1)) * error
    p_value = 2 * float(t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Shift(Interval(mean, mean - reach, mean + reach), surely, p_value, reach + float(norm.ppf(POWER)) * error, n)
