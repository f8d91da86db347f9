"""Whether the traffic or the model's behaviour moved away from its baseline."""

from __future__ import annotations

import streamlit as st

from dashboard import charts, components, data, empty_states, formats
from dashboard.data import Row

# Metrics that are no shares of exchanges: median lengths, and the shift in the mix of categories.
DISTANCES = ("harm_categories",)
MARKS = {"alarm": "▲", "quiet": "○", "not compared": "·"}
DETECTORS = ("flagged", "harmful_request", "toxicity", "harmful_answer", "refusal", "pii")


def render() -> None:
    """Draw the page."""
    st.title("Drift", anchor=False)
    latest = data.drift_latest()
    if latest:
        summary(latest)
    else:
        empty_states.of_rows("No drift report yet", "A report needs enough traffic in both windows.")
    series(latest)
    history()


def state(row: Row) -> str:
    """Return `alarm`, `quiet`, or `not compared` if the windows were too small."""
    if row["alarm"]:
        return "alarm"
    return "not compared" if row["adjusted_p"] is None else "quiet"


def summary(latest: list[Row]) -> None:
    """Draw the number of alarms, their meaning, and each comparison."""
    alarms = [row for row in latest if row["alarm"]]
    drift = data.settings().drift
    with components.card("report"):
        if alarms:
            noun = "alarm" if len(alarms) == 1 else "alarms"
            components.big_status("alarm", f"{len(alarms)} {noun}")
        else:
            components.big_status("quiet" if any(state(row) == "quiet" for row in latest) else "not compared")
        newest = max(latest, key=lambda row: row["recorded_at"])
        st.caption(
            f"Report of {formats.moment(newest['recorded_at'])} · current {window(newest, 'current')} "
            f"against baseline {window(newest, 'baseline')}"
        )
        st.markdown(
            f"**Alarm** means: the current {drift.window_days} days of this metric differ from the {drift.baseline_days} "
            "days before them by more than chance explains, and visibly. The p-values are adjusted for the number of metrics: where "
            f"nothing has changed, the chance of *any* false alarm in a report is at most {drift.alpha:.0%}, about one "
            f"report in {1 / drift.alpha:.0f}. Quiet does not prove that nothing moved: small windows only show large "
            f"changes, and windows under {drift.min_rows} exchanges are not compared."
        )
    components.table(
        [written(row) for row in latest],
        right=("Baseline", "Current", "Effect", "Adjusted p", "Exchanges"),
        explained={"Exchanges": "In the baseline window, and in the current one."},
    )
    st.caption(
        "Effect of a rate: the change in points. Of a length (medians are shown): how much likelier the current value is the "
        "larger one, from -1 to 1. Of the kinds of harm: the share of requests that would have to change kind."
    )


def window(row: Row, name: str) -> str:
    """Return a window as its first and last day."""
    return f"{formats.day(row[f'{name}_start'])} – {formats.day(row[f'{name}_end'])}"


def is_rate(row: Row) -> bool:
    """Return whether a metric is a share of exchanges, to be written as a percentage."""
    return row["metric"] in (*DETECTORS, "complained")


def written(row: Row) -> dict[str, str]:
    """Return one comparison as the cells of the table."""
    write = formats.percent if is_rate(row) else formats.plain
    distance = row["metric"] in DISTANCES
    return {
        "Metric": components.title(row["metric"]),
        "State": f"{MARKS[state(row)]} {components.status(state(row)).word}",
        "Baseline": formats.MISSING if distance else write(row["baseline"]),
        "Current": formats.MISSING if distance else write(row["current"]),
        "Effect": formats.points(row["effect"]) if is_rate(row) else f"{row['effect']:+.2f}",
        "Adjusted p": formats.p_value(row["adjusted_p"]),
        "Test": str(row["test"]),
        "Exchanges": f"{formats.count(row['baseline_n'])}, {formats.count(row['current_n'])}",
    }


def series(latest: list[Row]) -> None:
    """Draw each detector's daily rate with the two windows shaded."""
    drift = data.settings().drift
    rows = data.daily(3 * (drift.window_days + drift.baseline_days))
    if not rows:
        return
    shaded = " Shaded: the baseline window, then the current one." if latest else ""
    components.heading("Day by day", f"Share of each day's exchanges (UTC) that a detector flagged.{shaded}")
    windows = []
    if latest:
        newest = max(latest, key=lambda row: row["recorded_at"])
        windows = [
            {"name": name.capitalize(), "start": newest[f"{name}_start"], "end": newest[f"{name}_end"]}
            for name in ("baseline", "current")
            if newest[f"{name}_start"] is not None
        ]
    names = [name for name in DETECTORS if any(row["detector"] == name for row in rows)]
    names += sorted({row["detector"] for row in rows} - set(names))
    for start in range(0, len(names), 3):
        for name, column in zip(names[start : start + 3], st.columns(3), strict=False):
            with column, components.card(f"series-{components.key(name)}"):
                st.markdown(f"**{components.title(name)}**")
                chosen = [row for row in rows if row["detector"] == name]
                components.draw(charts.daily_rate(chosen, windows=windows, height=180), f"{components.title(name)} by day")


def history() -> None:
    """Draw which metrics raised an alarm in the latest reports."""
    rows = data.drift_history()
    if not rows:
        return
    components.heading("Alarms, report by report", "A lone triangle may be chance; the same metric night after night is not.")
    with components.card("alarms"):
        components.draw(charts.alarm_history(rows), "Alarms of each metric in the last reports")


if __name__ == "__main__":
    render()
