"""Find log files, here or in an object store, and open them.

Other programs write the log folder. A file found by a glob is read only if it is a regular file, reached through no link below the folder
that the settings name, and stays so while it is opened; a file that the settings name directly may be a link. A compressed file that
unpacks to an absurd size is not a log.

Effects: reads file systems.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from alignment.errors import InputError

_PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}
_REMOTE_BLOCK = 1 << 25
_UNPACKED, _UNPACKED_TIMES = 1 << 28, 250
"""A compressed file may unpack to 256 MiB, or to 250 times its size if that is more: chat logs compress 5 to 50 times."""
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)
_FETCH_SECONDS = 600
"""Deadline of a store for one combined request: a thousand files, of 64 MiB together."""
_EXTRA = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}


class LogFile(NamedTuple):
    """A log file as it is now: its absolute path or URL, size in bytes and time of last change.

    `below` is the folder below which no link is followed; empty for a file that the settings name directly. `refused` says why something
    that a glob found is not read: it is not a regular file. `data` holds the file's bytes if they were already fetched.
    """

    path: str
    size: int
    mtime_ns: int
    below: str = ""
    refused: str = ""
    data: bytes | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """The suffix without that of a compression: `.jsonl`, `.parquet`."""
        return Path(self.name.removesuffix(self._packing())).suffix

    @property
    def compression(self) -> str | None:
        """The file's compression, as pyarrow names it."""
        return _PACKED.get(self._packing())

    def _packing(self) -> str:
        suffix = Path(self.name).suffix
        return suffix if suffix in _PACKED else ""


def find_files(patterns: Sequence[str]) -> list[LogFile]:
    """Return the files matched by paths, globs and URLs, sorted, each once.

    Raises:
        InputError: a pattern matches no file, or cannot be looked up; the message names all such patterns.
    """
    found: dict[str, LogFile] = {}
    missing = []
    for pattern in patterns:
        pattern = pattern.removeprefix("file://")
        matched = _remote(pattern) if "://" in pattern else _local(pattern)
        if not matched:
            missing.append(pattern)
        found.update((one.path, one) for one in matched)
    if missing:
        raise InputError(
            f"no log file matches {', '.join(map(repr, missing))}; correct [ingest] logs in align.toml, "
            "or give the files: 'align nightly --logs PATH'"
        )
    return [found[path] for path in sorted(found)]


def find_file(path: str) -> LogFile:
    """Return the file of exactly this name, even if a glob would read the name as a pattern.

    Raises:
        InputError: it does not exist, or cannot be looked up.
    """
    literal = path if "://" not in path else "".join(f"[{one}]" if one in "*?[" else one for one in path)
    if "://" not in path and not Path(path).is_file():
        raise InputError(f"the log file {path!r} is gone; put it back, or go on without it")
    return find_files([literal])[0]


def _local(pattern: str) -> list[LogFile]:
    literal = Path(pattern).expanduser().absolute()
    # A name may contain brackets.
    if literal.is_file():
        return [LogFile(str(literal), literal.stat().st_size, literal.stat().st_mtime_ns)]
    if not glob.has_magic(str(literal)):
        return [LogFile(str(literal), 0, 0, refused=kind)] if (kind := _special(literal)) not in ("", "a folder", "a link") else []
    parts = literal.parts
    below = Path(*parts[: next(place for place, part in enumerate(parts) if glob.has_magic(part))])
    found = [_found(Path(name), below) for name in glob.iglob(str(literal), recursive=True)]
    return [one for one in found if one]


