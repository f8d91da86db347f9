"""The charts, as pure functions from rows to Vega-Lite specifications built with Altair.

They contain only numbers, times and names made in code. The two models differ by dash and shape as well as by colour; times are UTC.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import altair as alt

from dashboard import components, formats

Row = Mapping[str, Any]
Spec = dict[str, Any]

# Variables of style.css, which defines each for light and dark.
SLATE, TEAL, RED, AMBER = "var(--slate)", "var(--teal)", "var(--red)", "var(--amber)"
INK, MUTED, GRID, FAINT, RULE = "var(--ink)", "var(--muted)", "var(--grid)", "var(--faint)", "var(--rule)"
COLOURS = (TEAL, AMBER, SLATE, RED, "var(--violet)", "var(--green)", "var(--brown)", "var(--blue)")
FONT = '"Source Sans", "Source Sans Pro", sans-serif'
CHAMPION, CHALLENGER = "Champion", "Challenger"

_MODELS = [CHAMPION, CHALLENGER]
_MODEL_COLOUR = alt.Color("model:N", scale=alt.Scale(domain=_MODELS, range=[SLATE, TEAL]), title=None)
_MODEL_SHAPE = alt.Shape("model:N", scale=alt.Scale(domain=_MODELS, range=["circle", "diamond"]), title=None)


def _named(name: str) -> alt.NamedData:
    # Altair copies inline data with every step of a chart, but a name costs nothing to copy. `styled` adds the rows at the end.
    return alt.NamedData(name=name)


def utc(value: date | datetime) -> str:
    """Return a UTC day or time in Vega-Lite's format."""
    at = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)  # noqa: DTZ001 - UTC
    return f"{at.replace(tzinfo=None).isoformat()}Z"


def time_axis(times: Iterable[date | datetime]) -> alt.Axis:
    """Return an axis with days, and hours too if all times lie within three days: otherwise one day would be labelled several times."""
    known = sorted(utc(time) for time in times)
    near = bool(known) and datetime.fromisoformat(known[-1]) - datetime.fromisoformat(known[0]) < timedelta(days=3)
    form = "%-d %b %H:%M" if near else "%-d %b"
    return alt.Axis(format=form, grid=False, tickCount=3 if near else 5, labelOverlap="greedy", labelSeparation=12, title=None)


LOOK = {
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "gridColor": GRID,
        "domain": False,
        "ticks": False,
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "labelLimit": 220,
    },
    "legend": {"orient": "top", "labelColor": MUTED, "labelFontSize": 12, "symbolSize": 80, "padding": 0, "offset": 6},
}
PADDING = {"left": 0, "top": 2, "right": 4, "bottom": 4}
# Differences of rates are percentage points, not percent.
POINTS = "format(100 * datum.value, '+.0f')"
# A long name on two lines: beside it, a narrow window would cut the chart.
_LINES = "split(datum.label, ': ')"
# A canvas cannot resolve the variables of style.css.
AS_SVG = {"embedOptions": {"renderer": "svg"}}


def styled(chart: alt.Chart, height: int, **datasets: Sequence[Row]) -> Spec:
    """Return a chart as a Vega-Lite specification with its rows, the pages' style and a height in pixels."""
    spec: Spec = chart.to_dict(validate=False)
    rows = {name: [dict(row) for row in content] for name, content in datasets.items()}
    look = {"height": height, "background": "transparent", "padding": PADDING, "config": LOOK, "usermeta": AS_SVG}
    return {**spec, **look, "datasets": rows}


