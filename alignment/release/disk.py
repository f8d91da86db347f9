"""Disk access of the registry: one lock, atomic file writes, logs that survive a torn line, and reserved space for a way back.

A link or special file in place of one of its files is refused, never followed. A reserve file keeps `RESERVE` bytes of the disk:
operations that must work on a full disk (a rollback, a quarantine, the end of a canary) free them and try again.

Effects: writes `<home>/releases`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from alignment.errors import NoSpace, ReleaseError

BASE = "base"
MANIFEST, POINTER, HISTORY, QUARANTINED = "manifest.json", "current", "history.jsonl", "QUARANTINED"
CANARY, CANARIES, SERVING = "canary.json", "canaries.jsonl", "serving.json"
RESERVED, RESERVE = ".reserve", 8 * 2**20
"""Reserve file and its bytes: a quarantine, with the rollback and its rows in a small store, took 0.5 MB of a full disk."""
_T = TypeVar("_T")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def root(home: Path) -> Path:
    """Return the registry's folder."""
    return home / "releases"


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the registry's exclusive lock; the system releases it when a process is killed."""
    root(home).mkdir(parents=True, exist_ok=True)
    handle = _open(root(home) / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open(path: Path | str, flags: int) -> int:
    """Open a file, but never through a link.

    Raises:
        ReleaseError: it is a link or a special file.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ReleaseError(f"{str(path)!r} is a link or no plain file, which the registry does not follow; remove it") from None
        raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise ReleaseError(f"{str(path)!r} is a link or no plain file, which the registry does not follow; remove it")
    return handle


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a plain file in the registry.

    Raises:
        FileNotFoundError: the file does not exist.
        ReleaseError: it is a link or a special file.
    """
    with os.fdopen(_open(path, os.O_RDONLY), "rb") as handle:
        return handle.read()


def read_text(path: Path) -> str:
    """Do as `read_bytes`, for text; raise ValueError if it is not UTF-8."""
    return read_bytes(path).decode("utf-8")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, text: str) -> None:
    """Replace a file durably, by one rename."""
    scratch = path.with_name(f".{path.name}.part")
    with os.fdopen(_open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(scratch, path)
    sync_folder(path.parent)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line of JSON; start a new line if a kill cut the last one short."""
    with os.fdopen(_open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "r+b", buffering=0) as out:
        size = out.seek(0, os.SEEK_END)
        torn = size > 0 and os.pread(out.fileno(), 1, size - 1) != b"\n"
        line = ("\n" * torn + json.dumps(row) + "\n").encode()
        if out.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(out.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log without lines that a kill cut short; drop a `seq` that is not a whole number."""
    rows = []
    with suppress(FileNotFoundError):
        for line in read_bytes(path).split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue  # empty, or torn
            if isinstance(row, dict):
                rows.append({name: value for name, value in row.items() if name != "seq" or isinstance(value, int)})
    return rows


def next_seq(home: Path) -> int:
    """Return the number of the registry's next event; the caller holds the lock. Numbers grow, whatever the clock does."""
    rows = [*read_rows(root(home) / HISTORY), *read_rows(root(home) / CANARIES)]
    with suppress(OSError, ValueError):
        rows.append(json.loads(read_text(root(home) / CANARY)))
    rows += [read_quarantine(home, path.parent.name) for path in root(home).glob(f"*/{QUARANTINED}")]
    numbers = [row.get("seq") for row in rows if isinstance(row, dict)]
    # A value that somebody wrote by hand must not stop a rollback.
    return 1 + max((number for number in numbers if isinstance(number, int)), default=0)


def keep_reserve(home: Path) -> None:
    """Reserve space for a way back, or half or a quarter of it on a fuller disk; an existing reserve stays."""
    path = root(home) / RESERVED
    if not root(home).is_dir() or (path.is_file() and path.stat().st_size >= RESERVE):
        return
    with suppress(OSError):
        handle = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            held = os.fstat(handle).st_size
            for size in (RESERVE, RESERVE // 2, RESERVE // 4):
                if size <= held:
                    break
                try:
                    os.posix_fallocate(handle, 0, size)
                    break
                except OSError:
                    os.ftruncate(handle, held)
        finally:
            os.close(handle)


def with_reserve(home: Path, act: Callable[[], _T]) -> _T:
    """Run an idempotent act; on a full disk, free the reserve and run it again.

    Raises:
        NoSpace: that was not enough, or the reserve was already used up.
    """
    try:
        return act()
    except (OSError, NoSpace) as error:
        if not isinstance(error, NoSpace) and error.errno not in _FULL:
            raise
    try:
        with suppress(FileNotFoundError):
            (root(home) / RESERVED).unlink()
        return act()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise NoSpace(
            f"the disk of {str(home)!r} is full, and the registry's reserve was not enough; free some space and run the same command again"
        ) from error
    finally:
        keep_reserve(home)


def is_quarantined(home: Path, release_id: str) -> bool:
    """Return whether a release may no longer be promoted; a mark that is a link, even a dangling one, counts."""
    return os.path.lexists(root(home) / release_id / QUARANTINED)


def read_quarantine(home: Path, release_id: str) -> dict[str, Any]:
    """Return who quarantined a release, why and when; a mark made by hand has only the time of its file."""
    mark = root(home) / release_id / QUARANTINED
    made = {"actor": "unknown", "reason": "no reason given"}
    made["recorded_at"] = datetime.fromtimestamp(mark.lstat().st_mtime, UTC).replace(tzinfo=None).isoformat()
    try:
        said = json.loads(read_text(mark))
    except (ValueError, ReleaseError):
        said = None
    if not isinstance(said, dict):
        return dict(made)
    number = said.get("seq")
    return {name: str(said.get(name, value)) for name, value in made.items()} | ({"seq": number} if isinstance(number, int) else {})
