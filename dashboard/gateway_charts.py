"""The chart of the gateway's page."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from dashboard.charts import AMBER, RED, SLATE, TEAL, Row, Spec, bar_width, styled, time_axis, utc

ACTIONS = {
    "allow": "Passed",
    "instruct": "Instructed",
    "redact": "Redacted",
    "rewrite": "Rewritten",
    "hold": "Held",
    "refuse": "Refused",
    "no answer": "No answer",
}
_COLOURS = (TEAL, "var(--green)", "var(--blue)", "var(--violet)", AMBER, RED, SLATE)


def hours(rows: Sequence[Row]) -> Spec:
    """Draw the exchanges of each hour, stacked by what was done with them."""
    names = list(ACTIONS.values())
    bars = [
        {
            "hour": utc(row["hour"]),
            "action": ACTIONS[row["action"]],
            "order": names.index(ACTIONS[row["action"]]),
            "exchanges": row["exchanges"],
        }
        for row in rows
        if row["action"] in ACTIONS
    ]
    chart = (
        alt.Chart(alt.NamedData(name="bars"))
        .mark_bar(size=bar_width(24))
        .encode(
            x=alt.X("hour:T", axis=time_axis([row["hour"] for row in rows]), scale=alt.Scale(type="utc")),
            y=alt.Y("exchanges:Q", axis=alt.Axis(tickCount=4, title=None, format="~s")),
            color=alt.Color("action:N", scale=alt.Scale(domain=names, range=list(_COLOURS)), title=None, legend=alt.Legend(columns=4)),
            order=alt.Order("order:Q"),
            tooltip=[alt.Tooltip("hour:T", format="%-d %b %H:%M"), alt.Tooltip("action:N"), alt.Tooltip("exchanges:Q", format=",")],
        )
    )
    return styled(chart, 220, bars=bars)
