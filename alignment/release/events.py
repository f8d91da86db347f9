"""Events of what is served, in the order of the registry's own numbers, and their copy in the store.

The registry's logs are the source of truth. Each numbered event is appended once to the table `release_events`; if a kill or a full disk
prevents that, the next call makes up for it, so that pointer and store agree in the end.

Effects: reads `<home>/releases`; appends to `release_events`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from alignment.errors import NoSpace, StoreError
from alignment.ids import content_id
from alignment.release.disk import CANARIES, QUARANTINED, read_quarantine, read_rows, root, with_reserve
from alignment.release.pointer import current_canary, history
from alignment.store import append, migrate, query, session, store_path

_WAIT = 20.0


def canary_events(home: Path) -> list[dict[str, Any]]:
    """Return the events of canaries, oldest first."""
    rows = [row for row in read_rows(root(home) / CANARIES) if _whole(row)]
    held = current_canary(home)
    starts = [row for row in rows if row["event"] == "canary_started"]
    known = {(row["release_id"], row.get("seq") or row["recorded_at"]) for row in starts}
    if held and (held.release_id, held.seq or held.started_at) not in known:
        row = {"event": "canary_started", "release_id": held.release_id, "previous": held.champion, "share": held.share}
        row |= {"actor": held.actor, "reason": held.reason, "recorded_at": held.started_at}
        rows.append(row | ({"seq": held.seq} if held.seq else {}))
    return rows


def changes(home: Path) -> list[dict[str, Any]]:
    """Return every change of what is served, oldest first, each with a stable `id`; changes without a number came first."""
    known = [row for row in history(home) if _whole(row)]
    rows = sorted([*known, *canary_events(home)], key=lambda row: (row.get("seq") or 0, str(row["recorded_at"])))
    return [{"id": _id(row), **row} for row in rows]


def _whole(row: dict[str, Any]) -> bool:
    """Return whether a row is an event of the registry, and not written by hand."""
    try:
        datetime.fromisoformat(row["recorded_at"])
    except (KeyError, TypeError, ValueError):
        return False
    return row.keys() >= {"event", "release_id", "previous"}


def _id(row: dict[str, Any]) -> str:
    number = [row["seq"]] if row.get("seq") else []
    return content_id("change", row["event"], row["release_id"], row["previous"], row["recorded_at"], *number)


def _quarantines(home: Path) -> list[dict[str, Any]]:
    found = []
    for path in root(home).glob(f"*/{QUARANTINED}"):
        note = read_quarantine(home, name := path.parent.name)
        if note.get("seq"):
            found.append({"id": content_id("quarantined", name, note["seq"]), "event": "quarantined", "release_id": name, **note})
    return found


def tell_store(home: Path, *, look_first: bool = False) -> int:
    """Append the numbered events that the store lacks; return their number. What fails now is appended by the next call.

    With `look_first`, for callers that changed nothing, the store is only read if it lacks nothing. Never raises because of the store or a
    full disk: what is served has changed and stays so.
    """
    if not store_path(home).exists():
        return 0
    with suppress(StoreError, NoSpace, OSError, duckdb.Error):
        happened = [*(row for row in changes(home) if row.get("seq")), *_quarantines(home)]
        rows = [_event(row) for row in sorted(happened, key=lambda row: int(row["seq"]))]
        if not rows or (look_first and not _unknown(home, rows)):
            return 0
        return with_reserve(home, lambda: _append(home, rows))
    return 0


def _unknown(home: Path, rows: Sequence[dict[str, Any]]) -> bool:
    ids = [row["id"] for row in rows]
    [found] = query(home, "SELECT count(DISTINCT id) AS n FROM release_events WHERE list_contains(?, id)", [ids])
    return bool(found["n"] < len(ids))


def _append(home: Path, rows: Sequence[dict[str, Any]]) -> int:
    try:
        with session(home, write=True, wait=_WAIT) as connection:
            return append(connection, "release_events", rows)
    except (duckdb.BinderException, duckdb.CatalogException):  # a store of earlier code
        migrate(home)
        with session(home, write=True, wait=_WAIT) as connection:
            return append(connection, "release_events", rows)


def _event(row: dict[str, Any]) -> dict[str, Any]:
    told = {name: row.get(name) for name in ("id", "release_id", "event", "actor", "reason", "night_id")}
    return {**told, "recorded_at": datetime.fromisoformat(row["recorded_at"])}
