"""Which log files there are, and which of them the store has not read yet.

Effects: reads the file system and the store.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alignment.errors import InputError
from alignment.ids import file_sha256
from alignment.store import query


class LogFile(NamedTuple):
    """A log file as it is now; `id` addresses its bytes."""

    id: str
    path: Path
    size: int


def find_files(patterns: Sequence[str]) -> list[LogFile]:
    """Return the files that the patterns name, sorted, each once.

    Raises:
        InputError: a pattern matches no file, or a file cannot be read; all such patterns are named.
    """
    paths: set[Path] = set()
    missing = []
    for pattern in patterns:
        literal = Path(pattern).expanduser()
        # A name may hold brackets.
        matched = [literal] if literal.is_file() else [Path(name) for name in glob.glob(str(literal), recursive=True)]
        found = [path for path in matched if path.is_file()]
        if not found:
            missing.append(pattern)
        paths.update(path.absolute() for path in found)
    if missing:
        raise InputError(
            f"no log file matches {', '.join(map(repr, missing))}; correct [ingest] logs in align.toml, "
            "or give the files: 'align nightly --logs PATH'"
        )
    try:
        return [LogFile(file_sha256(path), path, path.stat().st_size) for path in sorted(paths)]
    except OSError as error:
        raise InputError(f"cannot read {error.filename!r}: {error.strerror}; check its permissions") from error


def unread(home: Path, log_files: Sequence[LogFile]) -> list[LogFile]:
    """Return those whose bytes were not read before, under whatever name."""
    known = {row["id"] for row in query(home, "SELECT id FROM source_files")}
    fresh = {log_file.id: log_file for log_file in log_files if log_file.id not in known}
    return list(fresh.values())
