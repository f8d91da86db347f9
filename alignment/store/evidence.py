"""The evidence, which survives the loss of the store: every table as Parquet parts under `<home>/evidence`.

An export writes the rows added since the last one, up to one instant for all tables, and then replaces the manifest. Parts that no
manifest names do not count, so that a kill leaves the previous evidence. A part is a range of DuckDB's `rowid`, which only grows while
rows are appended. A part whose rows have changed in the store is rewritten; rows missing in the store are a loss, which an export refuses
to forget. Code that deletes rows does so inside `rewriting`.

Effects: writes `<home>/evidence`, reads the store in sessions of at most 100,000 rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.errors import NoSpace, StoreBusy, StoreError
from alignment.ids import file_sha256
from alignment.store.journal import rotate
from alignment.store.manifest import NOTHING, EvidencePart, Manifest, TableEvidence, read_manifest, sync_path, write_manifest
from alignment.store.migrate import schema_version
from alignment.store.session import EVIDENCE, exclusive_file, is_disk_full, session, sql

_FIRST_CHUNK, _MOST_ROWS, _CHUNK_BYTES = 10_000, 100_000, 64 * 2**20
HOLD_SECONDS = 0.2
"""How long a session reads before it lets a writer in."""
LOCK, LOCK_WAIT = ".evidence.lock", 600.0
STALE = "stale-"


class _Bound(NamedTuple):
    """A table at one instant."""

    end: int
    rows: int


class _Rows(NamedTuple):
    start: int
    end: int
    mark: str
    rows: pa.Table


class _Changed(Exception):
    """Rows were deleted during the export, or moved to where there is no part."""


def tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return every table whose rows are evidence; migrations fill `schema_migrations` themselves."""
    rows = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main' AND table_type = 'BASE TABLE' "
        "AND table_name <> 'schema_migrations' ORDER BY table_name"
    ).fetchall()
    return [str(row[0]) for row in rows]


def has_id(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Return whether the rows of `table` have an id."""
    return any(column[0] == "id" for column in connection.execute(f'DESCRIBE "{table}"').fetchall())


def export(home: Path) -> dict[str, int]:
    """Write the rows that the evidence lacks; return the number of rows written, by table.

    Raises:
        StoreError: rows of the evidence are missing in the store, or its manifest is damaged; nothing was changed.
        NoSpace: the disk is full; the evidence is unchanged.
    """
    (home / EVIDENCE).mkdir(parents=True, exist_ok=True)
    with exclusive_file(home / LOCK, wait=LOCK_WAIT):
        return _export(home)


@contextmanager
def rewriting(home: Path) -> Iterator[dict[str, int]]:
    """Delete or update rows of the store in this block; the evidence follows at its end or, after a kill, with the next export.

    The yielded dictionary then holds the number of rows written, by table. Do not export within the block.

    Raises:
        StoreBusy: another export did not end.
        NoSpace: the disk is full; the next export starts afresh.
    """
    folder = home / EVIDENCE
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    # No export may start before the rows change and remove the mark afterwards.
    with exclusive_file(home / LOCK, wait=LOCK_WAIT):
        (folder / f"{STALE}{uuid4().hex}").touch()
        sync_path(folder)
        yield written
        written |= _export(home)


def _export(home: Path) -> dict[str, int]:
    folder = home / EVIDENCE
    announced = sorted(folder.glob(f"{STALE}*"))
    for attempt in range(3):
        try:
            before = _last_manifest(home, afresh=bool(announced))
            if attempt:
                for table, held in before.tables.items():
                    refuse_a_loss(home, table, held)
                before = before._replace(tables={})
            written = _export_once(home, before)
        except _Changed:
            continue
        except (OSError, pa.ArrowException) as error:
            if is_disk_full(error):
                raise NoSpace(f"the disk of {str(home)!r} is full; free some space and run the same command again") from error
            raise StoreError(f"cannot write evidence in {str(folder)!r}: {error}; correct it and run the same command again") from error
        for path in announced:
            path.unlink(missing_ok=True)
        return written
    raise StoreBusy(f"rows of the store in {str(home)!r} kept changing while they were exported; run the same command again")


def _last_manifest(home: Path, *, afresh: bool) -> Manifest:
    try:
        found = read_manifest(home)
    except StoreError:
        if not afresh:
            raise
        found = None
    version = schema_version(home)
    number = found.number if found else max((int(path.stem.split("-")[0]) for path in _parts_on_disk(home)), default=0)
    # A migration may have recreated tables: their rows are no longer where they were.
    if found is None or afresh or found.schema != version:
        return Manifest(number, version, "", {})
    return found


def _export_once(home: Path, before: Manifest) -> dict[str, int]:
    bounds, journals, moment = _snapshot(home)
    number = before.number + 1
    held, written = {}, {}
    as_written = unchanged(home, {table: before.tables.get(table, NOTHING).parts for table in bounds})
    for table, bound in bounds.items():
        old, kept = before.tables.get(table, NOTHING), as_written[table]
        if changed := [part for part in old.parts if part not in kept]:
            refuse_a_loss(home, table, old._replace(parts=tuple(changed)))
        parts = _write_parts(home, table, _ranges(changed, old.end, bound.end), number)
        written[table] = sum(part.rows for part in parts)
        if sum(part.rows for part in kept) + written[table] != bound.rows:
            raise _Changed(table)
        every = tuple(sorted([*kept, *parts], key=lambda part: part.start))
        # Rows may land below the end of a part that was not full: they belong to it.
        held[table] = TableEvidence(max([bound.end, *(part.end for part in every)]), bound.rows, every)
    for folder in {(home / EVIDENCE / part.file).parent for one in held.values() for part in one.parts}:
        sync_path(folder)
    write_manifest(home, Manifest(number, before.schema, moment, held))
    for path in [*journals, *leftover_parts(home)]:
        path.unlink(missing_ok=True)
    return written


def _ranges(changed: list[EvidencePart], seen: int, end: int) -> list[tuple[int, int]]:
    """Return the ranges to read: those of changed parts, with adjacent ranges merged, and the new rows."""
    found: list[tuple[int, int]] = []
    for start, stop in [*((part.start, part.end) for part in changed), (seen, end)]:
        if found and found[-1][1] == start < stop:
            found[-1] = (found[-1][0], stop)
        elif start < stop:
            found.append((start, stop))
    return found


def _snapshot(home: Path) -> tuple[dict[str, _Bound], list[Path], str]:
    """Fix the instant of the export. No writer is active meanwhile, so that the journal's rows are already in the store."""
    with session(home) as connection:
        journals = rotate(home)
        bounds = {}
        for table in tables(connection):
            row = connection.execute(f'SELECT coalesce(max(rowid) + 1, 0), count(*) FROM "{table}"').fetchone()  # noqa: S608
            bounds[table] = _Bound(*row) if row else _Bound(0, 0)
        return bounds, journals, datetime.now(UTC).isoformat(timespec="seconds")


def unchanged(home: Path, parts: Mapping[str, Sequence[EvidencePart]]) -> dict[str, list[EvidencePart]]:
    """Return, by table, the parts whose rows are unchanged in the store."""
    kept: dict[str, list[EvidencePart]] = {table: [] for table in parts}
    left = [(table, part) for table, written in parts.items() for part in written]
    while left:
        # Opening the store costs more than reading a small table: a session reads as many as fit into its time.
        with session(home) as connection:
            until = time.monotonic() + HOLD_SECONDS
            known = set(tables(connection))
            while left and time.monotonic() < until:
                table, part = left.pop(0)
                if table in known and _mark(connection, table, part.start, part.end) == (part.rows, part.mark):
                    kept[table].append(part)
    return kept


def _mark(connection: duckdb.DuckDBPyConnection, table: str, start: int, end: int) -> tuple[int, str]:
    row = connection.execute(
        f'SELECT count(*), coalesce(bit_xor(hash(t)), 0)::VARCHAR FROM "{table}" AS t WHERE rowid >= ? AND rowid < ?',  # noqa: S608
        [start, end],
    ).fetchone()
    return (int(row[0]), str(row[1])) if row else (0, "0")


def _write_parts(home: Path, table: str, ranges: Sequence[tuple[int, int]], number: int) -> list[EvidencePart]:
    folder = home / EVIDENCE / table
    parts: list[EvidencePart] = []
    for found in (one for start, end in ranges for one in read_rows(home, table, start, end)):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:06}-{len(parts):04}.parquet"
        scratch = path.with_suffix(".part")
        with scratch.open("wb") as out:
            pq.write_table(found.rows, out, compression="zstd")
            out.flush()
            os.fsync(out.fileno())
        os.replace(scratch, path)
        size, digest = path.stat().st_size, file_sha256(path)
        parts.append(EvidencePart(f"{table}/{path.name}", found.rows.num_rows, size, digest, found.start, found.end, found.mark))
    return parts


