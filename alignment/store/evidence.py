"""What survives the loss of the store: every table as Parquet parts under `<home>/evidence`.

An export writes the rows that came since the last one, up to one instant for all tables, and then replaces the manifest: parts
that no manifest names do not count, so that a kill leaves the evidence of the export before. Rows are told apart by DuckDB's
`rowid`, which only grows while rows are appended. Who deletes or updates rows does it inside `rewriting`; rows that are missing
without that are a loss, and an export refuses to forget them.

Effects: writes `<home>/evidence`, reads the store in sessions of at most 100,000 rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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
from alignment.store.manifest import Held, Manifest, Part, read_manifest, sync_folder, write_manifest
from alignment.store.migrate import schema_version
from alignment.store.session import EVIDENCE, exclusive_file, is_disk_full, session, sql

_FIRST_CHUNK, _MOST_ROWS, _CHUNK_BYTES = 10_000, 100_000, 64 * 2**20
_LOCK, _LOCK_WAIT = ".evidence.lock", 600.0
STALE = "stale-"


class _Bound(NamedTuple):
    """A table at one instant: its rows, and those of them that the last export saw."""

    end: int
    rows: int
    mark: str
    rows_before: int
    mark_before: str


class _Changed(Exception):
    """Rows were deleted while they were exported."""


def tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return every table whose rows are evidence; migrations write their own."""
    rows = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main' AND table_type = 'BASE TABLE' "
        "AND table_name <> 'schema_migrations' ORDER BY table_name"
    ).fetchall()
    return [str(row[0]) for row in rows]


