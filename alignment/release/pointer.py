"""The release in production, its history, and the canary's share of traffic.

`releases/current` is the source of truth for production and changes by one rename. `releases/canary.json` is the source of truth for the
canary and is valid only while the pointer has not moved since. `releases/serving.json` combines both for the serving system; it is
written after either and can be rewritten at any time (`align release push`).

Effects: writes `<home>/releases`.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import ReleaseError
from alignment.release.disk import (
    BASE,
    CANARIES,
    CANARY,
    HISTORY,
    POINTER,
    SERVING,
    append_row,
    is_quarantined,
    next_seq,
    read_rows,
    read_text,
    root,
    write_durably,
)
from alignment.store import audit


class Canary(NamedTuple):
    """A challenger that answers `share` (0..1) of the traffic beside `champion`; `moves` counts the earlier changes of the pointer.

    `seq` is the number of its start among the registry's events (0: it started before events were numbered).
    """

    release_id: str
    champion: str
    share: float
    actor: str
    reason: str
    started_at: str
    moves: int
    seq: int = 0


def current(home: Path) -> str:
    """Return the id of the release in production, `base` if there is none."""
    try:
        return read_text(root(home) / POINTER).strip() or BASE
    except FileNotFoundError:
        return BASE


def history(home: Path) -> list[dict[str, Any]]:
    """Return every change of the pointer that took place, oldest first."""
    rows = read_rows(root(home) / HISTORY)
    # An announced step that was not taken is followed by one from the same place, or by nothing.
    taken = []
    for position, row in enumerate(rows):
        after = rows[position + 1]["previous"] if position + 1 < len(rows) else current(home)
        if after == row["release_id"]:
            taken.append(row)
    return taken


def move(home: Path, release_id: str, *, event: str, actor: str, reason: str, now: str, night_id: str | None = None) -> None:
    """Point to a release that the caller verified; this ends a canary. The caller holds the lock."""
    row: dict[str, Any] = {
        "event": event,
        "release_id": release_id,
        "previous": current(home),
        "actor": actor,
        "reason": reason,
        "recorded_at": now,
        "seq": next_seq(home),
    }
    if night_id:
        row["night_id"] = night_id
    audit.append(home, event, release_id, actor=actor, reason=reason, details={"previous": row["previous"]})
    # History first: after a kill in between, it has a step that the pointer did not take, which `history` leaves out.
    append_row(root(home) / HISTORY, row)
    write_durably(root(home) / POINTER, release_id + "\n")
    write_serving(home)


def current_canary(home: Path) -> Canary | None:
    """Return the canary; None if there is none, the pointer has moved since, or it is quarantined or damaged."""
    try:
        found = Canary(**json.loads(read_text(root(home) / CANARY)))
    except (OSError, ValueError, TypeError, ReleaseError):
        return None
    here = current(home)
    if found.champion != here or found.release_id == here or found.moves != len(history(home)) or is_quarantined(home, found.release_id):
        return None
    return found


def log_canary(home: Path, event: str, held: Canary, *, actor: str, reason: str, now: datetime, seq: int | None = None) -> None:
    """Append a canary's event to the log, with the next number if `seq` is not given; the caller holds the lock."""
    number = next_seq(home) if seq is None else seq
    row = {"seq": number, "event": event, "release_id": held.release_id, "previous": held.champion, "share": held.share}
    append_row(root(home) / CANARIES, {**row, "actor": actor, "reason": reason, "recorded_at": now.isoformat()})


def audit_canary(home: Path, event: str, held: Canary, *, actor: str, reason: str) -> None:
    """Write a canary's upcoming event to the audit log."""
    audit.append(home, event, held.release_id, actor=actor, reason=reason, details={"champion": held.champion, "share": held.share})


def end_in_log(home: Path, event: str, held: Canary, *, actor: str, reason: str, now: datetime) -> None:
    """Write the end of a canary to the audit log and the canary log; the caller holds the lock."""
    audit_canary(home, event, held, actor=actor, reason=reason)
    log_canary(home, event, held, actor=actor, reason=reason, now=now)


def serving(home: Path) -> dict[str, Any]:
    """Return what `serving.json` should contain: champion, canary (or None) and the canary's share."""
    held = current_canary(home)
    return {"champion": current(home), "canary": held.release_id if held else None, "share": held.share if held else 0.0}


def write_serving(home: Path) -> None:
    """Write `serving.json` if it is out of date; the caller holds the lock."""
    if read_serving(home) != (wanted := serving(home)):
        write_durably(root(home) / SERVING, json.dumps(wanted) + "\n")


def read_serving(home: Path) -> dict[str, Any] | None:
    """Return the contents of `serving.json`; None if it is missing or no JSON object."""
    try:
        found = json.loads(read_text(root(home) / SERVING))
    except (OSError, ValueError, ReleaseError):
        return None
    return found if isinstance(found, dict) else None
