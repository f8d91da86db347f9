"""The nights: how far each came, stage durations and counts, what stopped it, and how it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard import charts, components, empty_states, formats, night_data
from dashboard.data import Row
from dashboard.views import links, starting

EVERY = "10s"
# Shown beside the counts already, or of no use to a reader.
UNTOLD = ("seconds", "folder")


def render() -> None:
    """Draw the page."""
    st.title("Nights", anchor=False)
    starting.render()
    nights = night_data.nights(night=st.query_params.get("night"))
    if not nights:
        empty_states.of_rows("No night has run yet", "A night appears here when it starts to read its logs.")
        return
    words = {row["night_id"]: f"{formats.moment(row['started_at'])} · {components.status(row['state']).word}" for row in nights}
    picked = components.pick("night", "Night", words)
    if picked is not None:
        links.of_night(picked, here="nights", name=False)
        night = next(row for row in nights if row["night_id"] == picked)
        # A running night is refreshed; finished nights do not change.
        st.fragment(one, run_every=EVERY if night["state"] == "running" else None)(picked)
    trend()
    history(nights)


def one(picked: str) -> None:
    """Draw one night."""
    with empty_states.of_errors("live"):
        night = next((row for row in night_data.nights(night=picked) if row["night_id"] == picked), None)
        if night is not None:
            summary(night)
            stages(night)


def summary(night: Row) -> None:
    """Draw how the night ended, or how it goes on."""
    with components.card("night"), st.container(gap="small"):
        components.big_status(night["state"])
        ended = f" · finished {formats.moment(night['finished_at'])}" if night["finished_at"] else ""
        st.caption(f"Started {formats.moment(night['started_at'])}{ended}")
        if night["state"] == "running":
            st.markdown("A process is working on it. If it is stopped, its work is kept.")
        elif night["state"] in ("stopped", "failed"):
            st.markdown("It has not finished, and no process is working on it. This resumes it; nothing is asked or generated twice:")
            st.code("align nightly", language=None)
        elif night["state"] == "left unfinished":
            st.markdown("Logs, settings or labels changed before it had finished, so a later night took its place and reused its work.")
        for failure in night_data.failures(night["night_id"]):
            with st.container(gap="xsmall"):
                st.caption(
                    f"Stopped in **{components.title(failure['stage'] or 'an unknown stage').lower()}**, {formats.moment(failure['at'])}"
                )
                components.show_text(failure["error"], key=f"failure-{failure['at']:%Y%m%d%H%M%S%f}")
        for reason in night["summary"].get("reasons") or ():
            components.show_text(components.reason(str(reason)))
        components.fact("Id", night["night_id"])


def stages(night: Row) -> None:
    """Draw the stages of the night in their order, each with what it counted."""
    components.heading("Stages")
    with components.card("stages"):
        for stage in night_data.stages(night):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                components.badge(stage.state)
                st.markdown(f"**{components.title(stage.name)}**", width="content")
                if stage.runs:
                    again = f" · ran {stage.runs} times in total" if stage.runs > 1 else ""
                    took = f"{formats.duration(stage.seconds)}{again} · finished {formats.moment(stage.finished_at)}"
                    st.caption(took, width="content")
            if said := counted(stage.counts):
                components.show_text(said)


def counted(counts: Mapping[str, Any]) -> str:
    """Return a stage's counts in one line.

    >>> counted({"read": 1200, "pairs_by_side": {"harm": 2}, "decision": "promote", "alarms": ["refusal"], "kl": None})
    '1,200 read · pairs by side: harm 2 · decision promote · alarms: refusals'
    """
    told = []
    for name, value in counts.items():
        words = components.title(name).lower()
        if name in UNTOLD:
            continue
        if isinstance(value, Mapping):
            told.append(f"{words}: " + (", ".join(f"{components.title(key).lower()} {value[key]}" for key in value) or "none"))
        elif isinstance(value, list):
            told.append(f"{words}: " + (", ".join(components.title(str(one)).lower() for one in value) or "none"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            told.append(f"{formats.plain(value)} {words}")
        elif value is not None:
            told.append(f"{words} {value}")
    return " · ".join(told)


def trend() -> None:
    """Draw how long the nights took, by stage."""
    rows = night_data.durations()
    if not rows:
        return
    components.heading("How long nights take", "Minutes per stage, over all its runs.")
    with components.card("durations"):
        components.draw(charts.night_stages(rows), "Minutes of each stage, night by night")


def history(nights: list[Row]) -> None:
    """List the last nights."""
    components.heading("All nights", "The last 30, newest first.")
    components.table(
        [written(night) for night in nights], right=("Read", "Pairs", "Took", "Failures"), height=420 if len(nights) > 10 else "content"
    )


def written(night: Row) -> dict[str, str]:
    """Return one night as the cells of the table."""
    counts = night_data.counted(night)
    return {
        "Started": formats.moment(night["started_at"]),
        "State": components.status(night["state"]).word,
        "Read": formats.count(counts.get("read")),
        "Pairs": formats.count(counts.get("pairs")),
        "Took": formats.duration(night["summary"].get("seconds")),
        "Failures": formats.count(night["failures"]),
        "In production after it": components.model(str(night["summary"].get("release_id") or formats.MISSING)),
    }


if __name__ == "__main__":
    render()
