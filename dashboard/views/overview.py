"""Last night at a glance: its decision, its input and its duration, with their trends over the nights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from alignment.release import BASE
from dashboard import charts, components, data, empty_states, formats, night_data
from dashboard.components import Tile
from dashboard.data import Row
from dashboard.views import links

TREND_DAYS = 30
TREND_COLUMNS = 3


def render() -> None:
    """Draw the page."""
    st.title("Overview", anchor=False)
    nights = night_data.nights()
    if not nights:
        empty_states.of_rows("No night has run yet", "There is a store, but no night in it.")
        return
    last = next((night for night in nights if night["finished_at"]), nights[0])
    if not nights[0]["finished_at"]:
        unfinished(nights[0])
    hero(last)
    attention()
    numbers(last)
    trends()
    left, right = st.columns([3, 2], gap="medium")
    with left:
        durations(last)
    with right:
        history(nights)


def unfinished(night: Row) -> None:
    """Show the state of the newest night."""
    with st.container(horizontal=True, vertical_alignment="center", key="unfinished"):
        components.badge(night["state"])
        how = "is running." if night["state"] == "running" else "has not finished; `align nightly` resumes it."
        st.markdown(f"The night of {formats.moment(night['started_at'])} {how}", width="content")
        st.page_link("views/nights.py", label="How far it is →", query_params={"night": night["night_id"]})


def hero(night: Row) -> None:
    """Draw the night's decision, its reasons, and the release in production now."""
    left, right = st.columns([3, 2], gap="small")
    with left, components.card("hero", height="stretch"):
        seconds = night["summary"].get("seconds")
        took = f" · took {formats.duration(seconds)}" if seconds is not None else ""
        st.caption(f"{'Last night' if night['finished_at'] else 'The first night'} · {formats.moment(night['started_at'])}{took}")
        components.big_status(night["state"])
        for reason in night["summary"].get("reasons") or (decided(night) or {}).get("reasons", []):
            components.show_text(components.reason(str(reason)))
        links.of_night(night["night_id"], here="overview", name=False)
    with right, components.card("production", height="stretch"):
        production()


def decided(night: Row) -> Row | None:
    """Return the gate's decision of a night."""
    return next((row for row in data.decisions() if row["night_id"] == night["night_id"]), None)


def production() -> None:
    """Draw the release in production."""
    release = data.production()
    st.caption("In production")
    if release is None:
        components.name_text(BASE, key="production")
        st.text("No release has been promoted yet.")
        return
    components.name_text(release["release_id"], key="production")
    if release["event"] is None:
        return
    how = "Rolled back to" if release["event"] in ("rolled_back", "withdrawn") else "Promoted"
    st.text(f"{how} on {formats.moment(release['recorded_at'])}")
    components.fact("By", release["actor"])
    # The gate's reasons are shown beside its decision; only people's reasons are shown here.
    if release["reason"] and release["night_id"] is None:
        components.fact("Reason", release["reason"])


def numbers(night: Row) -> None:
    """Draw the night's counts and the gate's metrics."""
    counts = night_data.counted(night)
    traffic = {
        "read": Tile("Read", formats.count(counts.get("read")), "exchanges"),
        "quarantined": Tile("Quarantined", formats.count(counts.get("quarantined")), share(counts, "quarantined")),
        "redacted": Tile("Redacted", formats.count(counts.get("redacted")), share(counts, "redacted")),
        "flagged": Tile("Flagged", formats.count(counts.get("flagged")), "of all traffic so far"),
    }
    decision = decided(night)
    metrics = night["summary"].get("metrics") or (data.gate_metrics(decision["id"]) if decision else [])
    result = [change(metric) for metric in metrics if not metric.get("since") or metric["status"] != "pass"]
    # A night that runs has no report yet: what is not counted yet has no tile.
    components.tiles("traffic", [tile for name, tile in traffic.items() if counts.get(name) is not None])
    components.tiles("night", [*([pairs(night, counts)] if metrics or counts.get("pairs") is not None else []), *result])


def share(counts: Mapping[str, Any], name: str) -> str | None:
    """Return a count as a share of what was read."""
    read, value = counts.get("read"), counts.get(name)
    return f"{formats.percent(value / read)} of read" if read and value is not None else None


