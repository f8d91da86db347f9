"""Compare the last days with the days before, with one test per metric and one false-alarm rate for the whole report.

Holm's correction keeps the probability of any alarm in a report without drift at most `alpha`. An alarm also needs a visible
effect, because with enough traffic every difference is significant. Pure functions on pandas frames.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from alignment.sections import Drift as Settings

RATES = ("harmful_request", "refusal", "toxicity", "pii", "complained")
NUMBERS = ("prompt_length", "response_length")
MIN_RATE_CHANGE, MIN_RANK_CHANGE, MIN_SHARE_CHANGE = 0.02, 0.1, 0.1


class Windows(NamedTuple):
    """Half-open windows: baseline [start, middle), current [middle, end)."""

    start: datetime
    middle: datetime
    end: datetime


class Drift(NamedTuple):
    """One metric: its values in both windows, the effect, and whether it is an alarm. `adjusted_p` is None if it was not compared."""

    metric: str
    test: str
    baseline: float
    current: float
    effect: float
    p_value: float | None
    adjusted_p: float | None
    alarm: bool
    baseline_n: int
    current_n: int


def windows(newest: datetime, settings: Settings) -> Windows:
    """Return the windows that end just after the newest exchange."""
    end = newest + timedelta(microseconds=1)
    middle = end - timedelta(days=settings.window_days)
    return Windows(middle - timedelta(days=settings.baseline_days), middle, end)


def compare(frame: pd.DataFrame, where: Windows, settings: Settings) -> list[Drift]:
    """Return one result per metric.

    `frame` has `created_at`, the 0/1 columns of RATES, the numbers of NUMBERS and `category` (the kind of harm asked for, or
    null). A column that a source lacks is skipped; a window under `min_rows` is described but not tested.
    """
    old = frame[(frame.created_at >= where.start) & (frame.created_at < where.middle)]
    new = frame[(frame.created_at >= where.middle) & (frame.created_at < where.end)]
    # An exchange that no detector has looked at is neither flagged nor clean.
    found = [_rate(name, old[name].dropna(), new[name].dropna()) for name in RATES if name in frame]
    found += [_number(name, old[name].dropna(), new[name].dropna()) for name in NUMBERS if name in frame]
    if "category" in frame:
        found.append(_categories(old["category"].dropna(), new["category"].dropna()))
    return _holm([one for one in found if one is not None], settings)


def _rate(name: str, old: pd.Series, new: pd.Series) -> Drift | None:
    if not len(old) or not len(new):
        return None
    table = [[int(old.sum()), len(old) - int(old.sum())], [int(new.sum()), len(new) - int(new.sum())]]
    p = float(stats.fisher_exact(table).pvalue)
    effect = float(new.mean() - old.mean())
    return Drift(
        name,
        "Fisher exact",
        float(old.mean()),
        float(new.mean()),
        effect,
        p,
        None,
        abs(effect) >= MIN_RATE_CHANGE,
        len(old),
        len(new),
    )


def _number(name: str, old: pd.Series, new: pd.Series) -> Drift | None:
    if not len(old) or not len(new):
        return None
    outcome = stats.mannwhitneyu(new, old)
    # Rank-biserial correlation in -1..1: how much likelier the current value is the larger of the two. Source: Kerby 2014.
    effect = float(2 * outcome.statistic / (len(old) * len(new)) - 1)
    return Drift(
        name, "Mann-Whitney U", float(old.median()), float(new.median()), effect, float(outcome.pvalue), None,
        abs(effect) >= MIN_RANK_CHANGE, len(old), len(new),
    )  # fmt: skip


def _categories(old: pd.Series, new: pd.Series) -> Drift | None:
    if not len(old) or not len(new):
        return None
    table = pd.DataFrame({"old": old.value_counts(), "new": new.value_counts()}).fillna(0)
    if len(table) < 2:
        return None
    p = float(stats.chi2_contingency(table.to_numpy()).pvalue)
    shares = table / table.sum()
    # Total variation distance in 0..1: the share of requests that would have to change category.
    effect = float(np.abs(shares["new"] - shares["old"]).sum() / 2)
    return Drift("harm_categories", "chi-squared", 0.0, effect, effect, p, None, effect >= MIN_SHARE_CHANGE, len(old), len(new))


def _holm(found: list[Drift], settings: Settings) -> list[Drift]:
    """Adjust p-values over the compared metrics. Source: Holm 1979."""
    tested = [i for i, one in enumerate(found) if min(one.baseline_n, one.current_n) >= settings.min_rows]
    order = sorted(tested, key=lambda i: found[i].p_value or 0.0)
    adjusted: dict[int, float] = {}
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min((found[index].p_value or 0.0) * (len(order) - rank), 1.0))
        adjusted[index] = running
    return [
        one._replace(adjusted_p=adjusted.get(i), alarm=one.alarm and adjusted.get(i, 1.0) <= settings.alpha) for i, one in enumerate(found)
    ]