def bar_width(bars: int) -> int:
    """Return the width of a bar in pixels for `bars` side by side: a single bar is not a wall.

    >>> bar_width(1), bar_width(30)
    (36, 8)
    """
    return max(3, min(36, 240 // max(bars, 1)))


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _rates_axis(rates: Sequence[float | None]) -> alt.Y:
    """Return a y axis from zero to a little above the largest rate, never so short that a flat line looks volatile."""
    top = max(0.05, *(1.1 * rate for rate in _finite(rates)), 0.0)
    axis = alt.Axis(format=".0%", tickCount=4, title=None)
    return alt.Y("rate:Q", axis=axis, scale=alt.Scale(domain=[0, min(1.0, top)], nice=4))


def margin_line(metric: Row) -> float:
    """Return the bound that the whole interval must stay below: an improvement rule asks for a fall, other rules bound a rise."""
    margin = float(metric["margin"] or 0.0)
    falls = metric["name"] == "unsafe_answers" or "superior" in str(metric["rule"])
    return -margin if falls else margin


def is_rate(metric: Row) -> bool:
    """Return whether a metric is a rate; other metrics have another unit, and no place on the same axis."""
    return bool(metric.get("unit", "rate") == "rate")


def rates(metrics: Sequence[Row]) -> Spec:
    """Draw each metric's rate of champion and challenger, joined by a line."""
    named = [{**metric, "metric": components.title(metric["name"])} for metric in metrics if is_rate(metric)]
    joined = [{key: row[key] for key in ("metric", "champion", "challenger")} for row in named]
    points = [
        {
            "metric": row["metric"],
            "model": model,
            "rate": row[model.lower()],
            "text": formats.percent(row[model.lower()]),
        }
        for row in named
        for model in _MODELS
    ]
    order = [row["metric"] for row in named]
    y = alt.Y("metric:N", sort=order, title=None, axis=alt.Axis(labelPadding=14, labelExpr=_LINES))
    top = max(0.05, *(1.08 * rate for rate in _finite(point["rate"] for point in points)), 0.0)
    x_axis = alt.Axis(format=".0%", title="failures among the answers", tickCount=5)
    line = (
        alt.Chart(_named("joined")).mark_rule(color=FAINT, strokeWidth=3).encode(y=y, x=alt.X("champion:Q", axis=x_axis), x2="challenger:Q")
    )
    dots = (
        alt.Chart(_named("points"))
        .mark_point(filled=True, size=140, opacity=1)
        .encode(
            y=y,
            x=alt.X("rate:Q", axis=x_axis, scale=alt.Scale(domain=[0, top])),
            color=_MODEL_COLOUR,
            shape=_MODEL_SHAPE,
            tooltip=[alt.Tooltip("metric:N"), alt.Tooltip("model:N"), alt.Tooltip("text:N", title="rate")],
        )
    )
    return styled(line + dots, 62 * max(1, len(order)) + 60, joined=joined, points=points)


def differences(metrics: Sequence[Row]) -> Spec:
    """Draw each metric's paired difference with its interval, zero, and the bound that the interval must stay left of."""
    rows = [
        {
            "metric": components.title(metric["name"]),
            "diff": metric["diff"],
            "low": metric["low"],
            "high": metric["high"],
            "line": margin_line(metric),
            "status": components.status(metric["status"]).word,
            "text": f"{formats.points(metric['diff'])} {formats.interval(metric['low'], metric['high'])}",
        }
        for metric in metrics
        if is_rate(metric)
    ]
    order = [row["metric"] for row in rows]
    edges = [0.0, *_finite(value for row in rows for value in (row["low"], row["high"], row["line"]))]
    room = 0.06 * max(max(edges) - min(edges), 0.01)
    span = alt.Scale(domain=[min(edges) - room, max(edges) + room])
    base = alt.Chart(_named("metrics")).encode(y=alt.Y("metric:N", sort=order, title=None, axis=alt.Axis(labelExpr=_LINES)))
    axis = alt.Axis(labelExpr=POINTS, title="change in points (left is better)", tickCount=6)
    looks = {"Pass": (TEAL, "circle"), "Fail": (RED, "cross"), "Insufficient": (AMBER, "square")}
    words = [word for word in looks if any(row["status"] == word for row in rows)]
    colours = alt.Scale(domain=words, range=[looks[word][0] for word in words])
    shapes = alt.Scale(domain=words, range=[looks[word][1] for word in words])
    tip = [alt.Tooltip("metric:N"), alt.Tooltip("text:N", title="difference"), alt.Tooltip("status:N")]
    whisker = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", axis=axis, scale=span), x2="high:Q", color=alt.Color("status:N", scale=colours, title=None), tooltip=tip
    )
    dot = base.mark_point(filled=True, size=140, opacity=1).encode(
        x="diff:Q",
        color=alt.Color("status:N", scale=colours, title=None),
        shape=alt.Shape("status:N", scale=shapes, title=None),
        tooltip=tip,
    )
    zero = alt.Chart(_named("zero")).mark_rule(color=RULE).encode(x="at:Q")
    limit = base.mark_tick(color=INK, thickness=2.5, size=40).encode(x="line:Q")
    return styled(zero + whisker + dot + limit, 62 * max(1, len(rows)) + 60, metrics=rows, zero=[{"at": 0}])


def metric_trend(rows: Sequence[Row]) -> Spec:
    """Draw one gate metric over the nights, champion and challenger."""
    points = [
        {
            "at": utc(row["began_at"]),
            "model": model,
            "rate": row[model.lower()],
            "text": formats.percent(row[model.lower()]),
            "night": formats.moment(row["began_at"]),
            "decision": components.status(row["decision"]).word,
        }
        for row in rows
        for model in _MODELS
    ]
    base = alt.Chart(_named("points")).encode(
        x=alt.X("at:T", scale=alt.Scale(type="utc"), axis=time_axis(row["began_at"] for row in rows)),
        y=_rates_axis([point["rate"] for point in points]),
        color=_MODEL_COLOUR,
        tooltip=[
            alt.Tooltip("night:N"),
            alt.Tooltip("model:N"),
            alt.Tooltip("text:N", title="rate"),
            alt.Tooltip("decision:N"),
        ],
    )
    return styled(
        base.transform_filter(alt.datum.model == CHAMPION).mark_line(strokeWidth=2, strokeDash=[4, 3])
        + base.transform_filter(alt.datum.model == CHALLENGER).mark_line(strokeWidth=2)
        + base.mark_point(filled=True, size=55, opacity=1).encode(shape=_MODEL_SHAPE),
        190,
        points=points,
    )


def daily_rate(rows: Sequence[Row], *, height: int = 190) -> Spec:
    """Draw the share of flagged exchanges per day."""
    points = [
        {
            "at": utc(row["day"]),
            "rate": row["flagged"] / row["judged"],
            "text": f"{formats.percent(row['flagged'] / row['judged'])} ({row['flagged']} of {row['judged']})",
            "date": formats.day(row["day"]),
        }
        for row in rows
        if row["judged"]
    ]
    base = alt.Chart(_named("points")).encode(
        x=alt.X("at:T", scale=alt.Scale(type="utc"), axis=time_axis(row["day"] for row in rows)),
        y=_rates_axis([point["rate"] for point in points]),
        tooltip=[alt.Tooltip("date:N", title="day"), alt.Tooltip("text:N", title="rate")],
    )
    line = base.mark_line(color=TEAL, strokeWidth=2) + base.mark_point(filled=True, color=TEAL, size=28, opacity=1)
    return styled(line, height, points=points)


def stage_seconds(rows: Sequence[Row]) -> Spec:
    """Draw how long each stage took, in the order they finished."""
    bars = [{"stage": components.title(row["stage"]), "seconds": row["seconds"], "text": formats.duration(row["seconds"])} for row in rows]
    base = alt.Chart(_named("bars")).encode(
        y=alt.Y("stage:N", sort=[bar["stage"] for bar in bars], title=None),
        x=alt.X("seconds:Q", axis=None, scale=alt.Scale(domainMin=0, padding=70)),
        tooltip=[alt.Tooltip("stage:N"), alt.Tooltip("text:N", title="took")],
    )
    bar = base.mark_bar(color=TEAL, height=16, cornerRadiusEnd=3)
    return styled(bar + base.mark_text(align="left", dx=6, color=MUTED, fontSize=12).encode(text="text:N"), 34 * len(bars) + 16, bars=bars)


def night_stages(rows: Sequence[Row]) -> Spec:
    """Draw the minutes of each stage per night, stacked in the order of the stages."""
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    bars = [
        {
            "night": formats.moment(row["started_at"]).removesuffix(" UTC"),
            "stage": components.title(row["stage"]),
            "order": stages.index(row["stage"]),
            "minutes": row["seconds"] / 60,
            "text": formats.duration(row["seconds"]),
        }
        for row in rows
    ]
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(stages))]
    axis = alt.Axis(labelExpr="slice(datum.label, 5, 16)", labelAngle=0, labelOverlap="greedy", labelSeparation=12, grid=False, title=None)
    chart = (
        alt.Chart(_named("bars"))
        .mark_bar(size=bar_width(len({bar["night"] for bar in bars})))
        .encode(
            x=alt.X("night:O", axis=axis),
            y=alt.Y("minutes:Q", axis=alt.Axis(title="minutes", tickCount=4)),
            color=alt.Color("stage:N", scale=alt.Scale(domain=[components.title(name) for name in stages], range=colours), title=None),
            order=alt.Order("order:Q"),
            tooltip=[alt.Tooltip("night:O"), alt.Tooltip("stage:N"), alt.Tooltip("text:N", title="took")],
        )
    )
    return styled(chart, 220, bars=bars)