def pairs(night: Row, counts: Mapping[str, Any]) -> Tile:
    """Return the number of pairs trained on, by side."""
    sides = data.pairs_by_side(night["night_id"])
    total = sum(sides.values()) if sides else counts.get("pairs")
    by_labeler = counts.get("pairs_by_labeler") or {}
    who = ", ".join(f"{components.title(name)}: {number}" for name, number in by_labeler.items())
    return Tile(
        "Pairs trained on",
        formats.count(total if isinstance(total, int | float) else None),
        " · ".join(f"{number} {side}" for side, number in sorted(sides.items())) or None,
        help=f"By labeler: {who}" if who else None,
    )


def change(metric: Row) -> Tile:
    """Return one gate metric, champion to challenger."""
    return Tile(
        components.title(metric["name"]),
        f"{formats.value(metric, 'champion')} → {formats.value(metric, 'challenger')}",
        f"{components.status(metric['status']).word} · {formats.change(metric, 'diff')}",
        state=metric["status"],
        help=f"{'An earlier release' if metric.get('since') else 'Champion'} → challenger on the same prompts; lower is better. "
        "The word is its status at the gate.",
    )


def attention() -> None:
    """Link to what waits for a person."""
    open_items = sum(row["items"] - row["decided"] for row in data.review_progress())
    alarms = sum(bool(row["alarm"]) for row in data.drift_latest())
    with st.container(horizontal=True, key="attention"):
        st.page_link("views/review.py", label=f"{formats.count(open_items)} items wait for review →")
        st.page_link("views/gate.py", label="Why the gate decided so →")
        st.page_link("views/drift.py", label=f"{alarms} drift {'alarm' if alarms == 1 else 'alarms'} →")


def trends() -> None:
    """Draw the gate's metrics night by night and the traffic's rates day by day."""
    trend = data.gate_trend()
    names = components.in_order(row["name"] for row in trend)
    if names:
        components.heading("Gate, night by night", "Share of failing answers on fixed prompts; lower is better.")
        for start in range(0, len(names), TREND_COLUMNS):
            for name, column in zip(names[start : start + TREND_COLUMNS], st.columns(min(len(names), TREND_COLUMNS)), strict=False):
                with column, components.card(f"trend-{components.key(name)}"):
                    st.markdown(f"**{components.title(name)}**")
                    components.draw(
                        charts.metric_trend([row for row in trend if row["name"] == name]), f"{components.title(name)} by night"
                    )
    rows = data.daily(TREND_DAYS)
    if not rows:
        return
    components.heading("Traffic, day by day", "Share of each day's exchanges (UTC).")
    for name, column in zip(("flagged", "refusal"), st.columns(2), strict=True):
        with column, components.card(f"daily-{name}"):
            st.markdown(f"**{components.title(name)}**")
            components.draw(charts.daily_rate([row for row in rows if row["detector"] == name]), f"{components.title(name)} by day")


def durations(night: Row) -> None:
    """Draw how long the stages took, and what training reported."""
    components.heading("Stages of last night")
    with components.card("stages"):
        stages = data.stages(night["night_id"])
        if stages:
            components.draw(charts.stage_seconds(stages), "Duration of each stage")
        else:
            st.caption("No stage has finished yet.")
        train = night["summary"].get("train") or {}
        if train:
            st.caption(
                f"Training: loss {formats.plain(train.get('loss'))} · reward margin "
                f"{formats.plain(train.get('reward_margin'))} · "
                f"reward accuracy {formats.percent(train.get('reward_accuracy'))}"
            )


def history(nights: list[Row]) -> None:
    """List the last nights."""
    components.heading("Last nights")
    st.page_link("views/nights.py", label="All nights, with their stages →")
    rows = []
    for night in nights[:10]:
        rows.append(
            {
                "Night": formats.moment(night["started_at"]).removesuffix(" UTC"),
                "Decision": components.status(night["state"]).word,
                "Took": formats.duration(night["summary"].get("seconds")),
            }
        )
    components.table(rows, right=("Took",))


if __name__ == "__main__":
    render()
