"""Describe expectations and their results in words, from rules and numbers only: row values never appear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)


def _range(arguments: Mapping[str, Any], unit: str = "") -> str:
    low, high = arguments.get("min_value"), arguments.get("max_value")
    unit = unit.removesuffix("s") if (low if high is None else high) == 1 else unit
    above = "more than" if arguments.get("strict_min") else "at least"
    if low is None:
        return f"at most {_number(high)}{unit}"
    return f"{above} {_number(low)}{unit}" if high is None else f"{_number(low)} to {_number(high)}{unit}"


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(map(str, arguments["value_set"]))


_RULES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "ExpectTableRowCountToBeBetween": lambda a: f"the batch has {_range(a, ' rows')}",
    "ExpectColumnValuesToMatchRegex": lambda a: f"{a['column']} matches {a['regex']}",
    "ExpectColumnValueLengthsToBeBetween": lambda a: f"{a['column']} has {_range(a, ' characters')}",
    "ExpectColumnValuesToBeBetween": lambda a: f"{a['column']} is {_range(a)}",
    "ExpectColumnValuesToNotBeNull": lambda a: f"{a['column']} is there",
    "ExpectColumnValuesToBeUnique": lambda a: f"{a['column']} does not repeat",
    "ExpectColumnUniqueValueCountToBeBetween": lambda a: f"{a['column']} has {_range(a, ' different values')}",
    "ExpectColumnValuesToBeInSet": lambda a: f"{a['column']} is one of: {_listed(a)}",
    "ExpectColumnDistinctValuesToBeInSet": lambda a: f"{a['column']} is one of: {_listed(a)}",
    "ExpectColumnDistinctValuesToContainSet": lambda a: f"{a['column']} has each of: {_listed(a)}",
    "ExpectColumnPairValuesAToBeGreaterThanB": lambda a: f"{a['column_A']} is greater than {a['column_B']}",
    "ExpectCompoundColumnsToBeUnique": lambda a: f"{', '.join(a['column_list'])} do not repeat together",
}


def rule(kind: str, arguments: Mapping[str, Any]) -> str:
    """Return what an expectation asks for.

    >>> rule("ExpectColumnValueLengthsToBeBetween", {"column": "prompt", "min_value": 1, "max_value": 2000})
    'prompt has 1 to 2,000 characters'
    >>> rule("ExpectColumnValuesToNotBeNull", {"column": "outcome", "mostly": 0.98})
    'outcome is there in at least 98% of the rows'
    """
    known = _RULES.get(kind)
    said = known(arguments) if known else f"{kind} holds"
    return f"{said} in at least {arguments['mostly']:.0%} of the rows" if "mostly" in arguments else said


def describe(row: Mapping[str, Any]) -> str:
    """Return one check result, its `detail` as a mapping, as a sentence without its full stop.

    >>> describe({"success": False, "rows_failed": 2, "rows_checked": 9, "detail": {"words": "id does not repeat"}})
    'id does not repeat: not so for 2 of 9 rows'
    """
    detail = row["detail"]
    said = str(detail.get("words") or rule(row["expectation"], detail.get("arguments") or {}))
    if detail.get("note"):
        return f"{said}: {detail['note']}"
    if row["success"]:
        return said
    if detail.get("error"):
        return f"{said}: could not be computed ({detail['error']})"
    if row["rows_failed"] and row["rows_checked"] > 1:
        return f"{said}: not so for {row['rows_failed']:,} of {row['rows_checked']:,} rows"
    observed = detail.get("observed")
    return f"{said}: not so" + (f", found {_number(observed)}" if observed is not None else "")
