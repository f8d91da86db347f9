"""Log files that are set aside whole, with a reason, so that the night goes on with the others.

A file is tried again once it changed, once its source's mapping or limits changed, or when a person lets it in. A file that cannot be read
at all (permissions, links) is tried every night. A source whose files are all set aside, or whose last three are, is more than one bad
file: its mapping may be broken, and that stops the night.

Effects: reads and writes the store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from alignment.ids import content_id
from alignment.ingest.files import LogFile
from alignment.ingest.sources import LogSource
from alignment.sections import Ingest
from alignment.store import append, query, session, sql
from alignment.text import cap, printable

UNUSABLE, DAMAGED, UNREADABLE = "unusable", "damaged", "unreadable"
_IN_A_ROW = 3
_SHOWN = 500


class SetAside(NamedTuple):
    """A file that is set aside, and why."""

    log_file: LogFile
    kind: str
    reason: str


def judged_by(source: LogSource, settings: Ingest) -> str:
    """Return the content address of the settings that decide whether a file of `source` is usable."""
    mapping = (source.shape, source.chat, source.line, source.joins, source.records, source.undated, dict(source.fields))
    return content_id(mapping, settings.max_quarantined, settings.max_line_bytes, settings.max_clock_skew_hours)[:16]


def without_set_aside(
    home: Path, source: LogSource, settings: Ingest, log_files: Sequence[LogFile]
) -> tuple[list[LogFile], list[SetAside]]:
    """Return the files to read, and the files that have not changed since they were set aside."""
    rules = judged_by(source, settings)
    kept_out = {
        (row["path"], row["bytes"], row["mtime_ns"]): row
        for row in _open(home, source)
        if row["judged_by"] == rules and row["kind"] != UNREADABLE
    }
    wanted: list[LogFile] = []
    still: list[SetAside] = []
    for one in log_files:
        row = kept_out.get((one.path, one.size, one.mtime_ns))
        if row is None:
            wanted.append(one)
        else:
            still.append(SetAside(one, row["kind"], row["reason"]))
    return wanted, still


def set_aside(home: Path, source: LogSource, settings: Ingest, found: Collection[SetAside], now: datetime) -> None:
    """Record files as set aside."""
    known = {(row["path"], row["bytes"], row["mtime_ns"], row["judged_by"]): row["reason"] for row in _open(home, source)}
    rows = [_row(source, settings, one, now) for one in found]
    rows = [row for row in rows if known.get((row["path"], row["bytes"], row["mtime_ns"], row["judged_by"])) != row["reason"]]
    with session(home, write=True) as connection:
        append(connection, "files_set_aside", rows)


def _row(source: LogSource, settings: Ingest, one: SetAside, now: datetime) -> dict[str, Any]:
    log_file = one.log_file
    return {
        "id": content_id("aside", source.name, log_file.path, log_file.size, log_file.mtime_ns, now),
        "source": source.name,
        "path": log_file.path,
        "bytes": log_file.size,
        "mtime_ns": log_file.mtime_ns,
        "judged_by": judged_by(source, settings),
        "kind": one.kind,
        "reason": cap(printable(one.reason), _SHOWN),
        "set_aside_at": now,
    }


def _open(home: Path, source: LogSource) -> list[dict[str, Any]]:
    return query(home, sql("alignment.ingest", "set_aside"), {"source": source.name})


def broken(home: Path, source: LogSource, log_files: Sequence[LogFile], read: Sequence[LogFile] = ()) -> str:
    """Return why a source is broken rather than one file bad, or an empty text: all its files are set aside, or the last three are.

    Files no newer than the newest of `read`, the files that this run has read, count as single bad files.
    """
    rows = _open(home, source)
    newest = max((one.mtime_ns or 0 for one in read), default=-1)
    here = {one.path for one in log_files}
    out = [row for row in rows if row["path"] in here]
    in_a_row = [row for row in out if row["since_last_read"] and row["kind"] == UNUSABLE and (row["mtime_ns"] or 0) > newest]
    if not out or (len(out) < len(here) and len(in_a_row) < _IN_A_ROW):
        return ""
    which = "all its files are" if len(out) == len(here) else f"the last {len(in_a_row)} of its files are"
    return (
        f"nothing of the source {source.name!r} is read any more: {which} set aside. The newest: {out[0]['reason'].rstrip('.')}. "
        "'align ingest --accept' reads them as they are"
    )
