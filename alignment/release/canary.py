"""Test whether a canary is worse than the champion, or proven no worse; the test may be evaluated after every exchange.

The unit is the user, because one person's exchanges succeed and fail together. A user counts once, in the time bin of their first
exchange and for the side that served it first; later bins do not count, since by then their outcome is known. Within a bin, users are
taken in order of arrival, and a block ends as soon as it holds a user of either side. So each block compares neighbours in time,
whatever the canary's real share, however it drifts, and however rates move over the day. A block gives D = mean of the canary's users -
mean of the champion's, in [-1, 1], with mean d, the difference of the rates. Users without a neighbour of the other side in their bin
are not compared.

If traffic is split by user, a user's value is the share of their exchanges that failed. If it is split by exchange, it is the outcome of
their first exchange, because both sides answered the later ones. Which split holds is inferred from earlier bins, and from sides alone.

The capital of a bet decides (`alignment.statistics.betting`): d is canary minus champion.

Source: Turner, Ly & Grünwald 2021 (arXiv:2106.02693), blocks of two streams; Johari, Koomen, Pekelis & Walsh 2022 (Operations Research
70(3)), A/B tests under continuous monitoring.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.statistics.betting import Array, Point, confidence_sequence, first_crossing

Whole = NDArray[np.int64]
Decision = Literal["promote", "roll back", "keep watching"]

_SURE_AFTER, _MOST_MOVED = 20, 0.1
"""Number of canary users with several exchanges that reveals the split, and the largest share of them the champion may serve too."""


class Rules(NamedTuple):
    """`alpha`: chance of a wrong decision, ever. A rise above `harm` rolls back, one proven below `margin` promotes."""

    alpha: float
    margin: float
    harm: float
    min_exchanges: int


class Traffic(NamedTuple):
    """Exchanges in order of arrival, each (N,): user, non-decreasing time bin, whether the canary answered, whether it failed (0/1)."""

    user: Whole
    bin: Whole
    canary: Whole
    failed: Whole


class Users(NamedTuple):
    """Users in the order of their first exchange, each (U,): its bin and side, and the user's value in 0..1."""

    bin: Whole
    canary: Whole
    value: Array


class Watch(NamedTuple):
    """The current result: exchanges of both sides and compared `blocks` of users; `curve` ends with the last block."""

    decision: Decision
    reason: str
    canary_exchanges: int
    canary_failures: int
    champion_exchanges: int
    champion_failures: int
    blocks: int
    curve: tuple[Point, ...]


def users_of(traffic: Traffic) -> Users:
    """Return each user once, with the outcome in the bin of their first exchange, on the side that served it.

    >>> users_of(Traffic(*map(np.array, ([7, 8, 7, 7], [0, 0, 0, 1], [1, 0, 1, 0], [1, 0, 0, 1]))))
    Users(bin=array([0, 0]), canary=array([1, 0]), value=array([1., 0.]))
    """
    _, first, who = np.unique(traffic.user, return_index=True, return_inverse=True)
    bins, side, number = traffic.bin[first], traffic.canary[first], len(first)
    then = traffic.bin == bins[who]
    here = then & (traffic.canary == side[who])
    share = np.bincount(who[here], traffic.failed[here], number) / np.maximum(np.bincount(who[here], minlength=number), 1)
    several = (side == 1) & (np.bincount(who[then], minlength=number) > 1)
    moved = several & (np.bincount(who[then & ~here], minlength=number) > 0)
    order = np.argsort(first)
    value = np.where(_split_by_user(bins[order], several[order], moved[order]), share[order], traffic.failed[first[order]])
    return Users(bins[order], side[order], value.astype(np.float64))


def _split_by_user(bins: Whole, several: NDArray[np.bool_], moved: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return for each user whether the earlier bins show that users stay on one side."""
    start = np.searchsorted(bins, bins)
    seen, lost = (np.concatenate([[0], np.cumsum(one)])[start] for one in (several, moved))
    return np.asarray((seen >= _SURE_AFTER) & (lost <= _MOST_MOVED * seen))


def block_differences(users: Users) -> Array:
    """Return D of each complete block, in [-1, 1], in order; users left over at a bin's end are in no block.

    >>> block_differences(Users(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1, 1, 0]), np.array([1.0, 0, 1, 0, 0])))
    array([0.5])
    """
    side, number = users.canary, len(users.canary)
    # For each user, the end of their run of one side, or of their bin.
    ends = np.append(np.flatnonzero((np.diff(side) != 0) | (np.diff(users.bin) != 0)) + 1, number)
    run_end = ends[np.searchsorted(ends, np.arange(number), side="right")] if number else ends
    bin_end = np.searchsorted(users.bin, users.bin, side="right")
    total = np.concatenate([[0.0], np.cumsum(users.value)])
    found, start = [], 0
    while start < number:
        last = int(run_end[start])
        if last == bin_end[start]:
            start = last
            continue
        run = (total[last] - total[start]) / (last - start)
        found.append(users.value[last] - run if side[last] else run - users.value[last])
        start = last + 1
    return np.clip(np.array(found, dtype=np.float64), -1, 1)


def watch(traffic: Traffic, rules: Rules) -> Watch:
    """Decide from all outcomes since the canary began. Each of the two wrong decisions gets half of `alpha`.

    If both rules apply (worse, but by less than the margin), it is rolled back. Without outcomes, it keeps watching.
    """
    users = users_of(traffic)
    differences = block_differences(users)
    curve = confidence_sequence(differences, rules.alpha)
    mine = traffic.canary == 1
    counts = int(mine.sum()), int(traffic.failed[mine].sum()), int((~mine).sum()), int(traffic.failed[~mine].sum())
    decision, reason = _decide(differences, _said(users, curve), counts[0], rules)
    return Watch(decision, reason, *counts, len(differences), curve)


def _said(users: Users, curve: tuple[Point, ...]) -> str:
    mine = int(users.canary.sum())
    people = f"{mine} users of the canary and {len(users.canary) - mine} of the champion"
    if not curve:
        return f"nothing to compare yet: no time bin has users of both sides ({people})" if len(users.canary) else "nothing to compare yet"
    last = curve[-1]
    interval = f"[{100 * last.low:+.1f}, {100 * last.high:+.1f}]"
    return f"failures changed by {100 * last.diff:+.1f} points {interval} over {last.blocks} comparisons of {people}"


def _decide(differences: Array, said: str, answered: int, rules: Rules) -> tuple[Decision, str]:
    if after := first_crossing(differences, rules.harm, rules.alpha / 2):
        return "roll back", f"more than {100 * rules.harm:.1f} points worse, proven after {after} comparisons: {said}"
    if after := first_crossing(-differences, -rules.margin, rules.alpha / 2):
        if answered >= rules.min_exchanges:
            return "promote", f"less than {100 * rules.margin:.1f} points worse, proven after {after} comparisons: {said}"
        return "keep watching", f"{answered} of at least {rules.min_exchanges} exchanges: {said}"
    return "keep watching", said
