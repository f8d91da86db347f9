"""What the gateway did in the last day, read from its log: the last 24 hours, or the newest half a gigabyte of them.

Effects: reads the gateway's log files in the state folder.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb
import streamlit as st

from alignment.ingest import gateway_logs
from alignment.store import sql
from dashboard import data
from dashboard.data import Row

HOURS = 24
_MOST_BYTES = 512 << 20


class Day(NamedTuple):
    """Exchanges by hour and action, rules by id, and times. `whole` says whether all files of the day were read."""

    hours: list[Row]
    rules: list[Row]
    times: Row
    whole: bool


def day() -> Day | None:
    """Return what the gateway logged in the last day, at most a minute old; None if it logged nothing."""
    return _day(str(gateway_logs(data.settings().home)))


@st.cache_data(ttl=60, max_entries=4, show_spinner=False)
def _day(folder: str) -> Day | None:
    files, whole = _files(Path(folder), datetime.now(UTC) - timedelta(hours=HOURS))
    if not files:
        return None
    with duckdb.connect(config={"threads": 1, "memory_limit": "1GB"}) as connection:
        connection.execute(sql("dashboard", "gateway_lines"), {"files": [str(file) for file in files]})
        names = ("gateway_hours", "gateway_rules", "gateway_times")
        hours, rules, times = (data.named(connection, sql("dashboard", name), {}) for name in names)
    return Day(hours, rules, times[0], whole) if times[0]["exchanges"] else None


def _files(folder: Path, since: datetime) -> tuple[list[Path], bool]:
    """Return the files begun since, newest first, as many as may be read; and whether these are all."""
    begun = f"exchanges-{since:%Y%m%dT%H}"
    found: list[Path] = []
    size = 0
    for file in sorted((one for one in folder.glob("exchanges-*.jsonl") if one.name >= begun), reverse=True):
        size += file.stat().st_size
        if found and size > _MOST_BYTES:
            return found, False
        found.append(file)
    return found, True
