"""Paid answers: written to disk before anything else happens to them, then moved to the table `teacher_calls`.

An answer becomes a line of `<home>/teacher_calls.jsonl` as soon as it arrives, and so survives a kill; `settle` moves the lines into the
store in one transaction. Lines hold the exchange's id, so that an erasure finds them.

Answers of the aligned model's own server go to `policy_calls.jsonl`, and into the store only when it was checked after them that the
server is still the same. No other process moves them: it does not know.

Effects: writes `<home>/teacher_calls.jsonl`, `<home>/policy_calls.jsonl` and the store.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from alignment.store.migrate import migrate
from alignment.store.session import append, is_disk_full, no_space, query, session
from alignment.text import storable

_POLICY = "policy"
"""The payer of the calls to the aligned model's own server."""
_FILE, _POLICY_FILE = "teacher_calls.jsonl", "policy_calls.jsonl"
_WAITS = timedelta(days=7)
"""How long answers wait to be checked; their server was not the same since."""
_OWN = "CASE WHEN starts_with(purpose, 'guard:') OR purpose = 'policy' THEN purpose ELSE '' END = ?"


class TeacherSpending(NamedTuple):
    """The cost of calls: tokens in and out together, and money in the prices' unit."""

    tokens: int
    cost: float


class TeacherCalls:
    """The paid calls of one state folder; `spent` and `made` count those of one `payer` only.

    Guards pay for themselves (their calls' purpose is `guard:NAME`), and so does the model's own server (`policy`): moderating a day of
    traffic must not use up what the teacher may spend. The payer '' is the teacher, whose calls are all others.
    """

    def __init__(self, home: Path, *, payer: str = "") -> None:
        self.home, self.payer = home, payer
        self._holds_back = payer == _POLICY
        self._path = home / (_POLICY_FILE if self._holds_back else _FILE)

    def keep(self, row: Mapping[str, Any]) -> None:
        """Write one call to disk at once, so that it survives a kill of this process.

        Raises:
            NoSpace: the disk is full.
        """
        line = json.dumps(dict(row), ensure_ascii=False, default=str)
        with self._locked() as handle:
            try:
                # Begin with a line break too: a line cut by a full disk or a crash then stays a line of its own.
                os.write(handle, f"\n{line}\n".encode("utf-8", "surrogatepass"))
            except OSError as error:
                if is_disk_full(error):
                    raise no_space(self.home) from error
                raise

    def settle(self) -> int:
        """Move the kept calls into the store, except answers of the model's own server; return how many were new there."""
        return self._move(lambda row: not self._holds_back or row.get("response") is None)

    def settle_checked(self, ids: Collection[str]) -> int:
        """Move answers of the model's own server into the store, now that it is known to be the same; return how many were new there."""
        return self._move(lambda row: row["id"] in ids or row.get("response") is None)

    def _move(self, goes: Callable[[dict[str, Any]], bool]) -> int:
        with self._locked() as handle:
            rows = _read(handle)
            moved = [row for row in rows if goes(row)]
            if not moved:
                return 0
            migrate(self.home)
            with session(self.home, write=True) as connection:
                added = append(connection, "teacher_calls", moved)
            _rewrite(handle, [row for row in rows if not goes(row)])
        return added

    def waiting(self, ids: Collection[str]) -> set[str]:
        """Return which of the calls have an answer that is not in the store yet."""
        with self._locked() as handle:
            return {row["id"] for row in _read(handle) if row["id"] in ids and row.get("response") is not None}

    def forget(self, ids: Collection[str]) -> None:
        """Drop answers that are not in the store yet: it has turned out that another model gave them."""
        with self._locked() as handle:
            _rewrite(handle, [row for row in _read(handle) if row["id"] not in ids])

    def find(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the stored answers, by id."""
        self._prepare()
        rows = query(self.home, "SELECT id, response FROM teacher_calls WHERE response IS NOT NULL AND list_contains(?, id)", [list(ids)])
        return {row["id"]: json.loads(row["response"]) for row in rows}

    def spent(self, since: datetime) -> TeacherSpending:
        """Return the cost of calls since `since` (UTC)."""
        self._prepare()
        [row] = query(
            self.home,
            "SELECT coalesce(sum(tokens_in + tokens_out), 0)::BIGINT AS tokens, coalesce(sum(cost), 0)::DOUBLE AS cost "  # noqa: S608
            f"FROM teacher_calls WHERE created_at >= ? AND {_OWN}",
            [since, self.payer],
        )
        return TeacherSpending(row["tokens"], row["cost"])

    def requests(self, since: datetime, purpose: str) -> int:
        """Return how many calls were made for `purpose` since `since` (UTC)."""
        self._prepare()
        [row] = query(self.home, "SELECT count(*) AS n FROM teacher_calls WHERE created_at >= ? AND purpose = ?", [since, purpose])
        return int(row["n"])

    def made(self, since: datetime) -> list[datetime]:
        """Return the times of calls since `since` (UTC), oldest first."""
        self._prepare()
        rows = query(
            self.home,
            f"SELECT created_at FROM teacher_calls WHERE created_at >= ? AND {_OWN} ORDER BY created_at",  # noqa: S608 - a constant
            [since, self.payer],
        )
        return [row["created_at"] for row in rows]

    def _prepare(self) -> None:
        migrate(self.home)
        self.settle()

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self.home.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)


def _read(handle: int) -> list[dict[str, Any]]:
    return list(_rows(os.pread(handle, os.fstat(handle).st_size, 0)))


def _rewrite(handle: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the lines by these, which were among them, and so fit even a full disk; leave out what has waited too long."""
    oldest = datetime.now(UTC).replace(tzinfo=None) - _WAITS
    left = [{**row, "created_at": str(row["created_at"])} for row in rows if row["created_at"] >= oldest]
    os.ftruncate(handle, 0)
    if left:
        os.write(handle, "".join(f"\n{json.dumps(row, ensure_ascii=False)}\n" for row in left).encode("utf-8", "surrogatepass"))


def _rows(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.split(b"\n"):
        # A line that cannot be stored must not keep all others from being stored.
        try:
            row = json.loads(storable(json.dumps(json.loads(line), ensure_ascii=False))) if line else None
            if isinstance(row, dict):
                yield {"purpose": "", **row, "created_at": datetime.fromisoformat(row["created_at"])}
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # cut by a crash: the call is paid for again
