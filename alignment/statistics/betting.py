"""Bets on differences in [-1, 1]: the core of the canary's test and of the drift e-detectors. Pure functions.

For a supposed mean d <= m, bet on a difference D being larger: the capital prod(1 + b (D - m) / (1 + m)), 0 < b < 1, is a
supermartingale as long as each D has a mean of at most m given all that was seen before, and so is the mean over several b. By Ville's
inequality it ever reaches 1/a with probability a at most, whenever one looks and whenever one stops. All m whose capital has not reached
1/a form a confidence sequence.

A capital waits for a change in vain: after a long quiet time it is spent. An e-detector therefore starts one afresh each day and follows
the best, `restarted`. Without a change, its expected value after t days is at most t, so that it reaches c after c days at the earliest, on
average: this is its average run length. The mean of several e-detectors is one too.

Source: Waudby-Smith & Ramdas 2020 (arXiv:2010.09686), betting; Howard, Ramdas, McAuliffe & Sekhon 2021 (arXiv:1810.08240), mixtures over
time-uniform bounds; Shin, Ramdas & Rinaldo 2024 (arXiv:2203.03532), e-detectors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BETS = np.geomspace(0.01, 0.95, 24)
_POINTS, _HALVINGS = 30, 16


class Point(NamedTuple):
    """The confidence sequence after a number of blocks; the mean difference with its interval, -1..1."""

    blocks: int
    diff: float
    low: float
    high: float


def log_gains(differences: Array, supposed: float, bets: Array = BETS) -> Array:
    """Return the log of what each difference (N,) gains by each bet (B,) against d <= `supposed` (-1 < supposed < 1): (N, B).

    For d >= m: `log_gains(-differences, -m)`.

    >>> log_gains(np.array([1.0, -1.0]), 0.0, np.array([0.5])).round(3).tolist()
    [[0.405], [-0.693]]
    """
    return np.asarray(np.log1p(np.outer((differences - supposed) / (1 + supposed), bets)))


def log_mean(logs: Array) -> Array:
    """Return the log of the mean over the last axis of what `logs` are the logs of."""
    return np.asarray(np.logaddexp.reduce(logs, axis=-1) - np.log(logs.shape[-1]))


def log_capital(differences: Array, supposed: float) -> Array:
    """Return the log capital after each block of a bet against d <= `supposed`; it falls as `supposed` rises."""
    return log_mean(np.cumsum(log_gains(differences, supposed), axis=0))


def lower_bound(differences: Array, alpha: float) -> float:
    """Return the largest m for which the current capital refutes d <= m at `alpha`; -1 if there is none."""
    if not len(differences):
        return -1.0
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        refuted = log_mean(log_gains(differences, middle).sum(axis=0)) >= np.log(1 / alpha)
        low, high = (middle, high) if refuted else (low, middle)
    return low


def interval(differences: Array, alpha: float) -> Point:
    """Return the last point of the confidence sequence; without differences, it is (0, 0, -1, 1)."""
    mean = float(differences.mean()) if len(differences) else 0.0
    return Point(len(differences), mean, lower_bound(differences, alpha / 2), -lower_bound(-differences, alpha / 2))


def confidence_sequence(differences: Array, alpha: float) -> tuple[Point, ...]:
    """Return at most 30 points of the two-sided sequence that covers d at all times with probability 1 - `alpha`."""
    if not len(differences):
        return ()
    ends = np.unique(np.linspace(1, len(differences), _POINTS).round().astype(int))
    return tuple(interval(differences[:end], alpha) for end in ends)


def first_crossing(differences: Array, supposed: float, alpha: float) -> int | None:
    """Return the number of blocks after which d <= `supposed` was refuted at `alpha`; None if it never was."""
    over = log_capital(differences, supposed) >= np.log(1 / alpha)
    return int(over.argmax()) + 1 if over.any() else None


def restarted(log_value: Array, gains: Array) -> Array:
    """Return the log of an e-detector's value after a day, from that before it and the day's log gains: max(value, 1) * gain.

    Source: Shin, Ramdas & Rinaldo 2024, the e-detector of CUSUM type.

    >>> restarted(np.log([0.5, 4.0]), np.log([3.0, 0.5])).round(3).tolist() == np.log([3.0, 2.0]).round(3).tolist()
    True
    """
    return np.asarray(np.maximum(log_value, 0.0) + gains)
