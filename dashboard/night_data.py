"""Night data for the pages: whether a night is running, how it ended, its stages and what stopped it.

Effects: reads the store and tries the night's lock file of the configured state folder.
"""

from __future__ import annotations

import fcntl
import os
from typing import Any, NamedTuple

from alignment.records import STAGES
from dashboard import data
from dashboard.data import Row


class Stage(NamedTuple):
    """One stage of a night: `state` is done, running, stopped or not yet; the times of all its runs are added."""

    name: str
    state: str
    seconds: float | None
    runs: int
    finished_at: Any
    counts: Row


def working() -> bool:
    """Return whether a process holds the night's lock: a night, or a stage by hand."""
    try:
        handle = os.open(data.settings().home / ".night.lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        # A shared lock, released at once; a night that starts in this very moment retries.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def nights(limit: int = 30) -> list[Row]:
    """Return the last nights, newest first. `state` is how each ended, or `running`, `failed`, `stopped`, `left unfinished`.

    `summary` is a mapping, empty for a night that did not finish.
    """
    waiting = {row["night_id"] for row in data.decisions() if row["waiting"]}
    rows = [{**row, "summary": data.parsed(row["summary"])} for row in data.read("nights", limit=limit)]
    return [{**row, "state": _state(row, newest=number == 0, waits=row["night_id"] in waiting)} for number, row in enumerate(rows)]


def _state(night: Row, *, newest: bool, waits: bool) -> str:
    if night["finished_at"] is None:
        if not newest:
            return "left unfinished"
        if working():
            return "running"
        return "failed" if night["failures"] else "stopped"
    return "waits_for_approval" if waits else str(night["summary"].get("decision") or "no decision")


def stages(night: Row) -> list[Stage]:
    """Return the stages that the night has run, is running and has yet to run."""
    ran = {row["stage"]: row for row in data.stages(night["night_id"])}
    found = []
    # Manual runs may skip stages: the stage after the last one that ran is in progress, or was abandoned.
    here = max((STAGES.index(name) + 1 for name in ran if name in STAGES), default=0)
    going = "not yet" if night["finished_at"] else "running" if night["state"] == "running" else "stopped"
    for number, name in enumerate((*STAGES, *(name for name in ran if name not in STAGES))):
        row = ran.get(name)
        state = "done" if row else going if number == here else "not yet"
        found.append(
            Stage(name, state, row["seconds"], row["runs"], row["finished_at"], data.parsed(row["counts"]))
            if row
            else Stage(name, state, None, 0, None, {})
        )
    return found


def failures(night: str) -> list[Row]:
    """Return what stopped the night, newest first: `at`, `stage`, `error`."""
    return data.read("night_failures", night=night)


def durations(limit: int = 30) -> list[Row]:
    """Return each stage's duration over all its runs, for the last `limit` nights, oldest first."""
    return data.read("night_stages", limit=limit)
