"""Run a suite on a pandas frame, outside the store and without its lock.

Effects: only computing time; Great Expectations uses an ephemeral context.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import pandas as pd

from alignment.errors import CheckFailed
from alignment.ids import content_id
from data_checks.suites import SUITES, Expectation
from data_checks.words import describe, rule

CHUNK_ROWS = 200_000
# Without id columns: with them, Great Expectations fetches each failing row, which is thirty times as slow.
_RESULT_FORMAT = {"result_format": "COMPLETE", "return_unexpected_index_query": False}


class CheckReport(NamedTuple):
    """The result of a suite: rows to quarantine (position -> expectation), and one result row per expectation and chunk."""

    rejected: dict[int, str]
    results: list[dict[str, Any]]

    @property
    def warnings(self) -> list[str]:
        """Batch-level expectations that failed without stopping."""
        return [describe(row) for row in self.results if row["severity"] == "warn" and not row["success"]]

    @property
    def stops(self) -> list[str]:
        """Batch-level expectations that failed and stop the flow, and row expectations that raised."""
        return [describe(row) for row in self._stopping()]

    def _stopping(self) -> list[dict[str, Any]]:
        return [
            row
            for row in self.results
            if not row["success"] and (row["severity"] == "stop" or (row["severity"] == "row" and not row["rows_failed"]))
        ]

    def raise_on_stop(self, what: str, *, remedy: str = "Repair it and run again") -> None:
        """Raise `CheckFailed`, naming `what` was checked, if a batch-level expectation stops the flow."""
        if stopping := self._stopping():
            raise CheckFailed(f"the data check {stopping[0]['suite']!r} stops {what}: {'; '.join(self.stops)}. {remedy}")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings that Great Expectations addresses to its own developers: it calls deprecated parts of its libraries."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield


@cache
def _context() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.execution_engine import pandas_execution_engine

    # Its fingerprint of every frame, which nothing here reads, takes as long as the checks.
    pandas_execution_engine.hash_pandas_dataframe = lambda _: ""
    # It logs its temporary folder at level INFO, on a logger that it has set up itself.
    logging.getLogger(ProgressBarsConfig.__module__).setLevel(logging.WARNING)

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


@cache
def _batch_definition() -> Any:
    source = _context().data_sources.add_pandas("frames")
    return source.add_dataframe_asset("frame").add_batch_definition_whole_dataframe("whole")


def _columns(expectations: Sequence[Expectation]) -> tuple[list[str], dict[str, Any]]:
    """Return the columns that a frame must have, and constant columns with their values."""
    names: set[str] = set()
    constants: dict[str, Any] = {}
    for expectation in expectations:
        constants |= expectation.constants
        for key, value in expectation.arguments.items():
            if key in ("column", "column_A", "column_B"):
                names.add(value)
            elif key == "column_list":
                names.update(value)
    return sorted(names - set(constants)), constants


def columns(suite: str) -> list[str]:
    """Return the columns that the suite called `suite` reads."""
    return _columns(SUITES[suite])[0]


def _validate(chunk: pd.DataFrame, expectations: Sequence[Expectation]) -> list[Any]:
    """Return the outcomes in the order of the expectations."""
    import great_expectations as gx
    from great_expectations.validator.v1_validator import Validator

    # Validate all at once, with the frame as a parameter: loading a batch and validating each expectation alone loads it nine times.
    numbered = [
        getattr(gx.expectations, expectation.kind)(**expectation.arguments, meta={"number": number})
        for number, expectation in enumerate(expectations)
    ]
    validator = Validator(_batch_definition(), batch_parameters={"dataframe": chunk}, result_format=_RESULT_FORMAT)
    validated = validator.validate_expectation_suite(gx.ExpectationSuite(name="suite", expectations=numbered))
    found = {outcome.expectation_config.meta["number"]: outcome for outcome in validated.results}
    return [found[number] for number in range(len(numbered))]


def check(suite: str, frame: pd.DataFrame, *, batch: str, now: datetime, expectations: Sequence[Expectation] | None = None) -> CheckReport:
    """Run the suite called `suite`, or `expectations` under its name, on `frame`; positions in the report refer to the whole frame.

    A row that fails several row expectations is rejected for the first.

    Raises:
        KeyError: there is no such suite.
    """
    wanted = SUITES[suite] if expectations is None else expectations
    rejected: dict[int, str] = {}
    results: list[dict[str, Any]] = []
    columns, constants = _columns(wanted)
    needed = frame[columns]
    with quiet():
        for start in range(0, max(len(needed), 1), CHUNK_ROWS):
            chunk = needed.iloc[start : start + CHUNK_ROWS].reset_index(drop=True).assign(**constants)
            for expectation, outcome in zip(wanted, _validate(chunk, wanted), strict=True):
                failed = outcome.result.get("unexpected_index_list") or []
                if expectation.severity == "row":
                    for position in failed:
                        rejected.setdefault(start + int(position), f"check:{expectation.kind}:{expectation.column}")
                results.append(_result(suite, batch, start, expectation, outcome, len(failed), len(chunk), now))
    return CheckReport(rejected, results)


def result_row(
    suite: str, batch: str, expectation: Expectation, *, now: datetime, success: bool, start: int = 0, checked: int = 0, failed: int = 0,
    **detail: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return a row of `check_results`; a later run on the same batch gets new ids, so that a repair shows."""
    arguments = expectation.arguments
    words = expectation.words or rule(expectation.kind, arguments)
    return {
        "id": content_id(suite, batch, start, expectation.kind, arguments, words, now),
        "suite": suite,
        "batch": batch,
        "expectation": expectation.kind,
        "column_name": expectation.column,
        "success": success,
        "severity": expectation.severity,
        "rows_checked": checked,
        "rows_failed": failed,
        "detail": {"arguments": arguments, "words": words, **detail},
        "checked_at": now,
    }


def _result(
    suite: str, batch: str, start: int, expectation: Expectation, outcome: Any, failed: int, checked: int, now: datetime
) -> dict[str, Any]:
    observed = outcome.result.get("observed_value")
    return result_row(
        suite,
        batch,
        expectation,
        now=now,
        # An expectation that raised has not been met.
        success=bool(outcome.success),
        start=start,
        checked=checked,
        failed=failed,
        error=_error(outcome.exception_info or {}),
        # Numbers only: other observed values and exception messages quote rows.
        observed=observed if isinstance(observed, int | float) and not isinstance(observed, bool) else None,
    )


def _error(info: dict[str, Any]) -> str:
    """Return the type of the exception that an expectation raised, without its message."""
    entries = [info] if "raised_exception" in info else [one for one in info.values() if isinstance(one, dict)]
    for entry in entries:
        if entry.get("raised_exception"):
            last = str(entry.get("exception_traceback") or "").strip().splitlines()[-1:] or [""]
            name = last[0].partition(":")[0].rpartition(".")[2]
            return name if name.isidentifier() else "an error"
    return ""
