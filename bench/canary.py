"""Measure the canary's monitor on replayed streams of exchanges, checked every hour, beside a z-test on exchanges checked as often.

A stream is eight days of users who come and go. Each user has their own failure rate, sends some exchanges within an hour or so, and is
served by one side, or by either side per exchange. Traffic and failure rates follow the day, and the canary's real share may differ from
the requested share, or drift. Each result row is one truth: how many streams were rolled back, promoted or left undecided, and after how
many exchanges in all.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from alignment.release.canary import Rules, Traffic, Users, block_differences, users_of
from alignment.statistics.betting import first_crossing

ALPHA, MARGIN, HARM, BASE = 0.05, 0.02, 0.0, 0.1
DAYS, SESSION, ALIKE = 8, 1 / 48, 0.3
"""Days per stream, mean length of a user's visit in days, and the correlation between one user's outcomes."""


class Truth(NamedTuple):
    """The truth about the streams of one row. `share` is the canary's real share on the first day and on the last.

    `by_exchange`: the side is drawn per exchange, not per user. `rise`: canary minus champion.
    """

    name: str
    rise: float
    wrong: tuple[str, ...]
    each: int = 1
    share: tuple[float, float] = (0.1, 0.1)
    by_exchange: bool = False
    first: float = 1.0


SAME, WORSE = ("roll back",), ("promote",)
_SHARES = (((0.05, 0.05), "5%"), ((0.1, 0.1), "10%"), ((0.5, 0.5), "50%"), ((0.05, 0.5), "5% to 50%"))
TRUTHS = (
    *(Truth(f"same, share {said}", 0.0, SAME, each, share) for each in (1, 5, 20) for share, said in _SHARES),
    *(Truth("same, split by exchange", 0.0, SAME, each, by_exchange=True) for each in (5, 20)),
    Truth("same, split by exchange, first answers fail thrice", 0.0, SAME, 5, (0.1, 0.1), True, 3.0),
    *(Truth(f"{100 * rise:+.0f} points", rise, WORSE, each) for each in (1, 5, 20) for rise in (MARGIN, 0.05, 0.1, 0.2)),
    Truth("+10 points, split by exchange", 0.1, WORSE, 5, by_exchange=True),
    *(Truth("-5 points", -0.05, SAME, each) for each in (1, 5, 20)),
)


def stream(truth: Truth, exchanges: int, draw: np.random.Generator) -> Traffic:
    """Return `exchanges` exchanges over `DAYS` days; a bin is an hour, and exchanges that do not fill a whole user are left out."""
    users = exchanges // truth.each
    came = _arrivals(users, draw)
    who = np.repeat(np.arange(users), truth.each)
    after = np.where(np.arange(len(who)) % truth.each == 0, 0.0, draw.exponential(SESSION, len(who)))
    when = came[who] + after
    order = np.lexsort((who, when))
    who, when, opening = who[order], when[order], (after == 0)[order]
    share = np.interp(when if truth.by_exchange else came, [0, DAYS], truth.share)
    canary = draw.random(len(share)) < share
    canary = canary if truth.by_exchange else canary[who]
    alpha = BASE * (1 - ALIKE) / ALIKE
    rate = draw.beta(alpha, alpha / BASE - alpha, users)[who]
    changed = rate + truth.rise * (1 - rate) / (1 - BASE) if truth.rise > 0 else rate * (1 + truth.rise / BASE)
    day = (1 + 0.6 * np.sin(2 * np.pi * when)) * np.where(opening, truth.first, 1.0)
    failed = draw.random(len(who)) < np.where(canary, changed, rate) * day
    return Traffic(who, (24 * when).astype(np.int64), canary.astype(np.int64), failed.astype(np.int64))


def _arrivals(users: int, draw: np.random.Generator) -> Any:
    """Return users' arrival times in days, in order: a ninth as many at night as by day."""
    grid = np.linspace(0, DAYS, 24 * DAYS * 4)
    busy = np.cumsum(1 + 0.8 * np.sin(2 * np.pi * grid + 1))
    return np.sort(np.interp(draw.random(users) * (busy[-1] - busy[0]) + busy[0], busy, grid))


