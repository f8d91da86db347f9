"""Combine several labelers' votes, weighted by measured reliability, into one preference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from alignment.labels.calibration import Reliability
from alignment.labels.labeler import Vote
from alignment.records import Side
from alignment.sections import Labels

PRIOR = 2.0
"""Right and wrong votes assumed for every labeler before measurement: they shrink rates towards 1/2."""
CAP = 3.0
"""Largest log-odds of one vote (0.95): no single labeler makes anything certain, and labelers are not independent."""
ASSUMED = 0.6
"""Assumed rate of right votes for a labeler that cannot be measured without people."""


class Preference(NamedTuple):
    """One preference. `posterior` is the probability in 0..1 that the first answer is better, from even odds.

    `agreement` is the winning side's share of weight; `margin` is the weighted mean of signed margins, at least 0; `sources` voted for the
    winner. `disputed`: the losing side has more weight than allowed.
    """

    verdict: Literal["first", "second", "tie", "unscored"]
    posterior: float
    margin: float
    agreement: float
    sources: tuple[str, ...]
    disputed: bool = False


def weight(measured: Reliability | None, side: Side) -> float:
    """Return the log-odds in [0, CAP] that a vote of this labeler is right on `side`; an unmeasured labeler gets ASSUMED.

    Source: naive Bayes with rater error rates, Dawid & Skene 1979.
    """
    if measured is None:
        return math.log(ASSUMED / (1 - ASSUMED))
    rate, n, wrong = (
        (measured.sensitivity, measured.n_harm, measured.wrong_harm)
        if side is Side.HARM
        else (measured.specificity, measured.n_helpful, measured.wrong_helpful)
    )
    # A tie is no vote: only the ratio of right to wrong votes counts.
    right = (rate or 0.0) * n
    return min(max(math.log((right + PRIOR) / (wrong + PRIOR)), 0.0), CAP)


def aggregate(votes: Mapping[str, Vote], weights: Mapping[str, float], settings: Labels) -> Preference:
    """Return the preference of `votes`, by labeler; labelers without a weight abstain.

    `unscored`: nobody voted. `tie`, for a person to decide: the posterior lies between 1 - min_posterior and min_posterior, or the losing
    side has more than `max_dissent` of the weight.
    """
    said = {name: vote for name, vote in votes.items() if vote.verdict in ("first", "second") and weights.get(name, 0.0) > 0}
    if not said:
        quiet = any(vote.verdict == "tie" and name in weights for name, vote in votes.items())
        return Preference("tie" if quiet else "unscored", 0.5, 0.0, 0.0, ())
    signs = {name: 1 if vote.verdict == "first" else -1 for name, vote in said.items()}
    odds = sum(signs[name] * weights[name] for name in said)
    total = sum(weights[name] for name in said)
    winner: Literal["first", "second"] = "first" if odds >= 0 else "second"
    sign = 1 if odds >= 0 else -1
    agreeing = [name for name in said if signs[name] == sign]
    agreement = sum(weights[name] for name in agreeing) / total
    posterior = 1 / (1 + math.exp(-odds))
    margin = max(0.0, sum(sign * signs[name] * weights[name] * said[name].margin for name in said) / total)
    disputed = 1 - agreement > settings.max_dissent
    sure = max(posterior, 1 - posterior) >= settings.min_posterior
    return Preference(winner if sure and not disputed else "tie", posterior, margin, agreement, tuple(sorted(agreeing)), disputed)


def told(votes: Mapping[str, Vote]) -> str:
    """Return a readable list of who preferred which answer."""
    words = {"first": "A", "second": "B", "tie": "neither"}
    return ", ".join(f"{name}: {words[vote.verdict]}" for name, vote in sorted(votes.items()) if vote.verdict in words)
