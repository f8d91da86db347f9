"""Compare a batch with earlier batches: volume, missing values, keys and labels, as expectations with bounds from the history.

A *profile* is one row of `batch_profiles` as a mapping. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any, NamedTuple

import pandas as pd

from alignment.sections import Checks
from data_checks.run import CheckReport, check, result_row
from data_checks.suites import Expectation, Severity

Profile = Mapping[str, Any]

NULLS = {
    "no_user_id": "a user",
    "no_conversation_id": "a conversation",
    "no_model": "a model",
    "no_signals": "any signal",
}
NO_HISTORY, TOO_FEW = "no history yet", "too few rows to compare"
_KIND = "ExpectColumnValuesToBeBetween"


class HistoryComparison(NamedTuple):
    """An expectation on a profile; with a `note`, it is not computed because there is nothing to compare with."""

    expectation: Expectation
    note: str = ""


def judge(profile: Profile, earlier: Sequence[Profile], settings: Checks, *, now: datetime) -> CheckReport:
    """Compare a profile with earlier ones (newest first, of the same source and kind); a note says what cannot be compared."""
    compared = compare(profile, earlier, settings)
    added, removed = changed(profile, earlier, settings)
    values = {**profile, "added": len(added), "removed": len(removed)}
    suite, batch = f"{profile['kind']}_history", profile["id"]
    wanted = [one.expectation for one in compared if not one.note]
    found = check(suite, pd.DataFrame([values]), batch=batch, now=now, expectations=wanted).results if wanted else []
    # Great Expectations reports row counts; for this single row, its values matter.
    results = [{**row, "detail": {**row["detail"], "observed": values[row["column_name"]]}} for row in found]
    results += [result_row(suite, batch, one.expectation, now=now, success=True, note=one.note) for one in compared if one.note]
    return CheckReport({}, results)


def compare(profile: Profile, earlier: Sequence[Profile], settings: Checks) -> list[HistoryComparison]:
    """Return the expectations on a profile, given earlier ones."""
    if profile["kind"] == "pairs":
        return _labels(profile, earlier, settings, "smaller_side", "the smaller side's share of the pairs")
    return [
        *_volume(profile, earlier, settings),
        *_nulls(profile, earlier, settings),
        *_keys(profile, earlier, settings),
        *_labels(profile, earlier, settings, "flagged", f"{profile['source']}: the share flagged"),
    ]


def _expect(column: str, severity: Severity, words: str, **bounds: float) -> Expectation:
    return Expectation(_KIND, {"column": column, **bounds}, severity, words)


def comparable(profile: Profile, earlier: Sequence[Profile], settings: Checks) -> list[Profile]:
    """Return the runs that waited about as long for new lines as this one, of the same weekday if there are enough.

    A run minutes after another, or the first run over months of logs, does not represent a night.
    """
    hours = profile["hours"]
    if not hours:
        return []
    alike = [one for one in earlier if one["hours"] and 0.5 <= one["hours"] / hours <= 2]
    weekday = [one for one in alike if one["recorded_at"].weekday() == profile["recorded_at"].weekday()]
    return weekday if len(weekday) >= settings.min_history else alike


def _volume(profile: Profile, earlier: Sequence[Profile], settings: Checks) -> list[HistoryComparison]:
    if settings.volume_collapse == "off":
        return []
    alike = comparable(profile, earlier, settings)
    usual = median(one["total"] for one in alike) if alike else 0
    words = f"{profile['source']}: at least {settings.volume_floor:.0%} of the usual lines"
    note = NO_HISTORY if len(alike) < settings.min_history else TOO_FEW if usual < settings.min_rows else ""
    said = words if note else f"{words} ({usual:,.0f})"
    return [HistoryComparison(_expect("total", settings.volume_collapse, said, min_value=settings.volume_floor * usual), note)]


def _shares(profile: Profile, earlier: Sequence[Profile], settings: Checks, column: str) -> tuple[float, str]:
    """Return the usual share in `column`, and the reason if it cannot be compared."""
    known = [one[column] for one in earlier if one[column] is not None and one["stored"] >= settings.min_rows]
    if profile[column] is None or profile["stored"] < settings.min_rows:
        return 0.0, TOO_FEW
    return (median(known), "") if len(known) >= settings.min_history else (0.0, NO_HISTORY)


def _nulls(profile: Profile, earlier: Sequence[Profile], settings: Checks) -> list[HistoryComparison]:
    if settings.null_surge == "off":
        return []
    found = []
    for column, what in NULLS.items():
        usual, note = _shares(profile, earlier, settings, column)
        words = f"{profile['source']}: exchanges without {what} rise by at most {settings.null_rise:.0%} of all"
        said = words if note else f"{words} (usual {usual:.1%})"
        found.append(HistoryComparison(_expect(column, settings.null_surge, said, max_value=usual + settings.null_rise), note))
    return found


def changed(profile: Profile, earlier: Sequence[Profile], settings: Checks) -> tuple[list[str], list[str]]:
    """Return the keys missing from all of the last profiles, and the keys of all of them that this profile lacks."""
    last = [set(one["keys"]) for one in earlier if one["keys"]][: settings.min_history]
    if profile["keys"] is None or len(last) < settings.min_history:
        return [], []
    here = set(profile["keys"])
    return sorted(here - set.union(*last)), sorted(set.intersection(*last) - here)


def _keys(profile: Profile, earlier: Sequence[Profile], settings: Checks) -> list[HistoryComparison]:
    if settings.schema_change == "off" or profile["keys"] is None:
        return []
    note = NO_HISTORY if sum(bool(one["keys"]) for one in earlier) < settings.min_history else ""
    note = note or (TOO_FEW if profile["total"] < settings.min_rows else "")
    names = changed(profile, earlier, settings)
    found = []
    for column, what, which in zip(("added", "removed"), ("no new key", "no key gone"), names, strict=True):
        listed = f" (here: {', '.join(which[:10])})" if which and not note else ""
        found.append(HistoryComparison(_expect(column, settings.schema_change, f"{profile['source']}: {what}{listed}", max_value=0), note))
    return found


def _labels(profile: Profile, earlier: Sequence[Profile], settings: Checks, column: str, what: str) -> list[HistoryComparison]:
    if settings.label_imbalance == "off":
        return []
    usual, note = _shares(profile, earlier, settings, column)
    bounds = {"min_value": usual - settings.label_shift}
    if column == "flagged":
        bounds["max_value"] = usual + settings.label_shift
    moved = "moves" if column == "flagged" else "falls"
    words = f"{what} {moved} by at most {settings.label_shift:.0%}"
    said = words if note else f"{words} (usual {usual:.1%})"
    return [HistoryComparison(_expect(column, settings.label_imbalance, said, **bounds), note)]
