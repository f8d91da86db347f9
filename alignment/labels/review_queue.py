"""Hold review items for reviewers and accept their verdicts, so that nobody unknowingly overwrites another person's verdict.

A `Showing` is one act of showing one item to one person. It holds the item for `LEASE`, and longer while the page stays open and
renews it; meanwhile others are offered the next free item. A verdict answers a showing: the first verdict is stored, and a repeat
stores nothing. A verdict is refused if the item was decided, changed, or opened by anybody else since. That check and the
verdict are one transaction, ordered by a sequence number, so that no clock error can let two people both decide.

The clock only decides how long an item is held: a hold is alive within `LEASE` of the time it was recorded at, before or
after it, so a clock that steps back makes the hold last at most twice as long.

Effects: reads and appends to the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb

from alignment.errors import InputError
from alignment.ids import content_id, unit_interval
from alignment.store import append, append_durably, audit, session, sql

Verdict = Literal["agree", "flip", "both_bad", "edit", "not_harmful", "skip"]
Answer = Literal["a", "b"]
Row = dict[str, Any]

LEASE = timedelta(minutes=3)
RENEWALS = 60
"""Renewals that a page may make: with one every half minute, an item that nobody acts on is free after half an hour."""
UNDO = "undo"
WORDS = {
    "agree": "agreed with what was proposed", "flip": "preferred the other answer", "both_bad": "found both answers bad",
    "edit": "wrote a better answer", "not_harmful": "found the request harmless", "skip": "skipped it",
}  # fmt: skip


class Showing(NamedTuple):
    """One act of showing an item: the answer on the `left`, the last verdict known then, and a digest of what is shown."""

    id: str
    item: str
    reviewer: str
    left: Answer
    seen: int
    digest: str


class Claimed(NamedTuple):
    """The showing for a reviewer; None if nothing is free. `refused` says why it is not the requested item."""

    showing: Showing | None
    refused: str = ""


class VerdictResult(NamedTuple):
    """The result of a verdict: `stored`, now or by an earlier call for the same showing, or `refused` for a reason."""

    stored: bool
    refused: str = ""


def claim(
    home: Path, token: str, reviewer: str, *, now: datetime, kind: str | None = None, item: str | None = None, wait: float = 120.0
) -> Claimed:
    """Hold `item`, or else the next free item of `kind`, for the showing `token`; the same token gets the same item again.

    An item held by another showing is not given out, unless the same person holds it and asks for it by name.

    Raises:
        InputError: reviewer or token are empty.
        StoreBusy: the store stayed locked; nothing was written.
    """
    if not reviewer.strip() or not token:
        raise InputError(f"a review needs to know who decides, not {reviewer!r}; sign in and open the page again")
    with session(home, write=True, wait=wait) as connection:
        if (before := _showing(connection, token)) is not None:
            why = _why_stale(connection, before) if before.reviewer == reviewer else f"{before.reviewer} had opened it on this page"
            return Claimed(None, why) if why else Claimed(before)
        refused = _why_not(connection, item, reviewer, now) if item else ""
        wanted = item if item and not refused else _next_free(connection, kind, now)
        if wanted is None:
            return Claimed(None, refused)
        shown = Showing(
            token,
            wanted,
            reviewer,
            left_of(wanted, token),
            _last(connection, "verdicts"),
            _digest(_item(connection, wanted) or {}),
        )
        _record(connection, shown, "claim", now)
        return Claimed(shown, refused)


def left_of(item: str, token: str) -> Answer:
    """Return which answer is on the left, drawn by item and showing, so that a showing never changes sides."""
    return "a" if unit_interval("left", item, token) < 0.5 else "b"


def renew(home: Path, token: str, *, now: datetime, wait: float = 120.0) -> str:
    """Extend the hold of a showing; return why it is lost, or ''.

    After `RENEWALS` the hold is not extended, and the item is free for others once the last hold has expired.

    Raises:
        StoreBusy: the store stayed locked; nothing was written.
    """
    with session(home, write=True, wait=wait) as connection:
        shown = _showing(connection, token)
        why = _why_stale(connection, shown) if shown else "this page never held an item"
        if shown is None or why:
            return why
        done = _one(connection, "SELECT count(*) FROM review_holds WHERE showing = ? AND event = 'renew'", token)
        if done is not None and done[0] < RENEWALS:
            _record(connection, shown, "renew", now)
    return ""


def release(home: Path, token: str, *, now: datetime, wait: float = 120.0) -> None:
    """Release the item of a showing, if it is still held.

    Raises:
        StoreBusy: the store stayed locked; nothing was written.
    """
    with session(home, write=True, wait=wait) as connection:
        shown = _showing(connection, token)
        holder = _holder(connection, shown.item) if shown else None
        if shown and holder and holder["showing"] == token and holder["event"] != "release":
            _record(connection, shown, "release", now)


def lost(connection: duckdb.DuckDBPyConnection, token: str) -> str:
    """Return why a verdict on this showing would be refused, or '' if it would be stored."""
    shown = _showing(connection, token)
    return _why_stale(connection, shown) if shown else ""


def decide(
    home: Path,
    token: str,
    verdict: Verdict,
    *,
    reviewer: str,
    now: datetime,
    note: str | None = None,
    edited_answer: str | None = None,
    wait: float = 120.0,
) -> VerdictResult:
    """Store the verdict of `reviewer` on the item of a showing, or return why it is not stored. The caller redacts texts.

    Raises:
        StoreBusy, NoSpace: nothing was written; the same call may be repeated.
    """
    outcome = VerdictResult(False)

    def make(connection: duckdb.DuckDBPyConnection) -> list[Mapping[str, Any]]:
        nonlocal outcome
        shown = _showing(connection, token)
        if shown is None or shown.reviewer != reviewer:
            outcome = VerdictResult(False, "this page does not hold the item; open it again")
            return []
        name = content_id("verdict", shown.item, token)
        if _one(connection, "SELECT 1 FROM verdicts WHERE id = ?", name):
            outcome = VerdictResult(True)
            return []
        if why := _why_stale(connection, shown):
            outcome = VerdictResult(False, why)
            return []
        outcome = VerdictResult(True)
        audit.append(home, "verdict", shown.item, actor=reviewer, details={"verdict": verdict})
        _record(connection, shown, "release", now)
        event = {"id": name, "item_id": shown.item, "reviewer": reviewer, "verdict": verdict, "edited_answer": edited_answer, "note": note}
        return [event | {"decided_at": now, "seq": _last(connection, "verdicts") + 1, "showing": token, "left_answer": shown.left}]

    # A person's time cannot be recovered: the verdict is on disk twice before the page confirms it.
    append_durably(home, "verdicts", make, wait=wait)
    return outcome


def undo(home: Path, verdict: str, *, reviewer: str, now: datetime, wait: float = 120.0) -> str | None:
    """Take back the verdict with the id `verdict` if it is this reviewer's last; return its item, or None if nothing was taken back.

    The event is a `skip`, which decides nothing, with the note `undo`: every reader of verdicts already understands it.

    Raises:
        StoreBusy, NoSpace: nothing was written; the same call may be repeated.
    """
    item: str | None = None

    def make(connection: duckdb.DuckDBPyConnection) -> list[Mapping[str, Any]]:
        nonlocal item
        last = _one(connection, sql("alignment.store", "review_undoable"), {"reviewer": reviewer, "undo": UNDO})
        if last is None or last[0] != verdict:
            return []
        item = str(last[1])
        audit.append(home, "verdict_undone", item, actor=reviewer)
        event = {"id": content_id("undo", verdict), "item_id": item, "reviewer": reviewer, "verdict": "skip", "edited_answer": None}
        return [event | {"note": UNDO, "decided_at": now, "seq": _last(connection, "verdicts") + 1, "showing": None, "left_answer": None}]

    append_durably(home, "verdicts", make, wait=wait)
    return item


def alive(now: datetime) -> dict[str, datetime]:
    """Return the earliest and the latest recording time of holds that are alive at `now`."""
    return {"after": now - LEASE, "before": now + LEASE}


def _next_free(connection: duckdb.DuckDBPyConnection, kind: str | None, now: datetime) -> str | None:
    row = _one(connection, sql("alignment.store", "review_next"), {"kind": kind, **alive(now)})
    return str(row[0]) if row else None


def _why_not(connection: duckdb.DuckDBPyConnection, item: str, reviewer: str, now: datetime) -> str:
    """Return why an item requested by name cannot be shown to `reviewer` now, or ''."""
    if _item(connection, item) is None:
        return "the item that was asked for is no longer there, as after an erasure; this is the next one"
    holder = _holder(connection, item)
    if holder is None or holder["event"] == "release" or holder["reviewer"] == reviewer:
        return ""
    window = alive(now)
    if not window["after"] < holder["recorded_at"] < window["before"]:
        return ""
    return f"{holder['reviewer']} has the item open that was asked for; this is the next one"


def _why_stale(connection: duckdb.DuckDBPyConnection, shown: Showing) -> str:
    """Return what happened to an item since it was shown, or '' if nothing relevant did."""
    item = _item(connection, shown.item)
    if item is None:
        return "the item is no longer there, as after an erasure; decide the next one"
    since = _one(connection, sql("alignment.labels", "review_decided_since"), {"item": shown.item, "seen": shown.seen})
    if since is not None:
        who = "you" if since[0] == shown.reviewer else str(since[0])
        return f"{who} decided this item at {since[2]:%H:%M} UTC, after it was shown to you: {who} {WORDS.get(since[1], since[1])}"
    if _digest(item) != shown.digest:
        return "the item was changed since it was shown to you; read it again and decide then"
    holder = _holder(connection, shown.item)
    if holder is not None and holder["showing"] != shown.id:
        if holder["reviewer"] == shown.reviewer:
            return "you opened this item in another window since; decide it there"
        return f"{holder['reviewer']} opened this item after your hold on it had run out; it comes back to you if they do not decide it"
    if holder is not None and holder["event"] == "release":
        return "you had let this item go; open it again to decide it"
    return ""


def _showing(connection: duckdb.DuckDBPyConnection, token: str) -> Showing | None:
    row = _one(
        connection,
        "SELECT showing, item_id, reviewer, left_answer, seen, digest FROM review_holds WHERE showing = ? AND event = 'claim' LIMIT 1",
        token,
    )
    return Showing(*row) if row else None


def _holder(connection: duckdb.DuckDBPyConnection, item: str) -> Row | None:
    row = _one(connection, "SELECT showing, reviewer, event, recorded_at FROM review_holders WHERE item_id = ?", item)
    return dict(zip(("showing", "reviewer", "event", "recorded_at"), row, strict=True)) if row else None


def _item(connection: duckdb.DuckDBPyConnection, item: str) -> Row | None:
    cursor = connection.execute(sql("alignment.store", "review_item"), {"item": item})
    names = [column[0] for column in cursor.description or ()]
    row = cursor.fetchone()
    return dict(zip(names, row, strict=True)) if row else None


def _digest(item: Mapping[str, Any]) -> str:
    """Return the content address of what a reviewer is shown of an item."""
    return content_id(*(str(item.get(name)) for name in ("prompt", "answer_a", "answer_b", "proposal", "messages")))


def _record(connection: duckdb.DuckDBPyConnection, shown: Showing, event: str, now: datetime) -> None:
    seq = _last(connection, "review_holds") + 1
    row: Row = {"id": content_id("hold", shown.id, event, seq), "showing": shown.id, "item_id": shown.item, "reviewer": shown.reviewer}
    row |= {"event": event, "seq": seq, "left_answer": shown.left, "seen": shown.seen, "digest": shown.digest, "recorded_at": now}
    append(connection, "review_holds", [row])


def _last(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    """Return the last sequence number of a table; there is only one writer, so the next number is free."""
    row = _one(connection, f"SELECT coalesce(max(seq), 0) FROM {table}")  # noqa: S608 - a name from code
    return int(row[0]) if row else 0


def _one(connection: duckdb.DuckDBPyConnection, statement: str, *parameters: Any) -> tuple[Any, ...] | None:
    given = parameters[0] if parameters and isinstance(parameters[0], dict) else list(parameters)
    row = connection.execute(statement, given or None).fetchone()
    return tuple(row) if row else None
