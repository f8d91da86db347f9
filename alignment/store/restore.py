"""Rebuild a store from the evidence and from the readable rest of the damaged store.

Effects: writes the store of another state folder, `target`; reads that of `home`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.errors import StoreBusy, StoreCrashed, StoreError
from alignment.store.evidence import STALE, has_id, read_rows, tables, unchanged
from alignment.store.isolated import apart, here
from alignment.store.journal import read_journal
from alignment.store.manifest import EvidencePart, Manifest, part_problem, read_manifest
from alignment.store.migrate import applied_version, migrate, refuse_newer
from alignment.store.session import EVIDENCE, append, append_arrow, session, sql, store_path

_T = TypeVar("_T")
SHARED_IDS = frozenset({"source_files"})
"""Tables in which rows share an id: a log file has one row per batch."""
_RANGE = 50_000
LOG_TABLES = frozenset({"interactions", "signals", "quarantine"})
"""Tables that are refilled by reading the logs again."""
_SCANS = "deep_redactions"
"""Which exchanges were masked a second time. Scanning again does no harm; a recorded scan of an exchange with unmasked text does."""


@dataclass
class Restored:
    """Where rows came from, by table, and in words what was lost. `expected` counts the old store's rows, as far as known.

    `erasures_unknown`: there may have been erasures of which no record was found.
    """

    evidence: dict[str, int] = field(default_factory=dict)
    journal: dict[str, int] = field(default_factory=dict)
    store: dict[str, int] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    exported_at: str = ""
    store_unread: bool = False
    evidence_damaged: bool = False
    erasures_unknown: bool = False


def restore(home: Path, target: Path) -> Restored:
    """Fill a new store in `target` with the evidence of `home`, then with the readable rest of the store of `home`.

    A part that is not as written is reported and skipped.

    Raises:
        StoreError: evidence or store were written by newer code.
    """
    found = Restored()
    manifest = _manifest(home, found)
    old = _old_schema(home)
    found.store_unread = old is None
    migrate(target, upto=manifest.schema if manifest else old)
    if manifest:
        _load_parts(home, target, manifest, found)
        if old is not None and old < manifest.schema:
            found.problems.append(f"the old store has schema {old}, older than the evidence's {manifest.schema}: nothing was read from it")
            old = None
    if old is not None:
        migrate(target, upto=old)
        found = _salvage(home, target, manifest, found)
    migrate(target)
    if manifest is None or found.evidence_damaged:
        _forget_scans(target)
    found.expected.pop(_SCANS, None)
    unread = found.store_unread or "erasures" not in found.store
    found.erasures_unknown = unread and (manifest is None or any((home / EVIDENCE).glob(f"{STALE}*")))
    load_journal(home, target, found)
    _read_logs_again(target, found)
    with session(target, write=True) as connection:
        connection.execute(sql("alignment.store", "seed_exchanges"))
    return found


def _manifest(home: Path, found: Restored) -> Manifest | None:
    try:
        manifest = read_manifest(home)
    except StoreError:
        found.problems.append("both manifests of the evidence are damaged: no part of it was used")
        found.evidence_damaged = True
        return None
    if manifest is None:
        found.problems.append(
            "there is no evidence: verdicts, pairs, answers and decisions that cannot be read from the old store are lost; "
            "exchanges come from the logs that are left"
        )
        return None
    refuse_newer(manifest.schema, f"the evidence in {str(home)!r}")
    if any((home / EVIDENCE).glob(f"{STALE}*")):
        found.problems.append("rows were being erased or changed when the evidence was last touched: erase them again")
    found.exported_at = manifest.exported_at
    found.expected = {name: held.rows for name, held in manifest.tables.items()}
    return manifest


def _old_schema(home: Path) -> int | None:
    """Return the schema of the old store, or None if it cannot be opened."""
    if not store_path(home).is_file():
        return None
    version = _unless_damaged(partial(apart, applied_version, home), None)
    if version is not None:
        refuse_newer(version, f"the store in {str(home)!r}")
    return version


def _load_parts(home: Path, target: Path, manifest: Manifest, found: Restored) -> None:
    found.evidence = dict.fromkeys(manifest.tables, 0)
    for bunch in _bunches([(table, part) for table, held in manifest.tables.items() for part in held.parts]):
        if _load(home, target, bunch, found) is None:
            continue
        # Loading each part alone shows which of them is damaged.
        for one in bunch:
            if problem := _load(home, target, [one], found):
                found.problems.append(f"evidence {problem}")
                found.evidence_damaged = True


def _bunches(parts: Sequence[tuple[str, EvidencePart]]) -> Iterator[list[tuple[str, EvidencePart]]]:
    """Group parts into transactions: most are small, and a transaction for each takes longer than its rows."""
    bunch: list[tuple[str, EvidencePart]] = []
    for table, part in parts:
        if bunch and sum(one.rows for _, one in bunch) + part.rows > _RANGE:
            yield bunch
            bunch = []
        bunch.append((table, part))
    if bunch:
        yield bunch


def _load(home: Path, target: Path, parts: Sequence[tuple[str, EvidencePart]], found: Restored) -> str | None:
    """Load parts in one transaction; return why one of them cannot be loaded, or None."""
    if problems := [problem for _, part in parts if (problem := part_problem(home, part))]:
        return problems[0]
    added: dict[str, int] = defaultdict(int)
    part = parts[0][1]
    try:
        with session(target, write=True) as connection:
            for table, part in parts:
                added[table] += _insert(connection, table, pq.read_table(home / EVIDENCE / part.file), fresh=True)
    except (OSError, pa.ArrowException, duckdb.Error) as error:
        return f"{part.file} cannot be loaded: {str(error).splitlines()[0]} ({part.rows} rows)"
    for table, rows in added.items():
        found.evidence[table] += rows
    return None


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table, *, fresh: bool = False) -> int:
    """Add the rows that the table lacks; parts of one export are `fresh`: they never repeat a row."""
    if table not in tables(connection):
        raise duckdb.CatalogException(f"there is no table {table!r}")
    if has_id(connection, table) and table not in SHARED_IDS:
        return append_arrow(connection, table, rows)
    connection.register("rows", rows)
    # Compare whole rows, with NULLs as equal.
    names = ", ".join(f'"{name}"' for name in rows.column_names)
    known = "" if fresh else f'EXCEPT SELECT {names} FROM "{table}"'  # noqa: S608 - names from the schema
    counted = connection.execute(
        f'INSERT INTO "{table}" BY NAME SELECT * FROM rows {known}'  # noqa: S608 - names from the schema
    ).fetchone()
    connection.unregister("rows")
    return int(counted[0]) if counted else 0


def _seen(home: Path, table: str, manifest: Manifest | None, found: Restored) -> int:
    """Return the rowid below which the new store has every row of the old one: those exported and loaded completely."""
    held = manifest.tables.get(table) if manifest else None
    if held is None or found.evidence.get(table) != held.rows or len(unchanged(home, {table: held.parts})[table]) < len(held.parts):
        return 0
    return held.end


def _unless_damaged(read: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return read()
    except StoreBusy:
        raise
    except (StoreError, duckdb.Error):
        return otherwise


def _extent(home: Path, table: str) -> tuple[int, int] | None:
    with session(home) as connection:
        row = connection.execute(f'SELECT coalesce(max(rowid) + 1, 0), count(*) FROM "{table}"').fetchone()  # noqa: S608
    return (int(row[0]), int(row[1])) if row else None


def _salvage(home: Path, target: Path, manifest: Manifest | None, found: Restored) -> Restored:
    """Read the rest of the old store in one process or, if that process dies, each part in a process of its own."""
    try:
        return apart(_salvaged, home, target, manifest, found, run=here)
    except StoreCrashed:
        return _salvaged(home, target, manifest, found, run=apart)


def _salvaged(home: Path, target: Path, manifest: Manifest | None, found: Restored, *, run: Callable[..., Any]) -> Restored:
    with session(target) as connection:
        wanted = tables(connection)
    for table in wanted:
        if table == _SCANS and manifest:
            continue  # the evidence's texts, which may be older, take precedence
        start = _unless_damaged(partial(run, _seen, home, table, manifest, found), 0)
        extent = _unless_damaged(partial(run, _extent, home, table), None)
        if extent is None:
            found.problems.append(f"the old store's table {table!r} cannot be read")
            continue
        end, count = extent
        found.expected[table] = max(found.expected.get(table, 0), count)
        ranges = [(first, min(first + _RANGE, end)) for first in range(start, end, _RANGE)]
        found.store[table] = sum(_unless_damaged(partial(run, _salvage_range, home, target, table, *one), 0) for one in ranges)
    return found


def _salvage_range(home: Path, target: Path, table: str, start: int, end: int) -> int:
    added = 0
    try:
        for found in read_rows(home, table, start, end):
            with session(target, write=True) as connection:
                added += _insert(connection, table, found.rows)
    except StoreBusy:
        raise
    except (StoreError, duckdb.Error):
        # Missing rows are counted at the end; an unreadable block needs no line of its own.
        return added
    return added


def _forget_scans(target: Path) -> None:
    """Forget the second masking of exchanges that the logs will return unmasked."""
    with session(target, write=True) as connection:
        connection.execute(f"DELETE FROM {_SCANS} WHERE interaction_id NOT IN (SELECT id FROM interactions)")  # noqa: S608 - a name from code


def load_journal(home: Path, target: Path, found: Restored) -> None:
    """Add the journal's rows that the store of `target` lacks."""
    rows, unreadable = read_journal(home)
    if unreadable:
        found.problems.append(f"{unreadable} lines of the journal cannot be read")
        found.evidence_damaged = True
    for table, entries in rows.items():
        try:
            with session(target, write=True) as connection:
                added = append(connection, table, entries)
        except duckdb.Error as error:
            found.problems.append(f"{len(entries)} journalled rows of {table!r} cannot be loaded: {str(error).splitlines()[0]}")
            found.evidence_damaged = True
            continue
        found.journal[table] = found.journal.get(table, 0) + added


def _read_logs_again(target: Path, found: Restored) -> None:
    """Mark logs with missing rows as unread. Each keeps its id, so that nothing is stored or quarantined twice."""
    with session(target, write=True) as connection:
        for table in LOG_TABLES:
            row = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608
            if row and row[0] < found.expected.get(table, 0):
                files = connection.execute("SELECT DISTINCT id, path FROM source_files").fetchall()
                # Remote objects are requested again; what their batches held is in the store or is lost either way.
                there = sorted({str(name) for name, path in files if "://" in path or Path(path).is_file()})
                connection.execute(sql("alignment.store", "restore_unread"), {"ids": there})
                connection.execute(
                    "DELETE FROM source_files WHERE list_contains(?, id) AND (coalesce(end_offset, 1) > 0 OR head IS NULL)", [there]
                )
                return
