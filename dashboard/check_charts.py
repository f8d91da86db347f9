"""The charts of the Checks page, as pure functions from rows to Vega-Lite specifications; times are UTC."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import altair as alt

from dashboard import formats
from dashboard.charts import COLOURS, RED, TEAL, Row, Spec, bar_width, styled

_DAYS = alt.X("day:O", title=None, axis=alt.Axis(labelAngle=0, labelOverlap="greedy", labelSeparation=12, grid=False))
_LINES = alt.Axis(title="lines", tickCount=4, format="~s")


def deliveries(rows: Sequence[Row]) -> Spec:
    """Draw the lines read per day as bars, with the quarantined lines among them in red."""
    points = [
        {
            "day": formats.day(row["day"]),
            "what": what,
            "lines": number,
            "text": f"{formats.count(row['quarantined'])} of {formats.count(row['lines'])} quarantined",
        }
        for row in rows
        for what, number in (("Usable", row["lines"] - row["quarantined"]), ("Quarantined", row["quarantined"]))
    ]
    return _stacked(points, "what", ["Usable", "Quarantined"], [TEAL, RED], order=[row["day"] for row in rows])


def quarantine_days(rows: Sequence[Row], name: Callable[[str], str]) -> Spec:
    """Draw how many lines each reason, written by `name`, kept out per day."""
    points = [
        {
            "day": formats.day(row["day"]),
            "what": name(row["reason"]),
            "lines": row["lines"],
            "text": f"{name(row['reason'])}: {formats.count(row['lines'])}",
        }
        for row in rows
    ]
    reasons = list(dict.fromkeys(point["what"] for point in points))
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(reasons))]
    return _stacked(points, "what", reasons, colours, order=[row["day"] for row in rows])


def _stacked(points: Sequence[Row], what: str, names: list[str], colours: list[str], *, order: Sequence[object]) -> Spec:
    days = list(dict.fromkeys(formats.day(day) for day in order))  # type: ignore[arg-type]
    chart = (
        alt.Chart(alt.NamedData(name="points"))
        .mark_bar(size=bar_width(len(days)))
        .encode(
            x=_DAYS.copy().sort(days),
            y=alt.Y("lines:Q", axis=_LINES),
            color=alt.Color(f"{what}:N", scale=alt.Scale(domain=names, range=colours), title=None, legend=alt.Legend(columns=2)),
            order=alt.Order(f"{what}:N", sort="descending"),
            tooltip=[alt.Tooltip("day:O"), alt.Tooltip("text:N", title="lines")],
        )
    )
    return styled(chart, 200, points=points)
