"""Short sessions on the store, safe between processes and threads.

DuckDB allows one process to write, or many to read. A turnstile keeps both sides moving: every session acquires `gate` exclusively, then
acquires `lock` (shared to read, exclusive to write), and then releases `gate`. A waiting writer therefore holds newcomers back instead of
starving behind a stream of readers.

Effects: opens files under the state folder. Never hold a session across a model call.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from alignment.errors import NoSpace, NotPermitted, StoreBusy, StoreError
from alignment.store.order import numbered

_POLL_SECONDS = 0.005
ROW_GROUP_ROWS = 30_720
"""Rows DuckDB writes together; closing rewrites a table's last, partial group, so smaller groups block readers for less time."""
EVIDENCE, REBUILD = "evidence", ".rebuild"


def store_path(home: Path) -> Path:
    """Return the path of the store in the state folder `home`."""
    return home / "store.duckdb"


def wal_path(home: Path) -> Path:
    """Return the path of DuckDB's write-ahead log, which keeps the last commits of a killed writer."""
    return home / "store.duckdb.wal"


def _acquire(fd: int, mode: int, deadline: float, holder: Path) -> None:
    while True:
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise StoreBusy(
                    f"the store next to {str(holder)!r} stayed locked by another process; "
                    "wait for it to finish, or find it with 'lsof' and stop it"
                ) from None
            time.sleep(_POLL_SECONDS)


_ACCOUNT = "let the account that runs align own the state folder (chown), or set ALIGN_HOME to another one"


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotPermitted(f"cannot use the store in {str(path.parent)!r}: {error.strerror}; {_ACCOUNT}") from error
        raise


@contextmanager
def _turnstile(home: Path, *, write: bool, wait: float) -> Iterator[None]:
    gate_file, lock_file = home / ".store.gate", home / ".store.lock"
    deadline = time.monotonic() + wait
    # A new descriptor per call: flock belongs to the open file, so that threads exclude one another too.
    lock = _open_lock(lock_file)
    try:
        gate = _open_lock(gate_file)
        try:
            _acquire(gate, fcntl.LOCK_EX, deadline, gate_file)
            _acquire(lock, fcntl.LOCK_EX if write else fcntl.LOCK_SH, deadline, lock_file)
        finally:
            os.close(gate)
        yield
    finally:
        os.close(lock)


@contextmanager
def exclusive(home: Path, *, wait: float = 120.0) -> Iterator[None]:
    """Keep every session of every process out while the store's file is replaced.

    Raises:
        StoreBusy: it stayed locked for `wait` seconds.
    """
    with _turnstile(home, write=True, wait=wait):
        yield


@contextmanager
def no_writers(home: Path, *, wait: float = 120.0) -> Iterator[None]:
    """Keep writers out, but not readers, while the store's file is copied. This process must have no session open meanwhile.

    Raises:
        StoreBusy: it stayed locked for `wait` seconds.
    """
    with _turnstile(home, write=False, wait=wait):
        yield


@contextmanager
def exclusive_file(path: Path, *, wait: float) -> Iterator[None]:
    """Hold a separate lock file beside the store's.

    Raises:
        StoreBusy: another process held it for `wait` seconds.
    """
    handle = _open_lock(path)
    try:
        _acquire(handle, fcntl.LOCK_EX, time.monotonic() + wait, path)
        yield
    finally:
        os.close(handle)


def refuse_a_gap(home: Path) -> None:
    """Refuse to begin a new store where its evidence still is: that would look like the loss of all of it."""
    path = store_path(home)
    if path.exists() and path.stat().st_size:
        return
    if (home / EVIDENCE / "manifest.json").exists() or (home / REBUILD).exists() or wal_path(home).exists():
        state = "empty" if path.exists() else "gone"
        raise StoreError(f"the store {str(path)!r} is {state}, but there is more of it beside it; run 'align doctor --rebuild'")


def _no_store(path: Path) -> str:
    return f"there is no store at {str(path)!r}; run 'align nightly' or 'align ingest' first"


