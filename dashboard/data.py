"""Everything the pages read and what they write: verdicts on items, and on what waits for approval.

Each query is a file `alignment/store/sql/dashboard_*.sql` and runs in a short session. Answers are kept for ten seconds (daily
counts for a minute), or until this page writes.

Effects: reads and appends to the store of the configured state folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import streamlit as st

from alignment.config import Settings, load_settings
from alignment.errors import InputError
from alignment.ids import content_id
from alignment.ingest.redact import redact, redaction_key
from alignment.release import BASE, Canary, current, current_canary, folder_of, list_releases
from alignment.release.approval import Say, say
from alignment.store import append_durably, session, sql, store_path
from alignment.store.session import EVIDENCE
from dashboard.telling import tell_hooks

Row = dict[str, Any]
Verdict = Literal["agree", "flip", "edit", "not_harmful", "skip"]

READ_WAIT = 8.0
WRITE_WAIT = 10.0
UNDO = "undo"


class Board(NamedTuple):
    """What the review page shows: the progress by kind, the item to decide, and what an undo would take back."""

    progress: list[Row]
    item: Row | None
    undoable: Row | None


def settings() -> Settings:
    """Return the settings in force.

    Raises:
        ConfigError: they are wrong.
    """
    return load_settings()


def has_store() -> bool:
    """Say whether anything was ever stored; a store that was lost still has its evidence."""
    home = settings().home
    return store_path(home).exists() or (home / EVIDENCE / "manifest.json").exists()


# A person waits for this page, so that it gives up long before a flow would.
@st.cache_data(ttl=10, max_entries=256, show_spinner=False)
def _rows(home: str, name: str, parameters: dict[str, Any]) -> list[Row]:
    with session(Path(home), wait=READ_WAIT) as connection:
        return _run(connection, name, **parameters)


def _run(connection: duckdb.DuckDBPyConnection, name: str, **parameters: Any) -> list[Row]:
    cursor = connection.execute(sql(f"dashboard_{name}"), parameters or None)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def read(name: str, **parameters: Any) -> list[Row]:
    """Return the rows of `dashboard_{name}.sql`, at most ten seconds old."""
    return _rows(str(settings().home), name, parameters)


def _first(rows: list[Row]) -> Row | None:
    return rows[0] if rows else None


def parsed(text: str | None, default: Any = None) -> Any:
    """Return the JSON of a column; `default` (an empty mapping when not given) if it is NULL or no JSON.

    >>> parsed('{"a": 1}'), parsed(None), parsed("not JSON", [])
    ({'a': 1}, {}, [])
    """
    fallback = {} if default is None else default
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return fallback
    return fallback if value is None else value


def stages(night: str) -> list[Row]:
    """Return how long the stages of `night` took."""
    return read("stages", night=night)


def pairs_by_side(night: str) -> dict[str, int]:
    """Return how many pairs `night` trained on, by side; held-out pairs are not counted."""
    rows = read("pairs", night=night)
    return {row["side"]: row["pairs"] for row in rows if row["split"] == "train"}


def production() -> Row | None:
    """Return the release that the registry points to and the event that put it there; None if only the base model ever was.

    A pointer that was moved without its event (a full disk) is shown without one.
    """
    release = current(settings().home)
    event = _first(read("production", release=release))
    return event or (None if release == BASE else {"release_id": release, "event": None, "reason": None, "night_id": None})


def releases() -> list[Row]:
    """Return the registered releases, newest first, with `status`."""
    return list_releases(settings().home)


def release_card(release: str) -> tuple[str, str]:
    """Return a release's card as Markdown and as a page; empty where an older one has none.

    Raises:
        ReleaseError: there is no such release.
    """
    folder = folder_of(settings().home, release)
    found = [path.read_text(encoding="utf-8") if path.is_file() else "" for path in (folder / "card.md", folder / "card.html")]
    return found[0], found[1]


def held_canary() -> Canary | None:
    """Return the canary that holds a share of the traffic."""
    return current_canary(settings().home)


def canary_checks(limit: int = 60) -> list[Row]:
    """Return the looks at the canary that was looked at last, newest first; `curve` is a list."""
    return [{**row, "curve": parsed(row["curve"], [])} for row in read("canary_checks", limit=limit)]


def release_events(limit: int = 200) -> list[Row]:
    """Return what happened to releases, newest first."""
    return read("release_events", limit=limit)


def hook_states(limit: int = 50) -> list[Row]:
    """Return what became of each hook of each change, newest first."""
    with session(settings().home, wait=READ_WAIT) as connection:
        cursor = connection.execute(sql("hook_states"), {"release": None, "limit": limit})
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def labelers() -> list[Row]:
    """Return each labeler as it stood in the last night that labelled, with what was measured of it."""
    return read("labelers")


def measured_detectors() -> list[Row]:
    """Return what was measured of each detector."""
    return read("detectors")


def agreement() -> list[Row]:
    """Return how often each two voters preferred the same answer."""
    return read("agreement")


def pairs_by_source() -> list[Row]:
    """Return accepted pairs by labelers, log source and side."""
    return read("pairs_by_source")


def disagreements(limit: int = 10) -> list[Row]:
    """Return comparisons that labelers decided differently, newest first."""
    return read("disagreements", limit=limit)


def decisions(limit: int = 100) -> list[Row]:
    """Return the gate's decisions, newest first; `reasons` is a list, `weakened` a table or empty."""
    rows = read("decisions", limit=limit)
    return [{**row, "reasons": parsed(row["reasons"], []), "weakened": parsed(row["weakened"])} for row in rows]