def read_rows(home: Path, table: str, start: int, end: int) -> Iterator[_Rows]:
    """Yield the rows with start <= rowid < end in order; each session ends before the caller works on its rows."""
    step = _FIRST_CHUNK
    while start < end:
        stop = min(start + step, end)
        with session(home) as connection:
            rows = connection.execute(f'SELECT * FROM "{table}" WHERE rowid >= ? AND rowid < ?', [start, stop]).to_arrow_table()  # noqa: S608
            _, mark = _mark(connection, table, start, stop)
        if rows.num_rows:
            step = max(1, min(_MOST_ROWS, _CHUNK_BYTES * rows.num_rows // max(rows.nbytes, 1)))
            yield _Rows(start, stop, mark, rows)
        start = stop


def missing_rows(home: Path, table: str, old: TableEvidence) -> int:
    """Return how many rows of the table's evidence the store lacks; missing parts are not counted."""
    paths = [str(home / EVIDENCE / part.file) for part in old.parts if (home / EVIDENCE / part.file).is_file()]
    with session(home) as connection:
        if table not in tables(connection):
            return old.rows
        if paths and has_id(connection, table):
            statement, parameters = sql("alignment.store", "evidence_missing").format(table=f'"{table}"'), {"paths": paths}
            row = connection.execute(statement, parameters).fetchone()
            return int(row[0]) if row else 0
        row = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608
        return max(0, old.rows - int(row[0] if row else 0))


def refuse_a_loss(home: Path, table: str, old: TableEvidence) -> None:
    """Raise StoreError if the store lost rows that the evidence holds; rows that only moved are no loss."""
    if missing := missing_rows(home, table, old):
        raise StoreError(
            f"{missing} rows of {table!r} are in the evidence but no longer in the store; run 'align doctor --rebuild' to bring them "
            f"back, or move {str(home / EVIDENCE)!r} away if they were removed on purpose"
        )


def _parts_on_disk(home: Path) -> list[Path]:
    return sorted((home / EVIDENCE).glob("*/*.par*"))


def leftover_parts(home: Path) -> list[Path]:
    """Return the part files that the manifest does not name: leftovers of a kill."""
    found = read_manifest(home)
    named = {part.file for held in found.tables.values() for part in held.parts} if found else set()
    return [path for path in _parts_on_disk(home) if f"{path.parent.name}/{path.name}" not in named]
