"""Which log files there are, here or in an object store, and how they are opened.

Effects: reads file systems.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from alignment.errors import InputError

_PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}
_REMOTE_BLOCK = 1 << 25
_EXTRA = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}


class LogFile(NamedTuple):
    """A log file as it is now: its absolute path or URL, size in bytes and time of last change."""

    path: str
    size: int
    mtime_ns: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """What follows the name once the suffix of a compression is taken off: `.jsonl`, `.parquet`."""
        return Path(self.name.removesuffix(self._packing())).suffix

    @property
    def compression(self) -> str | None:
        """How the file is packed, as pyarrow names it."""
        return _PACKED.get(self._packing())

    def _packing(self) -> str:
        suffix = Path(self.name).suffix
        return suffix if suffix in _PACKED else ""


def find_files(patterns: Sequence[str]) -> list[LogFile]:
    """Return the files that paths, globs and URLs name, sorted, each once.

    Raises:
        InputError: a pattern matches no file, or cannot be looked up; all such patterns are named.
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


def _local(pattern: str) -> list[LogFile]:
    literal = Path(pattern).expanduser()
    # A name may hold brackets.
    matched = [literal] if literal.is_file() else [Path(name) for name in glob.glob(str(literal), recursive=True)]
    paths = [path.absolute() for path in matched if path.is_file()]
    return [LogFile(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


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
        # Listings are cached for the life of the process, which may serve many nights.
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
    """Return the file's bytes as they lie there, as a pyarrow stream with `read(size)` and a random-access `seek`.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        if "://" not in log_file.path:
            return pa.OSFile(log_file.path, "rb")
        remote = _file_system(log_file.path).open(log_file.path, "rb", block_size=_REMOTE_BLOCK)
        return pa.PythonFile(remote, mode="r")
    except Exception as error:
        raise InputError(f"cannot read the log file {log_file.path!r}: {error}; check the file") from error


def open_log(log_file: LogFile) -> Any:
    """Return the file's unpacked bytes as a pyarrow stream."""
    packed = open_packed(log_file)
    return pa.CompressedInputStream(packed, log_file.compression) if log_file.compression else packed
