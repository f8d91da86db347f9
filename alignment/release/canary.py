"""Is a canary worse than the champion, or proven no worse? A test that may be looked at after every exchange.

Outcomes (1 is a failure) are taken in blocks of one of the canary's and k of the champion's that came in at the same time, so that a rate
that moves with the hour moves on both sides. A block gives D = canary's outcome - mean of the champion's, in [-1, 1], with mean d, the
difference of the rates. For a supposed d <= m one bets on D being larger: the capital prod(1 + b (D - m) / (1 + m)), 0 < b < 1, is a
supermartingale, and so is its mean over several b. By Ville's inequality it ever reaches 1/a with probability a at most, whenever one looks
and whenever one stops. All m for which it has not make a confidence sequence.

Source: Waudby-Smith & Ramdas 2020 (arXiv:2010.09686), betting; Howard, Ramdas, McAuliffe & Sekhon 2021 (arXiv:1810.08240), mixtures over
time-uniform bounds; Johari, Koomen, Pekelis & Walsh 2022 (Operations Research 70(3)), A/B tests that are looked at all the time. Own code
because the package `confseq` has no wheel.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Decision = Literal["promote", "roll back", "keep watching"]

_BETS = np.geomspace(0.01, 0.95, 24)
_MOST_CHAMPIONS, _POINTS, _HALVINGS = 20, 30, 16


class Rules(NamedTuple):
    """`alpha`: chance of a wrong decision, ever. A rise above `harm` rolls back, one proven below `margin` promotes."""

    alpha: float
    margin: float
    harm: float
    min_exchanges: int


class Point(NamedTuple):
    """The confidence sequence after so many of the canary's exchanges; canary minus champion, -1..1."""

    exchanges: int
    diff: float
    low: float
    high: float


class Watch(NamedTuple):
    """What the outcomes say by now. `blocks` of those were compared; `curve` ends with the last."""

    decision: Decision
    reason: str
    canary_exchanges: int
    canary_failures: int
    champion_exchanges: int
    champion_failures: int
    blocks: int
    curve: tuple[Point, ...]


def champions_per_canary(share: float) -> int:
    """Return k, how many of the champion's outcomes make a block with one of the canary's.

    >>> champions_per_canary(0.1), champions_per_canary(0.5), champions_per_canary(0.01)
    (9, 1, 20)
    """
    return int(min(max(np.floor((1 - share) / share + 1e-9), 1), _MOST_CHAMPIONS))


def block_differences(canary: NDArray[np.int64], failed: NDArray[np.int64], share: float) -> Array:
    """Return D of each whole block, in [-1, 1]; `canary` and `failed` are 0/1 for each exchange in the order they came.

    >>> block_differences(np.array([1, 0, 0, 1]), np.array([1, 1, 0, 1]), 0.5)
    array([0., 1.])
    """
    per = champions_per_canary(share)
    mine, theirs = failed[canary == 1], failed[canary == 0]
    blocks = min(len(mine), len(theirs) // per)
    return np.asarray(mine[:blocks] - theirs[: blocks * per].reshape(blocks, per).mean(axis=1), dtype=np.float64)


def log_capital(differences: Array, supposed: float) -> Array:
    """Return the log capital after each block of who bets against d <= `supposed` (-1 < supposed < 1); it falls as `supposed` rises.

    For d >= m: `log_capital(-differences, -m)`.
    """
    gains = np.log1p(np.outer((differences - supposed) / (1 + supposed), _BETS))
    return np.asarray(np.logaddexp.reduce(np.cumsum(gains, axis=0), axis=1) - np.log(len(_BETS)))


def lower_bound(differences: Array, alpha: float) -> float:
    """Return the largest m for which d <= m is refuted at `alpha` by the capital of now; -1 if there is none."""
    if not len(differences):
        return -1.0
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        gains = np.log1p(np.outer((differences - middle) / (1 + middle), _BETS)).sum(axis=0)
        refuted = np.logaddexp.reduce(gains) - np.log(len(_BETS)) >= np.log(1 / alpha)
        low, high = (middle, high) if refuted else (low, middle)
    return low


def confidence_sequence(differences: Array, alpha: float) -> tuple[Point, ...]:
    """Return at most 30 points of the two-sided sequence that covers d at all times together with probability 1 - `alpha`."""
    if not len(differences):
        return ()
    ends = np.unique(np.linspace(1, len(differences), _POINTS).round().astype(int))
    return tuple(
        Point(
            int(end),
            float(differences[:end].mean()),
            lower_bound(differences[:end], alpha / 2),
            -lower_bound(-differences[:end], alpha / 2),
        )
        for end in ends
    )


def first_crossing(differences: Array, supposed: float, alpha: float) -> int | None:
    """Return after how many blocks d <= `supposed` was refuted at `alpha`; None if it never was."""
    over = log_capital(differences, supposed) >= np.log(1 / alpha)
    return int(over.argmax()) + 1 if over.any() else None


def watch(canary: NDArray[np.int64], failed: NDArray[np.int64], share: float, rules: Rules) -> Watch:
    """Decide on all outcomes since the canary began. Each of the two wrong decisions has half of `alpha`.

    What speaks for both (worse, but by less than the margin) is rolled back. No outcomes: keep watching.
    """
    differences = block_differences(canary, failed, share)
    curve = confidence_sequence(differences, rules.alpha)
    decision, reason = _decide(differences, curve, rules)
    mine = canary == 1
    return Watch(
        decision, reason, int(mine.sum()), int(failed[mine].sum()), int((~mine).sum()), int(failed[~mine].sum()), len(differences), curve
    )


def _decide(differences: Array, curve: tuple[Point, ...], rules: Rules) -> tuple[Decision, str]:
    said = "nothing to compare yet"
    if curve:
        last = curve[-1]
        interval = f"[{100 * last.low:+.1f}, {100 * last.high:+.1f}]"
        said = f"failures changed by {100 * last.diff:+.1f} points {interval} over {last.exchanges} blocks"
    if after := first_crossing(differences, rules.harm, rules.alpha / 2):
        return "roll back", f"more than {100 * rules.harm:.1f} points worse, proven after {after} exchanges of the canary: {said}"
    if after := first_crossing(-differences, -rules.margin, rules.alpha / 2):
        if len(differences) >= rules.min_exchanges:
            return "promote", f"less than {100 * rules.margin:.1f} points worse, proven after {after} exchanges of the canary: {said}"
        return "keep watching", f"{len(differences)} of at least {rules.min_exchanges} exchanges: {said}"
    return "keep watching", said