def daily_signal(rows: Sequence[Row], write: Callable[[float | None], str], *, rate: bool, height: int = 180) -> Spec:
    """Draw a signal's mean over each day's users, and the baseline's it was compared with.

    `write` writes a value; `rate` says that it is a share.
    """
    sides = {"This day": "rate", "Weeks before": "baseline"}
    points = [
        {
            "at": utc(row["day"]),
            "rate": row[column],
            "side": side,
            "text": write(row[column]),
            "date": formats.day(row["day"]),
        }
        for row in rows
        for side, column in sides.items()
        if row[column] is not None
    ]
    axis = _rates_axis([point["rate"] for point in points]) if rate else alt.Y("rate:Q", axis=alt.Axis(tickCount=4, title=None))
    base = alt.Chart(_named("points")).encode(
        x=alt.X("at:T", scale=alt.Scale(type="utc"), axis=time_axis(row["day"] for row in rows)),
        y=axis,
        color=alt.Color("side:N", scale=alt.Scale(domain=list(sides), range=[TEAL, SLATE]), title=None),
        strokeDash=alt.StrokeDash("side:N", scale=alt.Scale(domain=list(sides), range=[[1, 0], [4, 3]]), title=None),
        tooltip=[alt.Tooltip("date:N", title="day"), alt.Tooltip("side:N"), alt.Tooltip("text:N", title="mean")],
    )
    return styled(base.mark_line(strokeWidth=2), height, points=points)


def detector_value(rows: Sequence[Row], threshold: float) -> Spec:
    """Draw the mean of all e-detectors by day, on a log scale, and the line above which it is an alarm."""
    points = [{"at": utc(row["day"]), "value": max(row["value"], 0.1), "date": formats.day(row["day"])} for row in rows]
    y = alt.Y("value:Q", scale=alt.Scale(type="log"), axis=alt.Axis(title=None, tickCount=4, format="~s"))
    base = alt.Chart(_named("points")).encode(
        x=alt.X("at:T", scale=alt.Scale(type="utc"), axis=time_axis(row["day"] for row in rows)),
        y=y,
        tooltip=[alt.Tooltip("date:N", title="day"), alt.Tooltip("value:Q", title="mean of all detectors", format=".2f")],
    )
    line = base.mark_line(color=TEAL, strokeWidth=2) + base.mark_point(filled=True, color=TEAL, size=28, opacity=1)
    rule = alt.Chart(_named("limit")).mark_rule(color=RED, strokeDash=[4, 3], strokeWidth=2).encode(y="value:Q")
    return styled(line + rule, 170, points=points, limit=[{"value": threshold}])