def has_id(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Say whether the rows of `table` have an id."""
    return any(column[0] == "id" for column in connection.execute(f'DESCRIBE "{table}"').fetchall())


def export(home: Path) -> dict[str, int]:
    """Write what the evidence does not hold yet; return the number of rows written, by table.

    Raises:
        StoreError: rows that the evidence holds are missing in the store, or its manifest is damaged; nothing was changed.
        NoSpace: the disk is full; the evidence is as it was.
    """
    (home / EVIDENCE).mkdir(parents=True, exist_ok=True)
    with exclusive_file(home / _LOCK, wait=_LOCK_WAIT):
        return _export(home)


def rewrite_evidence(home: Path) -> dict[str, int]:
    """Write everything afresh and drop the old parts and journals; return the number of rows, by table.

    What was erased from the store is gone from the evidence afterwards.

    Raises:
        NoSpace: the disk is full; the evidence is as it was, and the next export starts afresh.
    """
    with rewriting(home) as written:
        pass
    return written


@contextmanager
def rewriting(home: Path) -> Iterator[dict[str, int]]:
    """Delete or update rows of the store in this block; the evidence follows at its end, after a kill with the next export.

    The yielded dictionary then holds the number of rows, by table. Do not export within the block.

    Raises:
        StoreBusy: another export did not end.
        NoSpace: the disk is full; the next export starts afresh.
    """
    folder = home / EVIDENCE
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    # No export may start before the rows are changed and take the mark away after.
    with exclusive_file(home / _LOCK, wait=_LOCK_WAIT):
        (folder / f"{STALE}{uuid4().hex}").touch()
        sync_folder(folder)
        yield written
        written |= _export(home)


def _export(home: Path) -> dict[str, int]:
    folder = home / EVIDENCE
    announced = sorted(folder.glob(f"{STALE}*"))
    for _ in range(3):
        try:
            written = _export_once(home, _last_manifest(home, afresh=bool(announced)))
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
    # A migration may have made tables anew: their rows are no longer where they were.
    if found is None or afresh or found.schema != version:
        return Manifest(number, version, "", {})
    return found


def _export_once(home: Path, before: Manifest) -> dict[str, int]:
    bounds, journals, moment = _snapshot(home, before)
    number = before.number + 1
    held, written = {}, {}
    for table, bound in bounds.items():
        old = before.tables.get(table, Held(0, 0, "0", ()))
        if (bound.rows_before, bound.mark_before) != (old.rows, old.mark):
            refuse_a_loss(home, table, old)
            old = Held(0, 0, "0", ())
        parts = _write_parts(home, table, old.end, bound.end, number)
        written[table] = sum(part.rows for part in parts)
        if old.rows + written[table] != bound.rows:
            raise _Changed(table)
        held[table] = Held(bound.end, bound.rows, bound.mark, (*old.parts, *parts))
    for folder in {(home / EVIDENCE / part.file).parent for one in held.values() for part in one.parts}:
        sync_folder(folder)
    write_manifest(home, Manifest(number, before.schema, moment, held))
    for path in [*journals, *leftover_parts(home)]:
        path.unlink(missing_ok=True)
    return written


def _snapshot(home: Path, before: Manifest) -> tuple[dict[str, _Bound], list[Path], str]:
    """Fix the instant that is exported. No writer is at work meanwhile, so that what the journal holds is in the store by now."""
    with session(home) as connection:
        journals = rotate(home)
        bounds = {table: _bound(connection, table, before.tables.get(table)) for table in tables(connection)}
        return bounds, journals, datetime.now(UTC).isoformat(timespec="seconds")


def _bound(connection: duckdb.DuckDBPyConnection, table: str, old: Held | None) -> _Bound:
    mark = "hash(id)" if has_id(connection, table) else "0"
    row = connection.execute(
        f"SELECT coalesce(max(rowid) + 1, 0), count(*), coalesce(bit_xor({mark}), 0)::VARCHAR, "  # noqa: S608 - names from the schema
        f'count(*) FILTER (rowid < $seen), coalesce(bit_xor({mark}) FILTER (rowid < $seen), 0)::VARCHAR FROM "{table}"',
        {"seen": old.end if old else 0},
    ).fetchone()
    return _Bound(*row) if row else _Bound(0, 0, "0", 0, "0")


def moved(home: Path, table: str, old: Held) -> bool:
    """Say whether the rows that the evidence holds of a table are no longer the ones that the store has in their place."""
    with session(home) as connection:
        bound = _bound(connection, table, old)
    return (bound.rows_before, bound.mark_before) != (old.rows, old.mark)


def _write_parts(home: Path, table: str, start: int, end: int, number: int) -> list[Part]:
    folder = home / EVIDENCE / table
    parts: list[Part] = []
    for rows in read_rows(home, table, start, end):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:06}-{len(parts):04}.parquet"
        scratch = path.with_suffix(".part")
        with scratch.open("wb") as out:
            pq.write_table(rows, out, compression="zstd")
            out.flush()
            os.fsync(out.fileno())
        os.replace(scratch, path)
        parts.append(Part(f"{table}/{path.name}", rows.num_rows, path.stat().st_size, file_sha256(path)))
    return parts


def read_rows(home: Path, table: str, start: int, end: int) -> Iterator[pa.Table]:
    """Yield the rows with start <= rowid < end in order, in sessions of their own that end before the caller works on them."""
    step = _FIRST_CHUNK
    while start < end:
        stop = min(start + step, end)
        with session(home) as connection:
            rows = connection.execute(f'SELECT * FROM "{table}" WHERE rowid >= ? AND rowid < ?', [start, stop]).to_arrow_table()  # noqa: S608
        if rows.num_rows:
            step = max(1, min(_MOST_ROWS, _CHUNK_BYTES * rows.num_rows // max(rows.nbytes, 1)))
            yield rows
        start = stop


def missing_rows(home: Path, table: str, old: Held) -> int:
    """Return how many rows of the table's evidence the store does not hold; parts that are gone are not counted."""
    paths = [str(home / EVIDENCE / part.file) for part in old.parts if (home / EVIDENCE / part.file).is_file()]
    with session(home) as connection:
        if table not in tables(connection):
            return old.rows
        if paths and has_id(connection, table):
            statement, parameters = sql("evidence_missing").format(table=f'"{table}"'), {"paths": paths}
            row = connection.execute(statement, parameters).fetchone()
            return int(row[0]) if row else 0
        row = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608
        return max(0, old.rows - int(row[0] if row else 0))


def refuse_a_loss(home: Path, table: str, old: Held) -> None:
    """Raise StoreError if the store lost rows that the evidence holds; rows that only moved are no loss."""
    if missing := missing_rows(home, table, old):
        raise StoreError(
            f"{missing} rows of {table!r} are in the evidence but no longer in the store; run 'align doctor --rebuild' to bring them "
            f"back, or move {str(home / EVIDENCE)!r} away if they were removed on purpose"
        )


def _parts_on_disk(home: Path) -> list[Path]:
    return sorted((home / EVIDENCE).glob("*/*.par*"))


def leftover_parts(home: Path) -> list[Path]:
    """Return the files of parts that the manifest does not name: what a kill left behind."""
    found = read_manifest(home)
    named = {part.file for held in found.tables.values() for part in held.parts} if found else set()
    return [path for path in _parts_on_disk(home) if f"{path.parent.name}/{path.name}" not in named]
