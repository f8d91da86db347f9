"""Rows that cannot wait for the next export: written to `<home>/evidence/journal.jsonl` before the store commits them.

Each line carries its own checksum. An export renames the journal at the instant it exports, and removes it once its manifest is written.
Lines are appended under the store's write lock.

Effects: writes `<home>/evidence` and the store.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb

from alignment.errors import NoSpace, StoreError
from alignment.ids import content_id
from alignment.store.manifest import sync_path
from alignment.store.order import numbered
from alignment.store.session import EVIDENCE, append, is_disk_full, session

_NAME = "journal"
Rows = Sequence[Mapping[str, Any]]
Make = Callable[[duckdb.DuckDBPyConnection], Rows]


def append_durably(home: Path, table: str, rows: Rows | Make, *, wait: float = 120.0) -> int:
    """Append rows as `append` does, in a session of its own that commits after the journal is on disk; return how many were new.

    `rows` may be a function that reads the store in the same transaction and returns the rows, none if nothing is to be written; nothing
    is written if it raises.

    Raises:
        StoreBusy: the store stayed locked; nothing was written.
        StoreError: the journal cannot be written; nothing was stored.
        NoSpace: the disk is full; nothing was stored.
    """
    number = uuid4().hex
    logged = False
    try:
        with session(home, write=True, wait=wait) as connection:
            made = list(rows(connection) if callable(rows) else rows)
            made = numbered(connection, table, made)  # so that a rebuild keeps their order
            added = append(connection, table, made)
            if made:
                logged = True
                _log(home, [{"table": table, "row": dict(row), "write": number} for row in made])
    except BaseException:
        if logged:
            # The store did not take them, so a rebuild must not either.
            with contextlib.suppress(StoreError, NoSpace):
                _log(home, [{"withdrawn": number}])
        raise
    return added


def _log(home: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    path = home / EVIDENCE / f"{_NAME}.jsonl"
    lines = []
    for entry in entries:
        plain = json.loads(json.dumps(entry, ensure_ascii=False, default=str))
        lines.append(json.dumps({"sum": content_id(plain), **plain}, ensure_ascii=False) + "\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        with path.open("a+b") as out:
            torn = out.tell() > 0 and (out.seek(-1, os.SEEK_END), out.read(1))[1] != b"\n"
            out.write(b"\n" * torn + "".join(lines).encode("utf-8", "surrogatepass"))
            out.flush()
            os.fsync(out.fileno())
        if fresh:
            sync_path(path.parent)
    except OSError as error:
        if is_disk_full(error):
            raise NoSpace(f"the disk of {str(home)!r} is full; nothing was stored. Free some space and try again") from error
        raise StoreError(
            f"cannot write {str(path)!r}: {error.strerror}; nothing was stored. Correct its permissions and try again"
        ) from error


def read_journal(home: Path) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Return the journalled rows meant for the store, by table, and the number of unreadable lines."""
    entries, unreadable = [], 0
    for path in sorted((home / EVIDENCE).glob(f"{_NAME}*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            if not line:
                continue
            try:
                entry = dict(json.loads(line))
                if entry.pop("sum") != content_id(entry):
                    raise ValueError("the line was changed")
                entries.append(entry)
            except (ValueError, KeyError, TypeError):
                unreadable += 1
    withdrawn = {entry.get("withdrawn") for entry in entries}
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if "row" in entry and entry["write"] not in withdrawn:
            found.setdefault(entry["table"], []).append(entry["row"])
    return found, unreadable


def rotate(home: Path) -> list[Path]:
    """Begin a new journal; return the files of all earlier ones. No writer may be active: the rows are then in the store."""
    folder = home / EVIDENCE
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder / f"{_NAME}.jsonl", folder / f"{_NAME}-{uuid4().hex}.jsonl")
    return sorted(folder.glob(f"{_NAME}-*.jsonl"))
