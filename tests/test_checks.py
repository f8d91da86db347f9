"""The data checks name bad rows, stop bad batches, and never pass what they could not compute."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import data_checks.run as run
from alignment.errors import CheckFailed
from data_checks import SUITES, check
from tests.conftest import NOW


def exchanges(rows: int = 4, **columns: Any) -> pd.DataFrame:
    values: dict[str, Any] = {
        "id": [f"{number:064x}" for number in range(rows)],
        "prompt": ["What is the time?"] * rows,
        "response": [f"answer {number}" for number in range(rows)],
        "created_at": pd.to_datetime(["2026-11-01"] * rows),
        "consent": [True] * rows,
        "user_id": ["u"] * rows,
    }
    return pd.DataFrame(values | columns)


def pairs(rows: int = 4, **columns: Any) -> pd.DataFrame:
    values: dict[str, Any] = {
        "id": [str(number) for number in range(rows)],
        "chosen": ["good"] * rows,
        "rejected": ["bad"] * rows,
        "side": ["harm", "helpful"] * (rows // 2),
        "split": ["train"] * rows,
        "judge_margin": [0.5] * rows,
        "differs": [1] * rows,
        "zero": 0,
    }
    return pd.DataFrame(values | columns)


def answers(rows: int = 100, **columns: Any) -> pd.DataFrame:
    values: dict[str, Any] = {
        "model_id": ["m"] * rows,
        "suite": ["harm"] * rows,
        "prompt_id": [str(number) for number in range(rows)],
        "outcome": [0, 1] * (rows // 2),
    }
    return pd.DataFrame(values | columns)


@pytest.mark.parametrize(("suite", "frame"), [("interactions", exchanges()), ("pairs", pairs()), ("eval_answers", answers())])
def test_good_data_passes(suite: str, frame: pd.DataFrame) -> None:
    report = check(suite, frame, batch="b", now=NOW)
    assert (report.rejected, report.stops, report.warnings) == ({}, [], [])
    report.raise_on_stop("a test")
    assert len(report.results) == len(SUITES[suite])
    assert all(row["success"] for row in report.results)
    assert {row["rows_checked"] for row in report.results} == {len(frame)}


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        ("id", "short"),
        ("id", "G" * 64),
        ("prompt", ""),
        ("prompt", "x" * 200_001),
        ("response", ""),
        ("created_at", pd.Timestamp("2014-12-31")),
        ("consent", None),
    ],
)
def test_a_bad_row_is_named(column: str, bad: object) -> None:
    frame = exchanges()
    frame[column] = [*frame[column][:2], bad, frame[column][3]]
    report = check("interactions", frame, batch="b", now=NOW)
    assert list(report.rejected) == [2]
    assert report.rejected[2].endswith(f":{column}")
    assert report.stops == []


@pytest.mark.parametrize(
    ("suite", "frame"),
    [
        ("interactions", exchanges(0)),
        ("pairs", pairs(0)),
        ("pairs", pairs(id=["0", "0", "1", "2"])),
        ("pairs", pairs(differs=[1, 1, 0, 1])),
        ("pairs", pairs(chosen=["good", "", "good", "good"])),
        ("pairs", pairs(rejected=["", "bad", "bad", "bad"])),
        ("pairs", pairs(side=["harm", "helpful", "both", "harm"])),
        ("pairs", pairs(split=["train", "train", "test", "eval"])),
        ("pairs", pairs(judge_margin=[0.5, 0.0, 0.5, 0.5])),
        ("eval_answers", answers(0)),
        ("eval_answers", answers(prompt_id=["0", "0", *map(str, range(2, 100))])),
        ("eval_answers", answers(outcome=[2, *[0] * 99])),
        ("eval_answers", answers(outcome=[None] * 3 + [0] * 97)),
    ],
)
def test_a_bad_batch_stops(suite: str, frame: pd.DataFrame) -> None:
    report = check(suite, frame, batch="b", now=NOW)
    assert report.stops
    with pytest.raises(CheckFailed, match=f"{suite}.* stops a test: .*Repair it and run again"):
        report.raise_on_stop("a test")


def test_a_few_unscored_answers_are_allowed() -> None:
    assert check("eval_answers", answers(outcome=[None] * 2 + [0] * 98), batch="b", now=NOW).stops == []


def test_warnings_do_not_stop() -> None:
    report = check("interactions", exchanges(response=["the same"] * 4), batch="b", now=NOW)
    assert len(report.warnings) == 1
    assert "response" in report.warnings[0]
    report.raise_on_stop("a test")
    assert check("pairs", pairs(side=["harm"] * 4), batch="b", now=NOW).warnings


def test_what_cannot_be_computed_stops() -> None:
    """A row check that raised names no rows; that must not read as a clean batch."""
    report = check("interactions", exchanges(created_at=["yesterday", "x", "y", "z"]), batch="b", now=NOW)
    assert any("created_at" in line for line in report.stops)


def test_positions_count_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CHUNK_ROWS", 3)
    frame = exchanges(8)
    frame.loc[[1, 4, 7], "prompt"] = ""
    report = check("interactions", frame, batch="b", now=NOW)
    assert sorted(report.rejected) == [1, 4, 7]
    ids = [row["id"] for row in report.results]
    assert len(ids) == len(set(ids)) == 3 * len(SUITES["interactions"])


def test_results_have_the_same_ids_on_a_rerun() -> None:
    first, second = (check("pairs", pairs(), batch="b", now=NOW) for _ in range(2))
    assert [row["id"] for row in first.results] == [row["id"] for row in second.results]
    other = check("pairs", pairs(), batch="c", now=NOW)
    assert {row["id"] for row in first.results}.isdisjoint(row["id"] for row in other.results)
