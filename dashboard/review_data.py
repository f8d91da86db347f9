"""The data of the review queue and the Pairs page: items and their holds, verdicts, rulings on pairs.

Effects: reads and appends to the store of the configured state folder.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import duckdb
import streamlit as st

from alignment.errors import NotAllowed
from alignment.labels import Constitution, Principle, load_constitution, review_queue
from alignment.labels.check import constitution_text
from alignment.labels.review_queue import UNDO, Verdict
from alignment.pairs.rulings import Action, rule
from alignment.records import Side
from alignment.store import session, sql
from dashboard import data, identity
from dashboard.data import Row


class Board(NamedTuple):
    """The content of the review page: progress by kind, the item to decide, which answer is on the left, and the verdict to undo.

    `lost` says why a verdict on the item would be refused; `held` lists how many open items each reviewer has on screen.
    """

    progress: list[Row]
    item: Row | None
    undoable: Row | None
    left: str
    lost: str
    held: list[Row]


def review_board(token: str, *, kind: str | None, reviewer: str) -> Board:
    """Return the review page's content, read in one session: the item held by the showing `token`, and who holds the others of `kind`."""
    with session(data.settings().home, wait=data.READ_WAIT) as connection:
        lost = review_queue.lost(connection, token)
        shown = _first(_shown(connection, token))
        return Board(
            data.named(connection, sql("dashboard", "review_progress"), {}),
            _item(connection, shown["item_id"]) if shown else None,
            _first(data.named(connection, sql("alignment.store", "review_undoable"), {"reviewer": reviewer, "undo": UNDO})),
            shown["left_answer"] if shown else "a",
            lost,
            data.named(connection, sql("dashboard", "review_held"), {"kind": kind, **review_queue.alive(_now())}),
        )


def review_preview(kind: str | None, *, item: str | None) -> Row | None:
    """Return the item to show a visitor who may not decide: `item`, else the next free one of `kind`. It is not held."""
    with session(data.settings().home, wait=data.READ_WAIT) as connection:
        waiting = [{"id": item}] if item else []
        waiting += data.named(connection, sql("alignment.store", "review_next"), {"kind": kind, **review_queue.alive(_now())})
        return next((found for row in waiting if (found := _item(connection, row["id"]))), None)


def _first(rows: list[Row]) -> Row | None:
    return rows[0] if rows else None


def _shown(connection: duckdb.DuckDBPyConnection, token: str) -> list[Row]:
    statement = "SELECT item_id, left_answer FROM review_holds WHERE showing = $showing AND event = 'claim' LIMIT 1"
    return data.named(connection, statement, {"showing": token})


def _item(connection: duckdb.DuckDBPyConnection, item: str) -> Row | None:
    found = _first(data.named(connection, sql("alignment.store", "review_item"), {"item": item}))
    if found is None:
        return None
    verdicts = data.named(connection, sql("dashboard", "review_verdicts"), {"item": item})
    return {**found, "detail": data.parsed(found["detail"]), "verdicts": verdicts}


def claim_item(token: str, reviewer: str, *, kind: str | None, item: str | None) -> review_queue.Claimed:
    """Hold `item`, or the next free one of `kind`, for the showing `token`.

    Raises:
        NotAllowed: the visitor is no reviewer.
        StoreBusy: the store stayed locked; nothing was written.
    """
    with identity.acting_as("reviewer"):
        return review_queue.claim(data.settings().home, token, reviewer, now=_now(), kind=kind, item=item, wait=data.WRITE_WAIT)


def renew_hold(token: str) -> str:
    """Extend the hold of a showing; return why it is lost, empty if it is not. A visitor who is no reviewer loses it.

    Raises:
        StoreBusy: the store stayed locked; nothing was written.
    """
    try:
        with identity.acting_as("reviewer"):
            return review_queue.renew(data.settings().home, token, now=_now(), wait=data.WRITE_WAIT)
    except NotAllowed as error:
        return str(error)


def release_hold(token: str) -> None:
    """Release the item of a showing, free for others. Anyone with its token may, even a visitor who is no reviewer any more.

    Raises:
        StoreBusy: the store stayed locked; nothing was written.
    """
    review_queue.release(data.settings().home, token, now=_now(), wait=data.WRITE_WAIT)


def review_history(kind: str | None, limit: int = 500) -> list[Row]:
    """Return the last verdicts, newest first."""
    return data.read("review_history", kind=kind, limit=limit)


def review_positions() -> Row:
    """Return how many verdicts preferred one of two answers, and how many of those the left one."""
    return data.read("review_positions")[0]


def review_disagreements(*, limit: int, offset: int, **filters: str | None) -> list[Row]:
    """Return the items on which people differ from one another, the labelers or the gate; `total` counts all matches."""
    return data.read("review_disagreements", limit=limit, offset=offset, **filters)


def principle_of(item: Row) -> Principle | None:
    """Return the principle that decides an item, as it is in the constitution today; None for an answer of the gate's evaluation.

    Raises:
        ConfigError: the constitution is invalid.
    """
    path = data.settings().labels.constitution
    constitution = _constitution(path, constitution_text(path)[1])
    named = [name for name in data.parsed(item["principles"], []) if name in constitution.versions]
    if named:
        return constitution.named(named[0])
    side, category = item["detail"].get("side"), item["detail"].get("category")
    return constitution.main(Side(side), str(category)) if side in list(Side) and item["kind"] != "gate_audit" else None


# Read on every run of the page and takes a tenth of a second, so cache it; the text is the key, so that an edit shows at once.
@st.cache_data(max_entries=4, show_spinner=False)
def _constitution(path: str, text: str) -> Constitution:
    return load_constitution(path)


def record_verdict(
    token: str, verdict: Verdict, *, reviewer: str, note: str = "", edited_answer: str | None = None
) -> review_queue.VerdictResult:
    """Store a verdict on the item held by the showing `token`, or say why it is refused. People's text is redacted like logs.

    Raises:
        StoreBusy, NoSpace: nothing was written; the caller may retry.
    """
    try:
        with identity.acting_as("reviewer"):
            return review_queue.decide(
                data.settings().home,
                token,
                verdict,
                reviewer=reviewer,
                now=_now(),
                note=data.redacted(note) if note else None,
                edited_answer=data.redacted(edited_answer) if edited_answer else edited_answer,
                wait=data.WRITE_WAIT,
            )
    finally:
        data.forget()


def undo_verdict(verdict: str, reviewer: str) -> str | None:
    """Undo the reviewer's last verdict, whose id is `verdict`, with a new event; return its item, or None if it is not the last.

    Raises:
        StoreBusy, NoSpace: nothing was written; the caller may retry.
    """
    try:
        with identity.acting_as("reviewer"):
            return review_queue.undo(data.settings().home, verdict, reviewer=reviewer, now=_now(), wait=data.WRITE_WAIT)
    finally:
        data.forget()


def rule_on_pair(pair: str, action: Action, *, actor: str, reason: str) -> bool:
    """Exclude or flip a pair, send it to review, or take that back; return False if the ruling was the same before. Redact the reason.

    Raises:
        InputError: a name or reason is missing, or there is nothing to take back.
        StoreBusy, NoSpace: nothing was written; the caller may retry.
    """
    try:
        with identity.acting_as("reviewer"):
            return rule(data.settings().home, pair, action, actor=actor, reason=data.redacted(reason), now=_now(), wait=data.WRITE_WAIT)
    finally:
        data.forget()


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