def _special(path: Path) -> str:
    """Return the kind of a path that is not a regular file; empty if it is regular or gone."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return ""
    return next((name for test, name in _KINDS if test(mode)), "")


def _found(path: Path, below: Path) -> LogFile | None:
    """Return what a glob found: None for a folder; anything behind a link to a folder is reported once, as that link."""
    try:
        here = path.lstat()
    except OSError:
        return None
    linked = next((one for one in reversed(path.parents) if one.is_relative_to(below) and one != below and one.is_symlink()), None)
    if linked:
        return LogFile(str(linked), 0, linked.lstat().st_mtime_ns, str(below), "a link")
    kind = _special(path)
    return None if kind == "a folder" else LogFile(str(path), here.st_size, here.st_mtime_ns, str(below), kind)


def _file_system(url: str) -> Any:
    import fsspec

    scheme = url.split("://", 1)[0]
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        extra = _EXTRA.get(scheme)
        remedy = f"run: pip install -c constraints.txt -e '.[{extra}]'" if extra else "use a path or s3://, gs:// or az://"
        raise InputError(f"cannot open {url!r}: {error}; {remedy}") from error


def _remote(pattern: str) -> list[LogFile]:
    system, scheme = _file_system(pattern), pattern.split("://", 1)[0]
    try:
        # fsspec caches listings for the life of the process, which may serve many nights.
        system.invalidate_cache()
        if not glob.has_magic(pattern):
            found = {pattern.split("://", 1)[1]: system.info(pattern)} if system.isfile(pattern) else {}
        else:
            found = system.glob(pattern, detail=True)
    except Exception as error:
        raise InputError(f"cannot list {pattern!r}: {error}; check the address and the credentials of {scheme}://") from error
    return [
        LogFile(f"{scheme}://{path.lstrip('/')}", int(info["size"] or 0), _changed(info))
        for path, info in found.items()
        if info["type"] == "file"
    ]


def _changed(info: dict[str, Any]) -> int:
    moments = (info.get(name) for name in ("LastModified", "mtime", "updated", "last_modified"))
    return next((int(moment.timestamp() * 1e9) for moment in moments if isinstance(moment, datetime)), 0)


def open_packed(log_file: LogFile) -> Any:
    """Return the file's stored bytes as a pyarrow stream with `read(size)` and a random-access `seek`.

    Raises:
        InputError: it cannot be opened, or is not (or no longer) a regular file.
    """
    if log_file.data is not None:
        return pa.BufferReader(log_file.data)
    if log_file.refused:
        raise InputError(
            f"{log_file.path!r} is {log_file.refused} and is not read; take it out of the log folder, or name the file it stands for in "
            "[ingest] logs"
        )
    try:
        if "://" not in log_file.path:
            return pa.PythonFile(os.fdopen(_open_regular(log_file), "rb", buffering=0), mode="r")
        remote = _file_system(log_file.path).open(log_file.path, "rb", block_size=_REMOTE_BLOCK)
        return pa.PythonFile(remote, mode="r")
    except Exception as error:
        raise _unopened(log_file, error) from error


def _unopened(log_file: LogFile, error: BaseException) -> InputError:
    if isinstance(error, PermissionError):
        what = "permission denied; let the account that runs align read it (chmod, chown, or a group)"
    else:
        what = f"{str(error) or type(error).__name__}; check the file"
    return InputError(f"cannot read the log file {log_file.path!r}: {what}")


def fetch(log_files: Sequence[LogFile], most: int) -> list[bytes | InputError]:
    """Return the first `most` stored bytes of each file, or why it cannot be read; a store fetches many files at once."""
    found: dict[str, bytes | InputError] = {}
    remote: dict[str, list[LogFile]] = {}
    for one in log_files:
        if "://" in one.path and one.size:
            remote.setdefault(one.path.split("://", 1)[0], []).append(one)
        else:
            found[one.path] = b"" if "://" in one.path else _first_bytes(one, most)
    for there in remote.values():
        for one, answer in zip(there, _first_ranges([one.path for one in there], most), strict=True):
            # A store without range support answers with the whole file.
            found[one.path] = answer[:most] if isinstance(answer, bytes) else _because(_unopened(one, answer), answer)
    return [found[one.path] for one in log_files]


def _first_ranges(urls: list[str], most: int) -> list[Any]:
    """Return the first bytes of files of one store; for a file that fails, the exception."""
    try:
        system = _file_system(urls[0])
        deadline = {"timeout": _FETCH_SECONDS} if system.async_impl else {}
        return list(system.cat_ranges(urls, [0] * len(urls), [most] * len(urls), on_error="return", **deadline))
    except Exception as error:
        return [error] * len(urls)


def _first_bytes(log_file: LogFile, most: int) -> bytes | InputError:
    read = b""
    try:
        with open_packed(log_file) as stream:
            while len(read) < most and (more := stream.read(most - len(read))):
                read += more
    except InputError as error:
        return error
    except OSError as error:
        return _because(_unopened(log_file, error), error)
    return read


def _because(told: InputError, cause: BaseException) -> InputError:
    told.__cause__ = cause
    return told


def _open_regular(log_file: LogFile) -> int:
    """Open a local file without waiting for a pipe's writer and, below `log_file.below`, without following a link.

    Raises:
        OSError: it is gone, is not a regular file, or is behind a link.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    if not log_file.below:
        return _regular(os.open(log_file.path, flags))
    *folders, name = Path(log_file.path).relative_to(log_file.below).parts
    folder = os.open(log_file.below, flags | os.O_DIRECTORY)
    try:
        for part in folders:
            inner = os.open(part, flags | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return _regular(os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder))
    finally:
        os.close(folder)


def _regular(handle: int) -> int:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is no regular file")
    return handle


class _Unpacked:
    """The unpacked bytes of a compressed file, up to a limit."""

    def __init__(self, log_file: LogFile, stream: Any) -> None:
        self._log_file, self._stream, self._read = log_file, stream, 0
        self._most = max(_UNPACKED, _UNPACKED_TIMES * log_file.size)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes.

        Raises:
            InputError: the file unpacks to more than the limit.
        """
        found = bytes(self._stream.read(size))
        self._read += len(found)
        if self._read > self._most:
            raise InputError(
                f"the log file {self._log_file.path!r} of {self._log_file.size:,} bytes unpacks to more than {self._most >> 20} MiB, as no "
                "log does; unpack it yourself if it is one, or take it out of [ingest] logs"
            )
        return found

    def __enter__(self) -> _Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def open_log(log_file: LogFile) -> Any:
    """Return the file's unpacked bytes as a stream."""
    packed = open_packed(log_file)
    return _Unpacked(log_file, pa.CompressedInputStream(packed, log_file.compression)) if log_file.compression else packed
