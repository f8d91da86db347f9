"""How the registry reads and writes: one lock, files that appear whole, and logs that a torn line does not break.

Effects: writes `<home>/releases`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BASE = "base"
MANIFEST, POINTER, HISTORY, QUARANTINED = "manifest.json", "current", "history.jsonl", "QUARANTINED"
CANARY, CANARIES, SERVING = "canary.json", "canaries.jsonl", "serving.json"


def root(home: Path) -> Path:
    """Return the registry's folder."""
    return home / "releases"


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Keep every other change of the registry out; a killed process lets go by itself."""
    root(home).mkdir(parents=True, exist_ok=True)
    handle = os.open(root(home) / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, text: str) -> None:
    """Replace a file by one rename."""
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(scratch, path)
    sync_folder(path.parent)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line of JSON; if a kill cut the last one short, this one does not continue it."""
    with path.open("a", encoding="utf-8") as out:
        out.write("\n" * _torn(path) + json.dumps(row) + "\n")
        out.flush()
        os.fsync(out.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, less those that a kill cut short."""
    rows = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue  # empty, or torn
            if isinstance(row, dict):
                rows.append(row)
    return rows


def _torn(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            handle.seek(-1, os.SEEK_END)
            return handle.read(1) != b"\n"
    except OSError:  # there is none yet, or it is empty
        return False


def is_quarantined(home: Path, release_id: str) -> bool:
    """Say whether a release may no longer be promoted."""
    return (root(home) / release_id / QUARANTINED).exists()


def read_quarantine(home: Path, release_id: str) -> dict[str, str]:
    """Return who quarantined a release, why and when; a mark that was made by hand has the time of its file only."""
    mark = root(home) / release_id / QUARANTINED
    made = {"actor": "unknown", "reason": "no reason given"}
    made["recorded_at"] = datetime.fromtimestamp(mark.stat().st_mtime, UTC).replace(tzinfo=None).isoformat()
    try:
        said = json.loads(mark.read_text(encoding="utf-8"))
    except ValueError:
        said = None
    return {name: str(said.get(name, value)) for name, value in made.items()} if isinstance(said, dict) else made
