"""Run a suite on a pandas frame, outside the store and without its lock.

Effects: none but computing time; Great Expectations is used with an ephemeral context.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import pandas as pd

from alignment.errors import CheckFailed
from alignment.ids import content_id
from data_checks.suites import SUITES, Expectation

CHUNK_ROWS = 200_000
_RESULT_FORMAT = {"result_format": "COMPLETE", "return_unexpected_index_query": False}


class CheckReport(NamedTuple):
    """What a suite found: rows to quarantine (position -> expectation), and one result row per expectation and chunk."""

    rejected: dict[int, str]
    results: list[dict[str, Any]]

    @property
    def warnings(self) -> list[str]:
        """Batch-level expectations that failed without stopping."""
        return [describe(row) for row in self.results if row["severity"] == "warn" and not row["success"]]

    @property
    def stops(self) -> list[str]:
        """Batch-level expectations that failed and stop the flow, and row expectations that could not be computed."""
        return [
            describe(row)
            for row in self.results
            if not row["success"] and (row["severity"] == "stop" or (row["severity"] == "row" and not row["rows_failed"]))
        ]

    def raise_on_stop(self, what: str) -> None:
        """Raise `CheckFailed`, naming `what` was checked, if a batch-level expectation says stop."""
        if self.stops:
            raise CheckFailed(f"the data check {self.results[0]['suite']!r} stops {what}: {'; '.join(self.stops)}. Repair it and run again")


def describe(row: dict[str, Any]) -> str:
    """Return one failed expectation in words."""
    column = f" on {row['column_name']}" if row["column_name"] else ""
    return f"{row['expectation']}{column} failed for {row['rows_failed'] or 'the whole'} of {row['rows_checked']} rows"


@cache
def _context() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # It announces its temporary folder at level INFO, on a logger that it has set up itself.
    logging.getLogger(ProgressBarsConfig.__module__).setLevel(logging.WARNING)

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


@cache
def _batch_definition() -> Any:
    source = _context().data_sources.add_pandas("frames")
    return source.add_dataframe_asset("frame").add_batch_definition_whole_dataframe("whole")


def _columns(expectations: Sequence[Expectation]) -> list[str]:
    names: set[str] = set()
    for expectation in expectations:
        for key, value in expectation.arguments.items():
            if key in ("column", "column_A", "column_B"):
                names.add(value)
            elif key == "column_list":
                names.update(value)
    return sorted(names)


def columns(suite: str) -> list[str]:
    """Return the columns that the suite called `suite` reads."""
    return _columns(SUITES[suite])


def check(suite: str, frame: pd.DataFrame, *, batch: str, now: datetime) -> CheckReport:
    """Run the suite called `suite` on `frame`; positions in the report count from 0 over the whole frame.

    Of several failed row expectations a row is rejected for the first.

    Raises:
        KeyError: there is no such suite.
    """
    import great_expectations as gx

    expectations = SUITES[suite]
    rejected: dict[int, str] = {}
    results: list[dict[str, Any]] = []
    needed = frame[_columns(expectations)]
    for start in range(0, max(len(needed), 1), CHUNK_ROWS):
        chunk = needed.iloc[start : start + CHUNK_ROWS].reset_index(drop=True)
        loaded = _batch_definition().get_batch(batch_parameters={"dataframe": chunk})
        for expectation in expectations:
            outcome = loaded.validate(getattr(gx.expectations, expectation.kind)(**expectation.arguments), result_format=_RESULT_FORMAT)
            failed = outcome.result.get("unexpected_index_list") or []
            if expectation.severity == "row":
                for position in failed:
                    rejected.setdefault(start + int(position), f"check:{expectation.kind}:{expectation.arguments['column']}")
            results.append(_result(suite, batch, start, expectation, outcome, len(failed), len(chunk), now))
    return CheckReport(rejected, results)


def _result(
    suite: str, batch: str, start: int, expectation: Expectation, outcome: Any, failed: int, checked: int, now: datetime
) -> dict[str, Any]:
    exception = outcome.exception_info or {}
    return {
        "id": content_id(suite, batch, start, expectation.kind, expectation.arguments),
        "suite": suite,
        "batch": batch,
        "expectation": expectation.kind,
        "column_name": expectation.arguments.get("column"),
        # An expectation that could not be computed has not been met.
        "success": bool(outcome.success),
        "severity": expectation.severity,
        "rows_checked": checked,
        "rows_failed": failed,
        "detail": {"arguments": expectation.arguments, "error": str(exception)[:500] if not outcome.success else ""},
        "checked_at": now,
    }
