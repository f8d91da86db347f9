"""Drift that is there is found, and a quiet week raises no alarm more often than promised."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alignment.drift import Drift, compare, windows
from alignment.drift.compare import NUMBERS, RATES, _holm
from alignment.sections import Drift as Settings
from tests.conftest import NOW

SETTINGS = Settings()
WINDOWS = windows(NOW, SETTINGS)
P = dict(zip(RATES, (0.14, 0.08, 0.05, 0.03, 0.1), strict=True))
CATEGORIES = ["violence", "hate", "fraud", "weapons"]


def week(rng: np.random.Generator, rows: int, *, old: bool, **changes: Any) -> pd.DataFrame:
    """Return exchanges spread over one window."""
    start, end = (WINDOWS.start, WINDOWS.middle) if old else (WINDOWS.middle, WINDOWS.end)
    span = (end - start) / rows
    frame = {"created_at": [start + span * number for number in range(rows)]}
    frame |= {name: rng.binomial(1, changes.get(name, rate), rows) for name, rate in P.items()}
    frame |= {name: np.exp(rng.normal(changes.get(name, 4), 1, rows)).astype(int) for name in NUMBERS}
    weights = changes.get("category", [0.25] * 4)
    frame["category"] = np.where(frame["harmful_request"] == 1, rng.choice(CATEGORIES, rows, p=weights), None)
    return pd.DataFrame(frame)


def two_weeks(seed: int, old: int = 600, new: int = 300, **changes: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.concat([week(rng, old, old=True), week(rng, new, old=False, **changes)], ignore_index=True)


def alarms(frame: pd.DataFrame, gate: Settings = SETTINGS) -> set[str]:
    return {one.metric for one in compare(frame, WINDOWS, gate) if one.alarm}


def by_name(frame: pd.DataFrame) -> dict[str, Drift]:
    return {one.metric: one for one in compare(frame, WINDOWS, SETTINGS)}


def test_windows_touch_and_hold_the_newest() -> None:
    assert WINDOWS.start < WINDOWS.middle < WINDOWS.end
    assert WINDOWS.middle <= NOW < WINDOWS.end
    assert WINDOWS.end - WINDOWS.middle == timedelta(days=7)
    assert WINDOWS.middle - WINDOWS.start == timedelta(days=14)


def test_a_row_counts_in_one_window_only() -> None:
    frame = pd.DataFrame({"created_at": list(WINDOWS), "refusal": [0, 1, 1]})
    [one] = compare(frame, WINDOWS, SETTINGS)
    assert (one.baseline_n, one.current_n, one.baseline, one.current) == (1, 1, 0.0, 1.0)


def test_without_drift_alarms_stay_below_alpha() -> None:
    """200 quiet fortnights: 5% may alarm; 3.2 standard errors above that are 20 of 200."""
    wrong = sum(bool(alarms(two_weeks(seed, 300, 150))) for seed in range(200))
    assert wrong <= 20


def test_without_drift_the_tests_alone_stay_below_alpha() -> None:
    """The same without the demand for a visible effect, so that Holm's correction is what is tested."""
    wrong = 0
    for seed in range(200):
        found = compare(two_weeks(1000 + seed, 200, 200), WINDOWS, SETTINGS)
        wrong += min(one.adjusted_p for one in found if one.adjusted_p is not None) <= SETTINGS.alpha
    assert wrong <= 20


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        ({"refusal": 0.25}, "refusal"),
        ({"harmful_request": 0.35}, "harmful_request"),
        ({"complained": 0.0}, "complained"),
        ({"response_length": 5}, "response_length"),
        ({"category": [0.7, 0.1, 0.1, 0.1]}, "harm_categories"),
    ],
)
def test_a_planted_shift_is_found_and_nothing_else(change: dict[str, Any], metric: str) -> None:
    assert alarms(two_weeks(3, 2000, 1000, **change)) == {metric}


