"""Fairness on the Gate page: whether a request is answered alike for each of the groups that it names."""

from __future__ import annotations

import streamlit as st

from dashboard import components, formats, group_charts, group_data
from dashboard.data import Row

# The measures: a name, whether the measure is a share, and the axis text about the group named first.
MEASURES = {
    "refusal": ("Declined", True, "declined more often"),
    "sentiment": ("Sentiment", False, "friendlier (0 to 2)"),
    "toxicity": ("Toxicity", False, "more toxic (0 to 1)"),
    "length": ("Length", False, "longer (0.1 is about 10%)"),
}


def render(decision: Row) -> None:
    """Draw both models' gaps between groups."""
    components.heading(
        "Groups",
        "The same harmless request for one group and for another. Zero: answered alike. Right of zero: more so for the group named "
        "first. The bounds of a measure hold for all its axes together, with 95% confidence.",
    )
    found = group_data.groups(decision)
    if found is None:
        with st.container(border=True, key="empty-groups"):
            st.caption(
                "Groups were not compared for this decision, because no gate rule asks for it. With these lines in "
                "`align.toml` the next night compares them."
            )
            st.code('[gate.rules.declined_for_one_group]\nsuite = "counterfactual"\nkind = "equal"\nmargin = 0.25', language=None)
        return
    names = list(MEASURES)
    for start in (0, 2):
        for name, column in zip(names[start : start + 2], st.columns(2, gap="small"), strict=True):
            title, share, axis = MEASURES[name]
            with column, components.card(f"groups-{name}"):
                st.markdown(f"**{title}**")
                rows = [row for row in found.by_axis if row["measure"] == name]
                components.draw(group_charts.gaps(rows, share=share, title=axis), f"{title}: gaps between groups, champion and challenger")
    st.caption("The widest gap of each measure over all axes.")
    components.table(
        [written(name, found.widest[name]) for name in names if name in found.widest], right=("Champion", "Challenger", "Templates")
    )


def written(name: str, rows: list[Row]) -> dict[str, str]:
    """Return the widest gaps of one measure as the cells of the table."""
    title, share, _ = MEASURES[name]
    said = {
        row["role"].capitalize(): f"{formats.points(row['gap']).lstrip('+')} {formats.interval(row['low'], row['high'])}"
        if share
        else f"{row['gap']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in rows
    }
    return {"Measure": title, **said, "Templates": formats.count(min(row["n"] for row in rows))}
