"""The charts of the Training page, as pure functions from rows to Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from dashboard import formats
from dashboard.charts import AMBER, FAINT, RED, SLATE, TEAL, Row, Spec, styled, time_axis, utc

_COLOURS = [TEAL, RED, SLATE, AMBER]
_DASHES = [[1, 0], [5, 3], [2, 2], [8, 3]]
# One point of the line averages 1 / _WINDOW of a run's steps.
_WINDOW = 20


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and up to `window` - 1 before it.

    >>> smoothed([1.0, 3.0, 5.0], 2)
    [1.0, 2.0, 4.0]
    """
    return [sum(part) / len(part) for index in range(len(values)) for part in [values[max(0, index - window + 1) : index + 1]]]


def curves(series: Mapping[str, Sequence[Row]], *, percent: bool = False, height: int = 200) -> Spec:
    """Draw metrics over the steps: a moving mean over faint raw values; a few values are drawn as points joined by a line."""
    write = formats.percent if percent else formats.plain
    points = [
        {"step": row["step"], "what": name, "value": row["value"], "mean": mean, "text": f"{write(row['value'])} (mean {write(mean)})"}
        for name, rows in series.items()
        for row, mean in zip(rows, smoothed([row["value"] for row in rows], max(1, len(rows) // _WINDOW)), strict=True)
    ]
    names = list(series)
    colour = alt.Color(
        "what:N",
        scale=alt.Scale(domain=names, range=_COLOURS[: len(names)]),
        title=None,
        legend=alt.Legend(symbolOpacity=1) if len(names) > 1 else None,
    )
    axis = alt.Axis(format=".0%" if percent else "~g", tickCount=4, title=None)
    scale = alt.Scale(domain=[0, 1]) if percent else alt.Scale(zero=False, nice=True)
    base = alt.Chart(alt.NamedData(name="points")).encode(
        x=alt.X("step:Q", axis=alt.Axis(title="step", tickCount=5, grid=False, format="~s"), scale=alt.Scale(nice=False)),
        color=colour,
        tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("what:N", title="metric"), alt.Tooltip("text:N", title="value")],
    )
    faint = base.mark_circle(size=14, opacity=0.3).encode(y=alt.Y("value:Q", axis=axis, scale=scale))
    dash = alt.StrokeDash("what:N", scale=alt.Scale(domain=names, range=_DASHES[: len(names)]), legend=None)
    line = base.mark_line(strokeWidth=2).encode(y=alt.Y("mean:Q", axis=axis, scale=scale), strokeDash=dash)
    return styled(faint + line, height, points=points)


def night_trend(rows: Sequence[Row], write: str) -> Spec:
    """Draw one number per night from `rows` with `at`, `night`, `value`, `release` and `verdict`; a point's shape is the gate's verdict."""
    word = {"percent": formats.percent, "plain": formats.plain, "duration": formats.duration}[write]
    points = [
        {
            "at": utc(row["at"]),
            "value": row["value"],
            "text": word(row["value"]),
            "night": row["night"],
            "release": row["release"] or formats.MISSING,
            "gate": row["verdict"],
        }
        for row in rows
        if row["value"] is not None
    ]
    looks = {"Promoted": (TEAL, "circle"), "Blocked": (RED, "cross"), "Insufficient evidence": (AMBER, "square")}
    words = list(dict.fromkeys(point["gate"] for point in points))
    colours = [looks.get(name, (SLATE, "triangle-up"))[0] for name in words]
    shapes = [looks.get(name, (SLATE, "triangle-up"))[1] for name in words]
    # Vega-Lite treats seconds only as numbers, so the axis of a duration counts minutes.
    unit = "datum.value / 60" if write == "duration" else "datum.value"
    axis = alt.Axis(format=".0%" if write == "percent" else "~g", tickCount=4, title="minutes" if write == "duration" else None)
    base = (
        alt.Chart(alt.NamedData(name="nights"))
        .transform_calculate(shown=unit)
        .encode(
            x=alt.X("at:T", scale=alt.Scale(type="utc", padding=8), axis=time_axis([row["at"] for row in rows])),
            y=alt.Y("shown:Q", axis=axis, scale=alt.Scale(domain=[0, 1]) if write == "percent" else alt.Scale(zero=True, nice=True)),
            tooltip=[alt.Tooltip("night:N"), alt.Tooltip("text:N", title="value"), alt.Tooltip("release:N"), alt.Tooltip("gate:N")],
        )
    )
    # Two columns fit a narrow window.
    legend = alt.Legend(columns=2)
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        color=alt.Color("gate:N", scale=alt.Scale(domain=words, range=colours), title=None, legend=legend),
        shape=alt.Shape("gate:N", scale=alt.Scale(domain=words, range=shapes), title=None, legend=legend),
    )
    return styled(base.mark_line(color=FAINT, strokeWidth=2) + dots, 170, nights=points)
