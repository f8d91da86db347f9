"""The definition of good data, as expectations in code.

`row` expectations quarantine each failing row. `stop` and `warn` expectations judge the batch as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from alignment.sections import Train

Severity = Literal["row", "warn", "stop"]


class Expectation(NamedTuple):
    """One expectation: its Great Expectations class, its arguments, and the consequence of a failure.

    `constants` are single-valued columns to compare with; `words` describe the expectation where the class name says too little.
    """

    kind: str
    arguments: dict[str, Any]
    severity: Severity
    words: str = ""
    constants: Mapping[str, Any] = {}

    @property
    def column(self) -> str | None:
        """The column that it checks, if there is exactly one."""
        return self.arguments.get("column") or self.arguments.get("column_A")


def _row(kind: str, **arguments: Any) -> Expectation:
    return Expectation(kind, arguments, "row")


def _stop(kind: str, **arguments: Any) -> Expectation:
    return Expectation(kind, arguments, "stop")


def _warn(kind: str, **arguments: Any) -> Expectation:
    return Expectation(kind, arguments, "warn")


def _filled(*columns: str) -> tuple[Expectation, ...]:
    """Require values: all other expectations skip NULL and NaN."""
    return tuple(_stop("ExpectColumnValuesToNotBeNull", column=name) for name in columns)


EARLIEST = pd.Timestamp("2015-01-01")

INTERACTIONS = (
    _stop("ExpectTableRowCountToBeBetween", min_value=1),
    _row("ExpectColumnValuesToMatchRegex", column="id", regex="^[0-9a-f]{32}$"),
    _row("ExpectColumnValueLengthsToBeBetween", column="prompt", min_value=1, max_value=200_000),
    _row("ExpectColumnValueLengthsToBeBetween", column="response", min_value=1, max_value=200_000),
    # One operation compares two columns; ExpectColumnValuesToBeBetween calls Python for each row, which takes ten times as long.
    Expectation(
        "ExpectColumnPairValuesAToBeGreaterThanB",
        {"column_A": "created_at", "column_B": "earliest", "or_equal": True},
        "row",
        words=f"created_at is {EARLIEST:%Y-%m-%d} or later",
        constants={"earliest": EARLIEST},
    ),
    _row("ExpectColumnValuesToNotBeNull", column="consent"),
    _warn("ExpectColumnValueLengthsToBeBetween", column="user_id", min_value=1, mostly=0.5),
    _warn("ExpectColumnUniqueValueCountToBeBetween", column="response", min_value=2),
)

_SIDES, _SPLITS = ["harm", "helpful"], ["train", "eval"]

PAIRS = (
    _stop("ExpectTableRowCountToBeBetween", min_value=2),
    _stop("ExpectColumnValuesToBeUnique", column="id"),
    *_filled("chosen", "rejected", "side", "split", "judge_margin"),
    Expectation(
        "ExpectColumnPairValuesAToBeGreaterThanB",
        {"column_A": "differs", "column_B": "zero"},
        "stop",
        words="chosen and rejected differ",
    ),
    _stop("ExpectColumnValueLengthsToBeBetween", column="chosen", min_value=1),
    _stop("ExpectColumnValueLengthsToBeBetween", column="rejected", min_value=1),
    _stop("ExpectColumnDistinctValuesToBeInSet", column="side", value_set=_SIDES),
    _stop("ExpectColumnDistinctValuesToBeInSet", column="split", value_set=_SPLITS),
    _warn("ExpectColumnDistinctValuesToContainSet", column="side", value_set=_SIDES),
    _stop("ExpectColumnValuesToBeBetween", column="judge_margin", min_value=0, strict_min=True),
)

EVAL_ANSWERS = (
    _stop("ExpectTableRowCountToBeBetween", min_value=1),
    _stop("ExpectCompoundColumnsToBeUnique", column_list=["model_id", "suite", "prompt_id"]),
    _stop("ExpectColumnDistinctValuesToBeInSet", column="outcome", value_set=[0, 1]),
    # Doubtful responses have no outcome, and the gate counts them against the release; too many of them are no evidence.
    _stop("ExpectColumnValuesToNotBeNull", column="outcome", mostly=0.85),
)


def training(settings: Train) -> tuple[Expectation, ...]:
    """Return the requirements on a training process's input: pairs with consent, both answers, and a trainable length."""
    longest = settings.max_tokens
    otherwise = "stop the run" if settings.long_pairs == "stop" else "are left out"
    left_out = f"pairs fit [train] max_tokens = {longest} (longer ones {otherwise})"
    consent = Expectation("ExpectColumnValuesToBeInSet", {"column": "consent", "value_set": [True]}, "stop", "every pair has consent")
    differs = Expectation("ExpectColumnValuesToBeInSet", {"column": "differs", "value_set": [True]}, "stop", "chosen and rejected differ")
    taught = Expectation(
        "ExpectColumnValuesToBeInSet",
        {"column": "taught_differs", "value_set": [True], "mostly": 0.95},
        "warn",
        f"chosen and rejected differ within [train] max_completion_tokens = {settings.max_completion_tokens} in at least 95% of the pairs",
    )
    fits = {"column": "tokens", "max_value": longest}
    return (
        _stop("ExpectTableRowCountToBeBetween", min_value=1),
        _stop("ExpectColumnValuesToBeUnique", column="id"),
        consent,
        *_filled("consent", "prompt", "chosen", "rejected", "side", "split"),
        *(_stop("ExpectColumnValueLengthsToBeBetween", column=name, min_value=1) for name in ("prompt", "chosen", "rejected")),
        differs,
        _stop("ExpectColumnValuesToBeInSet", column="side", value_set=_SIDES),
        _stop("ExpectColumnValuesToBeInSet", column="split", value_set=_SPLITS),
        _stop("ExpectColumnDistinctValuesToContainSet", column="split", value_set=["train"]),
        _stop("ExpectColumnValuesToBeBetween", column="prompt_tokens", min_value=1),
        _stop("ExpectColumnValuesToBeBetween", column="shorter_answer_tokens", min_value=1),
        _stop("ExpectColumnValuesToBeBetween", column="longer_answer_tokens", max_value=settings.max_completion_tokens),
        Expectation("ExpectColumnValuesToBeBetween", {**fits, "mostly": 0.5}, "stop", f"at least 50% of the {left_out}"),
        Expectation("ExpectColumnValuesToBeBetween", {**fits, "mostly": 0.95}, "warn", f"at least 95% of the {left_out}"),
        taught,
        _warn("ExpectColumnDistinctValuesToContainSet", column="side", value_set=_SIDES),
    )


SUITES: dict[str, tuple[Expectation, ...]] = {
    "interactions": INTERACTIONS,
    "pairs": PAIRS,
    "eval_answers": EVAL_ANSWERS,
    "training": training(Train()),
}
