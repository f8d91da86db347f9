"""The gateway's last day: what it did with exchanges, which rules fired, and which checks failed."""

from __future__ import annotations

import streamlit as st

from dashboard import components, data, empty_states, formats, gateway_charts, gateway_data
from dashboard.components import Tile
from dashboard.views import held


def render() -> None:
    """Draw the page."""
    st.title("Gateway", anchor=False)
    if data.has_store():
        st.page_link("views/review.py", label="What it holds for a person is in the review queue →")
    else:
        # The review queue begins with the first night.
        held.render()
    day = gateway_data.day()
    if day is None:
        empty_states.of_rows(
            f"Nothing was logged in the last {gateway_data.HOURS} hours", "The gateway logs every exchange.", "align gateway"
        )
        return
    if not day.whole:
        st.warning("There is more than half a gigabyte of log: these are its newest files.")
    failures(day)
    numbers(day)
    components.heading("What it did, by hour")
    components.draw(gateway_charts.hours(day.hours), "Exchanges by hour and action")
    rules(day)


def failures(day: gateway_data.Day) -> None:
    """Say which checks had no result, those that let texts pass first."""
    for row in day.rules:
        if row["failed_open"]:
            st.error(f"{formats.count(row['failed_open'])} times a check failed, and its rule let the text pass (`fail_open`):")
            components.show_text(f"rule {row['rule']}, check {row['check']}")
        if row["failed_closed"]:
            st.warning(f"{formats.count(row['failed_closed'])} times a check failed, and the text was treated as if it had fired:")
            components.show_text(f"rule {row['rule']}, check {row['check']}")


def numbers(day: gateway_data.Day) -> None:
    """Draw the day's counts."""
    by_action: dict[str, int] = {}
    for row in day.hours:
        by_action[row["action"]] = by_action.get(row["action"], 0) + row["exchanges"]
    total = day.times["exchanges"]
    tiles = [Tile("Exchanges", formats.count(total), f"in {gateway_data.HOURS} hours")]
    tiles += [
        Tile(gateway_charts.ACTIONS[name], formats.count(by_action.get(name, 0)), formats.percent(by_action.get(name, 0) / total))
        for name in ("refuse", "rewrite", "hold", "no answer")
    ]
    half, slowest = formats.duration(day.times["half"]), formats.duration(day.times["slowest"])
    tiles.append(Tile("Time", half, f"99% within {slowest}", help="Median from request to log line, the model's time included."))
    components.tiles("gateway", tiles)


def rules(day: gateway_data.Day) -> None:
    """Draw the rules that fired."""
    if not day.rules:
        st.caption("No rule fired.")
        return
    components.heading("Rules that fired")
    components.table(
        [
            {
                "Rule": row["rule"],
                "Check": row["check"],
                "Action": row["action"] if row["mode"] == "enforce" else f"{row['action']} ({row['mode']})",
                "Fired": formats.count(row["fired"]),
                "Check failed": formats.count(row["failed"]),
            }
            for row in day.rules
        ],
        right=("Fired", "Check failed"),
        wide=("Rule",),
    )


if __name__ == "__main__":
    render()