def gate_people(decision: str) -> list[Row]:
    """Return what people said of one decision, oldest first."""
    return read("gate_people", decision=decision)


def answer_approval(night: str, verdict: Say, *, seen: str, actor: str, reason: str) -> str:
    """Approve or refuse what waits since `night`, the decision `seen`, and tell the hooks; return what is in production.

    What people write is redacted.

    Raises:
        ReleaseError: nothing waits, a name or reason is missing, or production moved since; nothing was recorded.
        StoreBusy: the store stayed locked.
    """
    try:
        moment = datetime.now(UTC).replace(tzinfo=None)
        here = say(settings().home, night, verdict, actor=actor, reason=_redacted(reason), now=moment, seen=seen)
    finally:
        _rows.clear()
    tell_hooks(settings())
    return here


def gate_metrics(decision: str) -> list[Row]:
    """Return the metrics of one decision, those about harm first."""
    return read("gate_metrics", decision=decision)


def gate_trend(limit: int = 30) -> list[Row]:
    """Return the metrics of the last `limit` decisions, oldest first."""
    return read("gate_trend", limit=limit)


def answers(decision: str, *, suite: str | None, change: str | None, limit: int, offset: int) -> list[Row]:
    """Return the answers of both models that a decision rests on; `total` in each row counts all that match."""
    return read("answers", decision=decision, suite=suite, change=change, limit=limit, offset=offset)


def daily(days: int) -> list[Row]:
    """Return each detector's daily counts over the last `days` of traffic, oldest first."""
    return _daily(str(settings().home), days)


# A second for a million exchanges, which only change when logs are read: kept longer than the rest.
@st.cache_data(ttl=60, max_entries=16, show_spinner=False)
def _daily(home: str, days: int) -> list[Row]:
    with session(Path(home), wait=READ_WAIT) as connection:
        return _run(connection, "daily", days=days)


def drift_latest() -> list[Row]:
    """Return the last comparison of each metric, alarms first."""
    return read("drift_latest")


def drift_history(limit: int = 30) -> list[Row]:
    """Return each metric's alarms in the last `limit` reports, oldest first."""
    return read("drift_history", limit=limit)


def check_runs() -> list[Row]:
    """Return what the last run of each suite of data checks found; `detail` is a mapping."""
    return [{**row, "detail": parsed(row["detail"])} for row in read("check_runs")]


def check_failures(limit: int = 50) -> list[Row]:
    """Return the expectations that were not met, newest first; `detail` is a mapping."""
    return [{**row, "detail": parsed(row["detail"])} for row in read("check_failures", limit=limit)]


def deliveries(days: int) -> list[Row]:
    """Return what each day's ingest read and quarantined, over the last `days` with any, oldest first."""
    return read("deliveries", days=days)


