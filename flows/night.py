"""Shared by all stages of a night: its identity, lock, clock and models.

A night is addressed by what it learns from (traffic, signals, verdicts, settings, constitution, base weights). The next run therefore
resumes a killed night, unless something new arrived meanwhile, and a run with nothing new finds its night finished.

Effects: reads and writes the store; loads models.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from alignment.candidates.author import PROMPTS
from alignment.config import Settings, kept_settings
from alignment.errors import AlignError, NightRunning
from alignment.ids import content_id, short
from alignment.ingest.redact import redact, redaction_key
from alignment.labels import kept_constitutions, load_constitution
from alignment.records import Interaction
from alignment.store import append, query, session, sql
from alignment.text import cap
from flows.policy import base_id
from flows.stopping import ends_in_time


class Night(NamedTuple):
    """A night's id, and its summary if it has finished before."""

    id: str
    finished: dict[str, Any] | None


def now() -> datetime:
    """Return the current time as the store keeps it: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


LOCK = ".night.lock"
_HELD: set[Path] = set()
_TRIES, _LONGEST_ERROR = 5, 2000


@contextmanager
def night_lock(home: Path) -> Iterator[None]:
    """Hold the lock of a state folder's only night, which stages share; a killed process releases it, a stopped process does so in time.

    Raises:
        NightRunning: another process holds it.
    """
    if home in _HELD:
        yield
        return
    home.mkdir(parents=True, exist_ok=True)
    handle = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _taken(handle):
            raise _running(home, handle)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode("ascii"), 0)
        _HELD.add(home)
        with ends_in_time():
            yield
    finally:
        _HELD.discard(home)
        os.close(handle)


def _running(home: Path, handle: int) -> NightRunning:
    holder = os.pread(handle, 100, 0).decode("ascii", "replace").strip() or "unknown"
    return NightRunning(f"another night is running in {str(home)!r} (process {holder}); wait for it, or look at 'align status'")


def refuse_second_night(home: Path) -> None:
    """Raise NightRunning if a process holds the lock of a state folder's only night."""
    try:
        handle = os.open(home / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _running(home, handle) from None
    finally:
        os.close(handle)


@contextmanager
def only_night(settings: Settings) -> Iterator[None]:
    """Hold the night's lock, with settings and constitution frozen until it ends.

    Raises:
        NightRunning: another process holds it.
    """
    # Not passed from stage to stage: Prefect's server stores the arguments of flows and tasks, and settings may hold keys.
    with night_lock(settings.home), kept_settings(settings), kept_constitutions():
        yield


def _taken(handle: int) -> bool:
    """Take the lock; retry, because a page that checks for a running night holds it for some microseconds."""
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if left:
                time.sleep(0.05)
    return False


def plan_night(settings: Settings, *, force: bool = False) -> Night:
    """Return tonight's identity; with `force`, a new one even if nothing is new."""
    [found] = query(settings.home, sql("flows", "night_fingerprint"))
    constitution = load_constitution(settings.labels.constitution)
    parts = [settings.fingerprint, constitution.fingerprint, base_id(settings), found]
    if settings.candidates.author == "teacher":
        parts.append(PROMPTS)
    if force:
        [row] = query(settings.home, "SELECT count(DISTINCT night_id) AS n FROM night_events WHERE event = 'finished'")
        parts.append(row["n"])
    night_id = short(content_id(*parts))
    rows = query(
        settings.home,
        "SELECT summary FROM night_events WHERE night_id = ? AND event = 'finished' ORDER BY recorded_at DESC LIMIT 1",
        [night_id],
    )
    return Night(night_id, _summary(rows[0]["summary"]) if rows else None)


def _summary(text: str) -> dict[str, Any]:
    """Return a stored summary; earlier versions call the gate's stage release."""
    found: dict[str, Any] = json.loads(text)
    if "stages" in found:
        found["stages"] = {"gate" if name == "release" else name: seconds for name, seconds in found["stages"].items()}
    return found


def night_ids(home: Path) -> list[str]:
    """Return all nights ever started, newest first."""
    rows = query(home, "SELECT night_id FROM night_events GROUP BY night_id ORDER BY min(recorded_at) DESC")
    return [str(row["night_id"]) for row in rows]


def unfinished(home: Path) -> str | None:
    """Return the last started night if it has not finished."""
    rows = query(home, sql("flows", "night_last"))
    return str(rows[0]["night_id"]) if rows and not rows[0]["ends"] else None


def record_night(home: Path, night_id: str, event: str, summary: dict[str, Any]) -> None:
    """Append an event of a night; a night that is gated again ends again, with the new result."""
    row = {
        "id": content_id(night_id, event, summary) if summary else content_id(night_id, event),
        "night_id": night_id,
        "event": event,
        "summary": summary,
        "recorded_at": now(),
    }
    with session(home, write=True) as connection:
        append(connection, "night_events", [row])


@contextmanager
def stage(home: Path, night_id: str, name: str) -> Iterator[dict[str, Any]]:
    """Time a stage; store what the block puts into the dictionary as its counts. An exception is stored with the night."""
    counts: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        yield counts
    except BaseException as error:
        record_failure(home, night_id, name, error)
        raise
    record_stage(home, night_id, name, time.perf_counter() - started, counts)


def record_stage(home: Path, night_id: str, name: str, seconds: float, counts: Mapping[str, Any]) -> None:
    """Store the counts and duration of a night's stage."""
    moment = now()
    row = {
        "id": content_id(night_id, name, moment),
        "night_id": night_id,
        "stage": name,
        "seconds": seconds,
        "counts": counts,
        "finished_at": moment,
    }
    with session(home, write=True) as connection:
        append(connection, "stage_runs", [row])


def record_failure(home: Path, night_id: str, name: str, error: BaseException) -> None:
    """Store what stopped a stage of a night, for whoever looks in the morning; if even that fails, report only `error`."""
    moment = now()
    text = "stopped by the person or the system that ran it" if not isinstance(error, Exception) else str(error)
    with suppress(AlignError, duckdb.Error, OSError):
        said = cap(redact(text or type(error).__name__, redaction_key(home))[0], _LONGEST_ERROR)
        row = {
            "id": content_id(night_id, "failed", moment),
            "night_id": night_id,
            "event": "failed",
            "summary": {"stage": name, "error": said},
            "recorded_at": moment,
        }
        with session(home, write=True, wait=10.0) as connection:
            append(connection, "night_events", [row])


@cache
def embedder() -> Any:
    """Return the sentence embedder, loaded once per process."""
    from alignment.models.embedder import Embedder

    return Embedder()


def interaction(row: dict[str, Any]) -> Interaction:
    """Return a store row as a record."""
    return Interaction(
        row["id"],
        row["conversation_id"],
        row["user_id"],
        row["created_at"],
        row["model"],
        tuple(json.loads(row["messages"])),
        row["response"],
    )
