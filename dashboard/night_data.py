"""Night data for the pages: whether a night is running, how it ended, its stages and what stopped it.

Effects: reads the store and tries the night's lock file of the configured state folder.
"""

from __future__ import annotations

import fcntl
import os
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

from alignment.records import STAGES
from dashboard import components, data, formats
from dashboard.data import Row

LOCK = ".night.lock"
_NIGHT = re.compile(r"(?<=\bnight )([0-9a-f]{16})\b")


class Related(NamedTuple):
    """What belongs to a night: the gate's last decision and the `release` it was about, if that is registered."""

    night: str
    decision: str | None
    release: str | None
    trained: bool
    pairs: int


class Going(NamedTuple):
    """The night that a process works on, and the stage that it is at. Both are None until it has stored something of a night.

    Until then it reads the logs, or runs a stage by hand. `usual` is how many seconds the stage took in the last night that ran it.
    `stored` is what the stage has stored so far.
    """

    since: datetime
    night: Row | None
    stage: str | None
    stage_since: datetime
    usual: float | None
    stored: Row


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
        handle = os.open(data.settings().home / LOCK, os.O_RDONLY)
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


def going() -> Going | None:
    """Return how far the night is that runs now; None if none runs."""
    try:
        changed = (data.settings().home / LOCK).stat().st_mtime
    except OSError:
        return None
    if not working():
        return None
    # Whoever takes the lock writes its number into the file.
    since = datetime.fromtimestamp(changed, UTC).replace(tzinfo=None)
    stored = data.has_store()  # not in the first moment of the first night
    newest = next(iter(nights() if stored else []), None)
    # A night's first row is written after it has read the logs; until then the newest is one that failed or was killed before.
    night = newest if newest and newest["finished_at"] is None and _last_row(newest) >= since else None
    ran = stages(night) if night else []
    stage = next((each.name for each in ran if each.state == "running"), None)
    stage_since = max([since, *(each.finished_at for each in ran if each.finished_at)])
    lasted = durations() if stored else []
    usual = [row["seconds"] for row in lasted if row["stage"] == stage and row["night_id"] != (night or {}).get("night_id")]
    [so_far] = data.read("stage_progress", since=stage_since) if stored else [{}]
    return Going(since, night, stage, stage_since, usual[-1] if usual else None, so_far)


def _last_row(night: Row) -> datetime:
    """Return when something was last stored of a night that has not finished."""
    ends: list[datetime] = [row["finished_at"] for row in data.stages(night["night_id"])] + [
        row["at"] for row in failures(night["night_id"])
    ]
    return max(ends, default=night["started_at"])


def began(night: str | None) -> datetime | None:
    """Return when a night began; None if it has no row."""
    return {row["night_id"]: row["started_at"] for row in data.read("night_names")}.get(night)


def night_name(night: str | None) -> str:
    """Return a night's one name on all pages: when it began; its id if it has no row, as for a stage by hand."""
    return formats.moment(at) if (at := began(night)) else components.visible(str(night))


def with_names(text: str) -> str:
    """Return a text of the registry's or the gate's in which nights have their names instead of their ids."""
    return _NIGHT.sub(lambda found: night_name(found[1]), text)


def related(night: str) -> Related:
    """Return what belongs to a night."""
    [row] = data.read("night_related", night=night)
    known = {each["release_id"] for each in data.releases()}
    release = row["release"] if row["release"] in known else None
    return Related(night, row["decision"], release, bool(row["runs"]), row["pairs"])


def night_of(release: str) -> str | None:
    """Return the night whose gate decided on a release last."""
    return next((str(row["night_id"]) for row in data.read("release_night", release=release)), None)


def nights(limit: int = 30, *, night: str | None = None) -> list[Row]:
    """Return the last nights, newest first, `night` among them.

    `state` is how each ended, or `running`, `failed`, `stopped`, `left unfinished`.

    `summary` is a mapping, empty for a night that did not finish.
    """
    waiting = {row["night_id"] for row in data.decisions() if row["waiting"]}
    rows = [{**row, "summary": data.parsed(row["summary"])} for row in data.read("nights", limit=limit, night=night)]
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


def counted(night: Row) -> Row:
    """Return the counts of a night's report, or what its stages have counted so far."""
    if counts := night["summary"].get("counts"):
        return dict(counts)
    found: Row = {}
    for stage in stages(night):
        found |= {name: value for name, value in stage.counts.items() if name not in found}
    return found


def failures(night: str) -> list[Row]:
    """Return what stopped the night, newest first: `at`, `stage`, `error`."""
    return data.read("night_failures", night=night)


def durations(limit: int = 30) -> list[Row]:
    """Return each stage's duration over all its runs, for the last `limit` nights, oldest first."""
    return data.read("night_stages", limit=limit)
