"""Format numbers and times for the pages. Pure; a missing or NaN value is written as a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from alignment.text import amount

MISSING = "–"


def _missing(*values: float | None) -> bool:
    return any(value is None or math.isnan(value) for value in values)


def count(value: float | None) -> str:
    """Write a whole number with thousands separated.

    >>> count(12345), count(None)
    ('12,345', '–')
    """
    return MISSING if value is None or math.isnan(value) else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """Write a rate in 0..1 as a percentage with one decimal.

    >>> percent(0.1234), percent(float("nan"))
    ('12.3%', '–')
    """
    return MISSING if value is None or math.isnan(value) else f"{value:.1%}"


def points(value: float | None) -> str:
    """Write a difference of rates in percentage points, with its sign.

    >>> points(-0.277), points(0.0)
    ('-27.7 points', '0.0 points')
    """
    if value is None or math.isnan(value):
        return MISSING
    rounded = round(value * 100, 1) or 0.0
    return f"{rounded:+.1f} points" if rounded else "0.0 points"


def interval(low: float | None, high: float | None) -> str:
    """Write the interval of a difference of rates, in percentage points.

    >>> interval(-0.341, -0.208), interval(None, 0.1)
    ('[-34.1, -20.8]', '–')
    """
    return MISSING if low is None or high is None or _missing(low, high) else f"[{100 * low:.1f}, {100 * high:.1f}]"


def value(metric: Mapping[str, Any], key: str) -> str:
    """Return a metric's level: a rate in percent, any other in its unit.

    >>> value({"unit": "nats", "champion": 2.1}, "champion"), value({"champion": None}, "champion")
    ('2.100 nats', '–')
    """
    return MISSING if _missing(metric[key]) else amount(metric[key], metric.get("unit", "rate"))


def change(metric: Mapping[str, Any], key: str) -> str:
    """Return a metric's difference in points, or in its unit."""
    unit = metric.get("unit", "rate")
    return points(metric[key]) if unit == "rate" or _missing(metric[key]) else amount(metric[key], unit, "+")


def nats(metric: Mapping[str, Any]) -> str:
    """Return the interval of a metric that is not a rate."""
    return f"[{metric['low']:+.3f}, {metric['high']:+.3f}]"


def p_value(value: float | None) -> str:
    """Write a p-value; small ones as `< 0.001`.

    >>> p_value(0.00004), p_value(0.0312)
    ('< 0.001', '0.031')
    """
    if value is None or math.isnan(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plain(value: float | None) -> str:
    """Write a number of unknown unit with three significant digits, whole numbers in full.

    >>> plain(0.01234), plain(48213.0), plain(118.4)
    ('0.0123', '48,213', '118')
    """
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Write a duration in the two largest units that matter.

    >>> duration(0.42), duration(75), duration(7260)
    ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds is None or math.isnan(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(at: datetime | None) -> str:
    """Write a UTC time to the minute.

    >>> moment(datetime(2026, 11, 23, 2, 14))
    '2026-11-23 02:14 UTC'
    """
    return MISSING if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def day(at: datetime | None) -> str:
    """Write the day of a UTC time.

    >>> day(datetime(2026, 11, 23, 2, 14))
    '23 Nov'
    """
    return MISSING if at is None else f"{at.day} {at:%b}"
