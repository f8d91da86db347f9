"""Exchanges that wait for a person: what was asked, why it is held, and what was decided.

The texts are redacted. They live in a file of their own, so that a gateway never waits for a night that holds the store.

Effects: reads and writes `<home>/gateway/held.sqlite`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from alignment.errors import InputError

Verdict = Literal["allow", "refuse"]
_TABLE = """CREATE TABLE IF NOT EXISTS held (
    id TEXT PRIMARY KEY, created_at TEXT NOT NULL, client TEXT NOT NULL, stage TEXT NOT NULL, reason TEXT NOT NULL,
    record TEXT NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL,
    verdict TEXT, actor TEXT, why TEXT, decided_at TEXT, delivered TEXT)"""


class Item(NamedTuple):
    """A held exchange. `record` is its log line, `request` the body to go on with, `answer` the model's answer (empty: none yet).

    `client` is the name of the key that may ask for the outcome; `delivered` is the body that it got.
    """

    id: str
    created_at: str
    client: str
    stage: str
    reason: str
    record: dict[str, Any]
    request: dict[str, Any]
    answer: dict[str, Any]
    verdict: Verdict | None
    actor: str | None
    why: str | None
    decided_at: str | None
    delivered: dict[str, Any] | None

    @property
    def conversation(self) -> list[dict[str, str]]:
        """What was said, redacted."""
        return [{"role": str(turn.get("role", "")), "content": str(turn.get("content", ""))} for turn in self.record.get("messages", [])]

    @property
    def said(self) -> str:
        """The model's answers, redacted."""
        return "\n".join(choice["text"] for choice in self.answer.get("choices", ()))


class Held:
    """The file of held exchanges; every call opens it anew, so that threads and processes may share it."""

    def __init__(self, home: Path) -> None:
        self.path = home / "gateway" / "held.sqlite"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(self.path, timeout=10)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_TABLE)
            with connection:
                yield connection
        finally:
            connection.close()

    def put(
        self,
        name: str,
        *,
        client: str,
        stage: str,
        reason: str,
        record: Mapping[str, Any],
        request: Mapping[str, Any],
        answer: Mapping[str, Any],
    ) -> None:
        """Hold an exchange."""
        row = (name, _now(), client, stage, reason, json.dumps(record), json.dumps(request), json.dumps(answer))
        with self._open() as connection:
            connection.execute(
                "INSERT INTO held (id, created_at, client, stage, reason, record, request, answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
            )

    def get(self, name: str) -> Item | None:
        """Return an exchange, None if there is none of this id."""
        if not self.path.exists():
            return None
        with self._open() as connection:
            row = connection.execute("SELECT * FROM held WHERE id = ?", [name]).fetchone()
        return _item(row) if row else None

    def waiting(self) -> list[Item]:
        """Return what nobody has decided yet, oldest first."""
        if not self.path.exists():
            return []
        with self._open() as connection:
            return [_item(row) for row in connection.execute("SELECT * FROM held WHERE verdict IS NULL ORDER BY created_at, id")]

    def decide(self, name: str, verdict: Verdict, *, actor: str, why: str = "") -> Item:
        """Store a person's decision; the first one counts.

        Raises:
            InputError: there is no such exchange, or somebody has decided it.
        """
        if not actor.strip():
            raise InputError("a decision needs to know who decides; sign in, or give --actor NAME")
        with self._open() as connection:
            done = connection.execute(
                "UPDATE held SET verdict = ?, actor = ?, why = ?, decided_at = ? WHERE id = ? AND verdict IS NULL",
                [verdict, actor, why, _now(), name],
            )
        item = self.get(name)
        if item is None:
            raise InputError(f"nothing is held under {name!r}; 'align gateway held' lists what waits")
        if not done.rowcount:
            raise InputError(f"{item.actor} decided {name!r} at {item.decided_at}: {item.verdict}")
        return item

    def deliver(self, name: str, body: Mapping[str, Any]) -> bool:
        """Keep what the client gets, so that it gets the same again; return whether this was the first time."""
        with self._open() as connection:
            done = connection.execute("UPDATE held SET delivered = ? WHERE id = ? AND delivered IS NULL", [json.dumps(body), name])
        return bool(done.rowcount)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _item(row: tuple[Any, ...]) -> Item:
    item = Item(*row)
    return item._replace(
        record=json.loads(row[5]),
        request=json.loads(row[6]),
        answer=json.loads(row[7]),
        delivered=json.loads(row[12]) if row[12] else None,
    )
