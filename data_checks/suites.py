"""What good data looks like, as expectations in code.

`row` expectations name rows: each failing row is quarantined. `stop` and `warn` expectations judge the batch as a whole.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Severity = Literal["row", "warn", "stop"]


class Expectation(NamedTuple):
    """One expectation: the name of its Great Expectations class, its arguments, and what a failure does."""

    kind: str
    arguments: dict[str, Any]
    severity: Severity


def _row(kind: str, **arguments: Any) -> Expectation:
    return Expectation(kind, arguments, "row")


def _stop(kind: str, **arguments: Any) -> Expectation:
    return Expectation(kind, arguments, "stop")


def _warn(kind: str, **arguments: Any) -> Expectation:
    return Expectation(kind, arguments, "warn")


INTERACTIONS = (
    _stop("ExpectTableRowCountToBeBetween", min_value=1),
    _row("ExpectColumnValuesToMatchRegex", column="id", regex="^[0-9a-f]{32}$"),
    _row("ExpectColumnValueLengthsToBeBetween", column="prompt", min_value=1, max_value=200_000),
    _row("ExpectColumnValueLengthsToBeBetween", column="response", min_value=1, max_value=200_000),
    _row("ExpectColumnValuesToBeBetween", column="created_at", min_value="2015-01-01T00:00:00"),
    _row("ExpectColumnValuesToNotBeNull", column="consent"),
    _warn("ExpectColumnValueLengthsToBeBetween", column="user_id", min_value=1, mostly=0.5),
    _warn("ExpectColumnUniqueValueCountToBeBetween", column="response", min_value=2),
)

PAIRS = (
    _stop("ExpectTableRowCountToBeBetween", min_value=2),
    _stop("ExpectColumnValuesToBeUnique", column="id"),
    _stop("ExpectColumnPairValuesAToBeGreaterThanB", column_A="differs", column_B="zero"),
    _stop("ExpectColumnValueLengthsToBeBetween", column="chosen", min_value=1),
    _stop("ExpectColumnValueLengthsToBeBetween", column="rejected", min_value=1),
    _stop("ExpectColumnDistinctValuesToBeInSet", column="side", value_set=["harm", "helpful"]),
    _stop("ExpectColumnDistinctValuesToBeInSet", column="split", value_set=["train", "eval"]),
    _warn("ExpectColumnDistinctValuesToContainSet", column="side", value_set=["harm", "helpful"]),
    _stop("ExpectColumnValuesToBeBetween", column="judge_margin", min_value=0, strict_min=True),
)

EVAL_ANSWERS = (
    _stop("ExpectTableRowCountToBeBetween", min_value=1),
    _stop("ExpectCompoundColumnsToBeUnique", column_list=["model_id", "suite", "prompt_id"]),
    _stop("ExpectColumnDistinctValuesToBeInSet", column="outcome", value_set=[0, 1]),
    _stop("ExpectColumnValuesToNotBeNull", column="outcome", mostly=0.98),
)

SUITES: dict[str, tuple[Expectation, ...]] = {
    "interactions": INTERACTIONS,
    "pairs": PAIRS,
    "eval_answers": EVAL_ANSWERS,
}
