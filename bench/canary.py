"""The canary's monitor on replayed streams of exchanges, looked at again and again, beside a z-test that is repeated as often.

A stream draws for each exchange who serves it (the canary with probability `share`) and whether it fails. Each row of the result is one
truth: how many streams were rolled back, promoted or left undecided, and after how many exchanges in all.
"""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from alignment.release.canary import Rules, block_differences, first_crossing

ALPHA, MARGIN, HARM, SHARE = 0.05, 0.02, 0.0, 0.1
EVERY = 100


class Truth(NamedTuple):
    """What holds in the streams of one row; `swing` moves both rates up and down over a day of 5,000 exchanges."""

    name: str
    champion: float
    canary: float
    wrong: tuple[str, ...]
    swing: float = 0.0


TRUTHS = (
    Truth("same rates", 0.10, 0.10, ("roll back",)),
    Truth("same rates, low", 0.02, 0.02, ("roll back",)),
    Truth("same rates that swing", 0.10, 0.10, ("roll back",), 0.06),
    Truth("worse by the margin", 0.10, 0.12, ("promote",)),
    Truth("harmful: +5 points", 0.10, 0.15, ("promote",)),
    Truth("better: -5 points", 0.10, 0.05, ("roll back",)),
)


def stream(truth: Truth, exchanges: int, draw: np.random.Generator) -> tuple[Any, Any]:
    """Return who served each exchange (1 is the canary) and whether it failed."""
    canary = (draw.random(exchanges) < SHARE).astype(np.int64)
    day = truth.swing * np.sin(2 * np.pi * np.arange(exchanges) / 5000)
    rates = np.where(canary == 1, truth.canary, truth.champion) + day
    return canary, (draw.random(exchanges) < rates).astype(np.int64)


def monitored(canary: Any, failed: Any, rules: Rules) -> tuple[str, int]:
    """Return the monitor's decision and after how many exchanges it fell, if it is looked at after every block."""
    differences = block_differences(canary, failed, SHARE)
    worse = first_crossing(differences, rules.harm, rules.alpha / 2)
    fine = first_crossing(-differences, -rules.margin, rules.alpha / 2)
    fine = max(fine, rules.min_exchanges) if fine else None
    if fine is not None and fine > len(differences):
        fine = None
    if worse is None and fine is None:
        return "keep watching", len(canary)
    decision, block = ("roll back", worse) if worse is not None and (fine is None or worse <= fine) else ("promote", fine or 0)
    per = round((1 - SHARE) / SHARE)
    mine = np.flatnonzero(canary == 1)[block - 1]
    theirs = np.flatnonzero(canary == 0)[block * per - 1]
    return decision, int(max(mine, theirs)) + 1


def repeated_z_test(canary: Any, failed: Any, rules: Rules) -> str:
    """Return what a z-test at the same level decides that is repeated every 100 exchanges and stops at the first success."""
    ends = np.arange(EVERY, len(canary) + 1, EVERY) - 1
    mine, hits = np.cumsum(canary)[ends], np.cumsum(canary * failed)[ends]
    theirs, misses = ends + 1 - mine, np.cumsum((1 - canary) * failed)[ends]
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = hits / mine, misses / theirs
        error = np.sqrt(one * (1 - one) / mine + two * (1 - two) / theirs)
        worse = (one - two - rules.harm) / error > norm.ppf(1 - rules.alpha / 2)
        fine = ((one - two - rules.margin) / error < -norm.ppf(1 - rules.alpha / 2)) & (mine >= rules.min_exchanges)
    first = [int(hit.argmax()) if hit.any() else len(ends) for hit in (worse, fine)]
    return "keep watching" if min(first) == len(ends) else ("roll back", "promote")[int(first[1] < first[0])]


def run(streams: int, exchanges: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row a truth; `wrong` and `z_wrong` are the shares of streams with a wrong decision, `after` the median exchanges."""
    rules, rows = Rules(ALPHA, MARGIN, HARM, 200), []
    for place, truth in enumerate(TRUTHS):
        draw = np.random.default_rng([seed, place])
        found, naive = [], []
        for _ in range(streams):
            canary, failed = stream(truth, exchanges, draw)
            found.append(monitored(canary, failed, rules))
            naive.append(repeated_z_test(canary, failed, rules))
        decided = [after for decision, after in found if decision != "keep watching"]
        count = {name: sum(decision == name for decision, _ in found) for name in ("roll back", "promote", "keep watching")}
        rows.append(
            {
                "truth": truth.name,
                "rates": f"{truth.champion:.0%} -> {truth.canary:.0%}",
                "streams": streams,
                **{name.replace(" ", "_"): number for name, number in count.items()},
                "after": statistics.median(decided) if decided else None,
                "wrong": sum(count[name] for name in truth.wrong) / streams,
                "z_wrong": sum(naive.count(name) for name in truth.wrong) / streams,
            }
        )
    return rows
