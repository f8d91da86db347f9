"""Paired statistics on 0/1 outcomes, 1 being the failure. Pure functions."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

from scipy.stats import binomtest, norm


class PairedCounts(NamedTuple):
    """How often both models failed, only one, or none. `worse`: only the challenger failed; `better`: only the champion."""

    both: int
    worse: int
    better: int
    neither: int

    @property
    def n(self) -> int:
        """Number of pairs."""
        return sum(self)


def count(champion: list[int], challenger: list[int]) -> PairedCounts:
    """Count paired outcomes.

    >>> count([1, 1, 0, 0], [1, 0, 1, 0])
    PairedCounts(both=1, worse=1, better=1, neither=1)
    """
    pairs = list(zip(champion, challenger, strict=True))
    return PairedCounts(pairs.count((1, 1)), pairs.count((0, 1)), pairs.count((1, 0)), pairs.count((0, 0)))


def wilson(failures: int, n: int, z: float) -> tuple[float, float]:
    """Return the Wilson score interval of a rate in 0..1; (0, 1) without data. Source: Wilson 1927.

    >>> tuple(round(x, 4) for x in wilson(0, 300, 1.6449))
    (0.0, 0.0089)
    """
    if n == 0:
        return 0.0, 1.0
    rate, square = failures / n, z * z
    middle = (rate + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def difference(counts: PairedCounts, confidence: float) -> tuple[float, float, float]:
    """Return challenger minus champion with an interval whose each end holds with `confidence` (one-sided).

    It stays honest with few or no discordant pairs, where a bootstrap shrinks to a point. Without data: (0, -1, 1).
    Source: Newcombe 1998, Statistics in Medicine 17, method 10 (square-and-add of Wilson intervals with the phi correction).
    """
    both, worse, better, neither = counts
    n = counts.n
    if n == 0:
        return 0.0, -1.0, 1.0
    z = float(norm.ppf(confidence))
    new, old = (both + worse) / n, (both + better) / n
    new_low, new_high = wilson(both + worse, n, z)
    old_low, old_high = wilson(both + better, n, z)
    spread = (both + worse) * (better + neither) * (both + better) * (worse + neither)
    product = both * neither - worse * better
    if spread == 0:
        phi = 0.0
    elif product > n / 2:
        phi = (product - n / 2) / sqrt(spread)
    else:
        phi = min(product, 0) / sqrt(spread)
    below = (new - new_low) ** 2 - 2 * phi * (new - new_low) * (old_high - old) + (old_high - old) ** 2
    above = (new_high - new) ** 2 - 2 * phi * (new_high - new) * (old - old_low) + (old - old_low) ** 2
    return new - old, new - old - sqrt(max(below, 0.0)), new - old + sqrt(max(above, 0.0))


def mcnemar(counts: PairedCounts) -> float:
    """Return the two-sided exact McNemar p-value; 1.0 without discordant pairs. Source: McNemar 1947, exact binomial form.

    >>> mcnemar(PairedCounts(0, 0, 5, 0)) == 2 / 2**5
    True
    """
    discordant = counts.worse + counts.better
    return float(binomtest(counts.worse, discordant, 0.5).pvalue) if discordant else 1.0


def detectable(n: int, discordant: float, confidence: float, power: float = 0.8) -> float:
    """Return the smallest true difference in 0..1 that `n` pairs show with `power`, given the share of discordant pairs.

    At least one discordant pair is assumed, so that agreement in a small sample does not look like certainty. Source: Connor 1987.
    """
    if n == 0:
        return 1.0
    share = max(discordant, 1.0 / n)
    return min(float((norm.ppf(confidence) + norm.ppf(power)) * sqrt(share / n)), 1.0)
