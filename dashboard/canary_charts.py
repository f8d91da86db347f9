"""The chart of a canary's confidence sequence, as a pure function from rows to a Vega-Lite specification."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from dashboard import formats
from dashboard.charts import INK, POINTS, RED, TEAL, Spec, styled

_SMALLEST = 0.05


def sequence(curve: Sequence[Sequence[float]], *, margin: float, harm: float) -> Spec:
    """Draw the difference of failure rates (canary minus champion) with its confidence sequence, over comparisons of users.

    If the whole band is above `harm` the canary rolls back, below `margin` it is promoted; bounds beyond four times the last width are
    clipped.
    """
    last = curve[-1]
    reach = max(_SMALLEST, 2 * margin, 4 * max(abs(last[2]), abs(last[3]), abs(last[1])))
    reach = min(reach, 1.0)
    points = [
        {
            "blocks": int(blocks),
            "diff": max(-reach, min(reach, diff)),
            "low": max(-reach, low),
            "high": min(reach, high),
            "text": f"{formats.points(diff)} {formats.interval(low, high)}",
        }
        for blocks, diff, low, high in curve
    ]
    lines = [{"value": harm, "rule": "rolled back if all above"}, {"value": margin, "rule": "promoted if all below"}]
    x = alt.X("blocks:Q", title="comparisons of users who came at the same time", axis=alt.Axis(tickCount=6, grid=False, format=",d"))
    scale = alt.Scale(domain=[-reach, reach])
    axis = alt.Axis(labelExpr=POINTS, tickCount=5, title="points")
    base = alt.Chart(alt.NamedData(name="points")).encode(x=x)
    band = base.mark_area(color=TEAL, opacity=0.18).encode(y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q")
    line = base.mark_line(color=TEAL, strokeWidth=2, point=alt.OverlayMarkDef(color=TEAL, size=24)).encode(
        y=alt.Y("diff:Q", scale=scale, axis=axis),
        tooltip=[alt.Tooltip("blocks:Q", format=",d", title="comparisons"), alt.Tooltip("text:N", title="change, interval")],
    )
    colours = alt.Scale(domain=[row["rule"] for row in lines], range=[RED, INK])
    rules = (
        alt.Chart(alt.NamedData(name="lines"))
        .mark_rule(strokeWidth=1.5, strokeDash=[5, 4])
        .encode(y=alt.Y("value:Q", scale=scale, axis=axis), color=alt.Color("rule:N", scale=colours, title=None))
    )
    return styled(band + rules + line, 260, points=points, lines=lines)
