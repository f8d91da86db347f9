"""Rewrite the store into a new file, so that no byte of removed data remains.

Effects: replaces the store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb

from alignment.errors import StoreError
from alignment.store.manifest import sync_path
from alignment.store.session import ROW_GROUP_ROWS, exclusive, is_disk_full, no_space, store_path


def rewrite(home: Path, fill: Callable[[duckdb.DuckDBPyConnection], None], *, wait: float = 120.0) -> None:
    """Replace the store with a new file; `fill` copies what stays from the database `old` into the empty tables of `new`.

    DuckDB keeps the bytes of deleted rows; the new store has no bytes of the rows that `fill` leaves out. At any instant, and after any
    kill, the store is complete: the old one until the rename, the new one after it.

    Raises:
        StoreBusy: it stayed locked for `wait` seconds.
        StoreError: there is no store, or it cannot be read.
        NoSpace: there is no room for a second store; the old one is unchanged.
    """
    path, scratch = store_path(home), home / ".store.rewrite.duckdb"
    if not path.exists():
        raise StoreError(f"there is no store at {str(path)!r}; run 'align nightly' or 'align ingest' first")
    with exclusive(home, wait=wait):
        _remove_scratch(home, scratch)
        if shutil.disk_usage(home).free < path.stat().st_size:
            raise no_space(home)
        try:
            _fold_log(path)
            _copy_into(path, scratch, fill)
            sync_path(scratch)
        except BaseException as error:
            _remove_scratch(home, scratch)
            if is_disk_full(error):
                raise no_space(home) from error
            if isinstance(error, duckdb.Error):
                raise StoreError(f"cannot rewrite the store {str(path)!r}: {error}; it is unchanged. Run 'align doctor'") from error
            raise
        os.replace(scratch, path)
        sync_path(home)


def _remove_scratch(home: Path, scratch: Path) -> None:
    """Remove the leftovers of a killed rewrite, or of a killed query that had run out of memory."""
    for leftover in (scratch, scratch.with_name(f"{scratch.name}.wal")):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(home / f"{store_path(home).name}.tmp", ignore_errors=True)


def _fold_log(path: Path) -> None:
    """Fold what a killed writer left in the write-ahead log into the file: otherwise it would be replayed into the new file."""
    duckdb.connect(str(path)).close()
    if (log := path.with_name(f"{path.name}.wal")).exists():
        raise StoreError(f"the write-ahead log {str(log)!r} could not be folded into the store; run 'align doctor'")


def _copy_into(path: Path, scratch: Path, fill: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.execute("SET temp_directory = ?", [f"{path}.tmp"])
        for name, file, mode in (("old", path, "READ_ONLY"), ("new", scratch, f"ROW_GROUP_SIZE {ROW_GROUP_ROWS}")):
            quoted = str(file).replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS {name} ({mode})")
        connection.execute("COPY FROM DATABASE old TO new (SCHEMA)")
        connection.begin()
        fill(connection)
        connection.commit()
        connection.execute("USE memory; DETACH new; DETACH old")
    finally:
        connection.close()
