"""The charts of gaps between groups, as a pure function from rows to a Vega-Lite specification."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from dashboard import formats
from dashboard.charts import CHALLENGER, CHAMPION, POINTS, RULE, SLATE, TEAL, Row, Spec, styled

_MODELS = [CHAMPION, CHALLENGER]


def gaps(rows: Sequence[Row], *, share: bool, title: str) -> Spec:
    """Draw one measure's gap on each axis, champion above challenger, with its interval and zero; a `share` in percentage points."""
    points = [
        {
            "groups": row["groups"],
            "model": row["role"].capitalize(),
            "gap": row["gap"],
            "low": row["low"],
            "high": row["high"],
            "text": f"{formats.points(row['gap'])} {formats.interval(row['low'], row['high'])}"
            if share
            else f"{row['gap']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
            "n": formats.count(row["n"]),
        }
        for row in rows
    ]
    order = list(dict.fromkeys(point["groups"] for point in points))
    how = {"labelExpr": POINTS} if share else {"format": "+.2~f"}
    axis = alt.Axis(**how, title=f"{title}, points" if share else title, tickCount=5)
    base = alt.Chart(alt.NamedData(name="points")).encode(
        y=alt.Y("groups:N", sort=order, title=None, axis=alt.Axis(labelPadding=10, grid=True)),
        yOffset=alt.YOffset("model:N", sort=_MODELS, scale=alt.Scale(paddingOuter=0.6)),
        color=alt.Color("model:N", scale=alt.Scale(domain=_MODELS, range=[SLATE, TEAL]), title=None),
        tooltip=[
            alt.Tooltip("groups:N"),
            alt.Tooltip("model:N"),
            alt.Tooltip("text:N", title="gap, bounds"),
            alt.Tooltip("n:N", title="templates"),
        ],
    )
    whisker = base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q", axis=axis), x2="high:Q")
    dot = base.mark_point(filled=True, size=70, opacity=1).encode(
        x="gap:Q", shape=alt.Shape("model:N", scale=alt.Scale(domain=_MODELS, range=["circle", "diamond"]), title=None)
    )
    zero = alt.Chart(alt.NamedData(name="zero")).mark_rule(color=RULE, strokeDash=[4, 3]).encode(x="at:Q")
    return styled(zero + whisker + dot, 40 * max(1, len(order)) + 60, points=points, zero=[{"at": 0}])