def monitored(traffic: Traffic, rules: Rules) -> tuple[str, int]:
    """Return the monitor's decision and the number of exchanges it took, if checked at the end of each bin."""
    users = users_of(traffic)
    differences = block_differences(users)
    worse = first_crossing(differences, rules.harm, rules.alpha / 2) or len(differences) + 1
    fine = first_crossing(-differences, -rules.margin, rules.alpha / 2) or len(differences) + 1
    ends = np.searchsorted(traffic.bin, np.unique(traffic.bin), side="right")
    at = [_seen_after(users, traffic, ends, block) for block in (worse, fine)]
    enough = np.searchsorted(np.cumsum(traffic.canary), rules.min_exchanges) + 1
    at[1] = max(at[1], int(enough))
    if min(at) > len(traffic.user):
        return "keep watching", len(traffic.user)
    return ("roll back", at[0]) if at[0] <= at[1] else ("promote", at[1])


def _seen_after(users: Users, traffic: Traffic, ends: Any, block: int) -> int:
    """Return how many exchanges there were at the end of that block's bin; more than there are if it never came."""
    bins = np.unique(traffic.bin)

    def blocks_by(place: int) -> int:
        until = np.searchsorted(users.bin, bins[place], side="right")
        return len(block_differences(Users._make(column[:until] for column in users)))

    place = bisect_left(range(len(bins)), block, key=blocks_by) if blocks_by(len(bins) - 1) >= block else len(bins)
    return int(ends[place]) if place < len(bins) else len(traffic.user) + 1


def repeated_z_test(traffic: Traffic, rules: Rules) -> str:
    """Return the decision of a z-test on exchanges at the same level, repeated every hour until its first success."""
    ends = np.searchsorted(traffic.bin, np.unique(traffic.bin), side="right") - 1
    mine, hits = np.cumsum(traffic.canary)[ends], np.cumsum(traffic.canary * traffic.failed)[ends]
    theirs, misses = ends + 1 - mine, np.cumsum((1 - traffic.canary) * traffic.failed)[ends]
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = hits / mine, misses / theirs
        error = np.sqrt(one * (1 - one) / mine + two * (1 - two) / theirs)
        worse = (one - two - rules.harm) / error > norm.ppf(1 - rules.alpha / 2)
        fine = ((one - two - rules.margin) / error < -norm.ppf(1 - rules.alpha / 2)) & (mine >= rules.min_exchanges)
    # Wait for some exchanges: without failures on one side, the normal error means nothing.
    known = (hits >= 5) & (misses >= 5)
    first = [int((hit & known).argmax()) if (hit & known).any() else len(ends) for hit in (worse, fine)]
    return "keep watching" if min(first) == len(ends) else ("roll back", "promote")[int(first[1] < first[0])]


def run(streams: int, exchanges: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row per truth; `wrong` and `z_wrong` are the shares of streams with a wrong decision, `after` the median exchanges."""
    rules, rows = Rules(ALPHA, MARGIN, HARM, 200), []
    for place, truth in enumerate(TRUTHS):
        draw = np.random.default_rng([seed, place])
        replayed = [stream(truth, exchanges, draw) for _ in range(streams)]
        found = [monitored(one, rules) for one in replayed]
        naive = [repeated_z_test(one, rules) for one in replayed]
        decided = [after for decision, after in found if decision != "keep watching"]
        count = {name: sum(decision == name for decision, _ in found) for name in ("roll back", "promote", "keep watching")}
        rows.append(
            {
                "truth": truth.name,
                "exchanges_a_user": truth.each,
                "streams": streams,
                **{name.replace(" ", "_"): number for name, number in count.items()},
                "after": statistics.median(decided) if decided else None,
                "wrong": sum(count[name] for name in truth.wrong) / streams,
                "z_wrong": sum(naive.count(name) for name in truth.wrong) / streams,
            }
        )
    return rows