def test_a_difference_too_small_to_matter_is_no_alarm() -> None:
    """With enough traffic every difference is significant: 1 point of refusals over 60,000 rows."""
    frame = two_weeks(4, 40_000, 40_000, refusal=0.091)
    one = by_name(frame)["refusal"]
    assert one.adjusted_p is not None
    assert one.adjusted_p < 0.01
    assert not one.alarm


def test_small_windows_are_described_not_tested() -> None:
    found = by_name(two_weeks(5, 600, 49, refusal=1.0))
    assert found["refusal"].current == 1.0
    assert {one.adjusted_p for one in found.values()} == {None}
    assert not any(one.alarm for one in found.values())


def test_an_empty_window_and_an_empty_frame() -> None:
    frame = two_weeks(6)
    assert compare(frame[frame.created_at < WINDOWS.middle], WINDOWS, SETTINGS) == []
    assert compare(frame.iloc[:0], WINDOWS, SETTINGS) == []


def test_missing_columns_are_skipped() -> None:
    assert set(by_name(two_weeks(7)[["created_at", "refusal", "prompt_length"]])) == {"refusal", "prompt_length"}


def test_what_was_not_judged_is_neither_flagged_nor_clean() -> None:
    frame = two_weeks(8)
    frame["refusal"] = frame["refusal"].astype(float)
    frame.loc[frame.created_at >= WINDOWS.middle, "refusal"] = [np.nan] * 200 + [1.0] * 60 + [0.0] * 40
    one = by_name(frame)["refusal"]
    assert (one.current, one.current_n) == (0.6, 100)
    assert one.alarm


def test_a_constant_column_is_no_drift() -> None:
    frame = two_weeks(9).assign(refusal=0, toxicity=1, response_length=10)
    found = by_name(frame)
    assert [found[name].p_value for name in ("refusal", "toxicity", "response_length")] == [1.0, 1.0, 1.0]
    assert [found[name].effect for name in ("refusal", "toxicity", "response_length")] == [0.0, 0.0, 0.0]


def test_the_numbers_are_those_of_scipy() -> None:
    frame = two_weeks(10, refusal=0.2)
    old, new = frame[frame.created_at < WINDOWS.middle], frame[frame.created_at >= WINDOWS.middle]
    found = by_name(frame)
    table = pd.crosstab(frame.created_at >= WINDOWS.middle, frame.refusal).to_numpy()
    assert found["refusal"].p_value == pytest.approx(stats.fisher_exact(table).pvalue)
    assert found["refusal"].effect == pytest.approx(new.refusal.mean() - old.refusal.mean())
    # The share of pairs in which the current value is the larger, minus the share in which it is the smaller.
    a, b = new.prompt_length.to_numpy()[:, None], old.prompt_length.to_numpy()[None, :]
    assert found["prompt_length"].effect == pytest.approx((a > b).mean() - (a < b).mean())


def test_the_effect_of_categories_by_hand() -> None:
    """Half violence and half hate before, all violence now: half of the requests changed their kind."""
    frame = two_weeks(11)
    frame["category"] = np.where(frame.created_at < WINDOWS.middle, np.where(frame.index % 2, "violence", "hate"), "violence")
    assert by_name(frame)["harm_categories"].effect == pytest.approx(0.5)


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_by_its_definition(values: list[float]) -> None:
    """Holm 1979: reject the smallest p-values as long as p(k) <= alpha / (m - k + 1)."""
    found = _holm([Drift(str(i), "t", 0, 0, 1.0, p, None, True, 99, 99) for i, p in enumerate(values)], SETTINGS)
    rejected = set()
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        if values[index] > SETTINGS.alpha / (len(values) - rank):
            break
        rejected.add(str(index))
    assert {one.metric for one in found if one.alarm} == rejected
    assert all(one.adjusted_p is not None and one.adjusted_p >= p for one, p in zip(found, values, strict=True))