def quarantine_days(days: int) -> list[Row]:
    """Return how many lines each reason took out on each of the last `days` with any, oldest first."""
    return read("quarantine_days", days=days)


def set_aside() -> list[Row]:
    """Return the log files that are kept out whole, newest first."""
    return read("set_aside")


def quarantined(reason: str | None, *, limit: int, offset: int) -> list[Row]:
    """Return quarantined lines, newest first, cut to what a table cell shows; `total` in each row counts all that match."""
    return read("quarantined", reason=reason, limit=limit, offset=offset)


def data_docs() -> dict[str, Path]:
    """Return the Data Docs pages that were written, by suite."""
    found = sorted((settings().home / "data_docs").glob("*.html"))
    return {path.stem: path for path in found if path.stem != "index"}


def review_board(kind: str | None, *, held: str | None, reviewer: str) -> Board:
    """Return what the review page shows, from one session: the item `held` on screen, else the next one of `kind`."""
    return _board(str(settings().home), kind, held, reviewer)


@st.cache_data(ttl=10, max_entries=256, show_spinner=False)
def _board(home: str, kind: str | None, held: str | None, reviewer: str) -> Board:
    with session(Path(home), wait=READ_WAIT) as connection:
        waiting = [{"id": held}] if held else []
        waiting += _run(connection, "review_queue", kind=kind, limit=1)
        items = (_first(_run(connection, "review_item", item=row["id"])) for row in waiting)
        item = next((found for found in items if found), None)
        if item is not None:
            verdicts = _run(connection, "review_verdicts", item=item["id"])
            item = {**item, "detail": parsed(item["detail"]), "verdicts": verdicts}
        return Board(
            _run(connection, "review_progress"),
            item,
            _first(_run(connection, "review_undoable", reviewer=reviewer, undo=UNDO)),
        )


def review_progress() -> list[Row]:
    """Return how many items of each kind are decided, skipped and open, and what was decided."""
    return read("review_progress")


def review_history(kind: str | None, limit: int = 500) -> list[Row]:
    """Return the last verdicts, newest first."""
    return read("review_history", kind=kind, limit=limit)


def _redacted(text: str) -> str:
    return redact(text, redaction_key(settings().home))[0]


def record_verdict(item: str, verdict: Verdict, *, reviewer: str, note: str = "", edited_answer: str | None = None) -> None:
    """Append one verdict. Nothing is overwritten: the last verdict on an item stands. What people write is redacted like logs.

    Raises:
        InputError: the item is no longer there, as after an erasure; nothing was written.
        StoreBusy: the store stayed locked; nothing was written.
    """

    def there(connection: duckdb.DuckDBPyConnection) -> None:
        if connection.execute("SELECT 1 FROM review_items WHERE id = ? LIMIT 1", [item]).fetchone() is None:
            raise InputError(f"the review item {item!r} is no longer there; decide the next one")

    event: Mapping[str, Any] = {
        "item_id": item,
        "reviewer": reviewer,
        "verdict": verdict,
        "edited_answer": _redacted(edited_answer) if edited_answer else edited_answer,
        "note": _redacted(note) if note else None,
        "decided_at": datetime.now(UTC).replace(tzinfo=None),
    }
    # A person's time cannot be had again: the verdict is on disk twice before the page says that it was taken.
    try:
        append_durably(settings().home, "verdicts", [{"id": content_id("verdict", event), **event}], wait=WRITE_WAIT, allow=there)
    finally:
        # An item that is gone must leave the screen as well.
        _rows.clear()
        _board.clear()


def undo_last(reviewer: str) -> str | None:
    """Take back the reviewer's last standing verdict with a new event; return its item, or None if there is none.

    The event is a `skip`, which decides nothing, with the note `undo`: every reader of verdicts already understands it.

    Raises:
        StoreBusy: the store stayed locked; nothing was written.
    """
    last = _first(read("review_undoable", reviewer=reviewer, undo=UNDO))
    if last is None:
        return None
    record_verdict(last["item_id"], "skip", reviewer=reviewer, note=UNDO)
    return str(last["item_id"])