@contextmanager
def session(home: Path, *, write: bool = False, wait: float = 120.0) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the store; with `write`, the block is one transaction that commits at its end and rolls back on an exception.

    Raises:
        StoreBusy: it stayed locked for `wait` seconds.
        StoreError: there is no store yet, it is gone, or DuckDB cannot read it.
        NoSpace: the disk is full; the transaction was rolled back.
    """
    path = store_path(home)
    if not home.is_dir():
        raise StoreError(_no_store(path))
    with _turnstile(home, write=write, wait=wait):
        # Only once it is our turn: a rebuild may be replacing the store, or be killed doing so, while this session waits.
        refuse_a_gap(home)
        if not path.exists() and not write:
            raise StoreError(_no_store(path))
        try:
            connection = _open_to_write(path) if write else duckdb.connect(str(path), read_only=True)
        except duckdb.Error as error:
            if is_disk_full(error):
                raise no_space(home) from error
            if "Permission denied" in str(error) or "Read-only file system" in str(error):
                raise NotPermitted(f"cannot open the store {str(path)!r}: permission denied; {_ACCOUNT}") from error
            if "Could not set lock" in str(error):
                raise StoreBusy(f"another program has the store {str(path)!r} open; close it ({_first_line(error)})") from error
            raise StoreError(f"cannot open the store {str(path)!r}: {_first_line(error)}; run 'align doctor'") from error
        try:
            # DuckDB draws its progress bar on stdout, where commands write JSON.
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            if not write:
                with _damage_told(path):
                    yield connection
                return
            connection.begin()
            try:
                yield connection
                connection.commit()
            except BaseException as error:
                _roll_back(connection)
                if is_disk_full(error):
                    raise no_space(home) from error
                with _damage_told(path):
                    raise
        finally:
            connection.close()


def _open_to_write(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    try:
        # Only an attached file takes a row group size. Data that exceeds memory spills beside the store, not into the working folder.
        connection.execute("SET temp_directory = ?", [f"{path}.tmp"])
        quoted = str(path).replace("'", "''")
        connection.execute(f"ATTACH '{quoted}' AS store (ROW_GROUP_SIZE {ROW_GROUP_ROWS}); USE store")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if not is_damage(error):
            raise
        raise StoreError(f"cannot read the store {str(path)!r}: {_first_line(error)}; run 'align doctor'") from error


_DAMAGE = ("Corrupt", "checksum", "Could not read enough bytes", "Failure while replaying WAL", "has been invalidated")


def is_damage(error: BaseException) -> bool:
    """Return whether DuckDB found its own file to differ from what it wrote."""
    if isinstance(error, duckdb.SerializationException | duckdb.InternalException | duckdb.FatalException):
        return True
    return isinstance(error, duckdb.Error) and any(sign in str(error) for sign in _DAMAGE)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def no_space(home: Path) -> NoSpace:
    """Return the error for a full disk of the state folder."""
    return NoSpace(f"the disk of {str(home)!r} is full; nothing of this step was stored. Free some space and run the same command again")


def is_disk_full(error: BaseException) -> bool:
    """Return whether `error` means that a disk or quota is exhausted."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error)
    return isinstance(error, duckdb.Error | shutil.Error) and any(
        sign in text for sign in ("No space left", "Could not write all bytes", "File too large")
    )


def _roll_back(connection: duckdb.DuckDBPyConnection) -> None:
    try:
        connection.rollback()
    except duckdb.Error:
        # The failed commit already ended the transaction; the first error is the one to report.
        return


@cache
def sql(package: str, name: str) -> str:
    """Return the text of the statement `name` in the `sql` folder of `package`.

    A package uses its own statements, and those in "alignment.store", which several packages share.
    """
    return (files(package) / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value) if isinstance(value, Path) else value


def append(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    key: Sequence[str] = ("id",),
) -> int:
    """Append the rows whose `key` the table does not hold yet; return how many were new.

    Mappings and sequences in a row are stored as JSON; rows of an ordered table are numbered (`alignment.store.order`). `table` and `key`
    are names from code, never from data.
    """
    if not rows:
        return 0
    rows = numbered(connection, table, rows)
    incoming = pa.Table.from_pylist([{name: _plain(value) for name, value in row.items()} for row in rows])
    return append_arrow(connection, table, incoming, key=key)


def append_arrow(connection: duckdb.DuckDBPyConnection, table: str, incoming: pa.Table, *, key: Sequence[str] = ("id",)) -> int:
    """Append an Arrow table as `append` does. Of rows with the same key the first wins."""
    keys = ", ".join(key)
    connection.register("incoming", incoming)
    try:
        counted = connection.execute(
            f"INSERT INTO {table} BY NAME "  # noqa: S608 - names from code
            f"SELECT DISTINCT ON ({keys}) * FROM incoming ANTI JOIN {table} USING ({keys})"
        ).fetchone()
    finally:
        connection.unregister("incoming")
    return int(counted[0]) if counted else 0


def query(home: Path, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
    """Run one read-only statement in a session of its own; return its rows as dictionaries."""
    with session(home) as connection:
        cursor = connection.execute(statement, parameters or None)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
