"""The manifest of the evidence: which parts count, with their rows, sizes and SHA-256.

There are two copies, each with its own checksum, so that one damaged file does not make all parts worthless.

Effects: writes `<home>/evidence/manifest*.json`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import StoreError
from alignment.ids import content_id, file_sha256
from alignment.store.session import EVIDENCE

MANIFESTS = ("manifest.json", "manifest.copy.json")
_PART = re.compile(r"^[a-z_][a-z0-9_]*/\d+-\d+\.parquet$")


class EvidencePart(NamedTuple):
    """A Parquet file with the rows of one table with start <= rowid < end; `mark` is a hash of their content."""

    file: str
    rows: int
    bytes: int
    sha256: str
    start: int
    end: int
    mark: str


class TableEvidence(NamedTuple):
    """The evidence of one table: its rows with a rowid below `end`."""

    end: int
    rows: int
    parts: tuple[EvidencePart, ...]


NOTHING = TableEvidence(0, 0, ())


class Manifest(NamedTuple):
    """The evidence as of `exported_at`, from a store with the schema version `schema`."""

    number: int
    schema: int
    exported_at: str
    tables: dict[str, TableEvidence]


def write_manifest(home: Path, manifest: Manifest) -> None:
    """Replace both copies, one after the other, each by one rename."""
    tables = {name: {**held._asdict(), "parts": [part._asdict() for part in held.parts]} for name, held in manifest.tables.items()}
    body = {**manifest._asdict(), "tables": tables}
    text = json.dumps({"sum": content_id(body), **body}, indent=1)
    folder = home / EVIDENCE
    for name in MANIFESTS:
        scratch = folder / f"{name}.part"
        with scratch.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(scratch, folder / name)
    sync_path(folder)


def sync_path(path: Path) -> None:
    """Flush a file's content, or the renames in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(home: Path) -> Manifest | None:
    """Return the manifest, from its copy if necessary; None if nothing was exported yet.

    Raises:
        StoreError: both are damaged.
    """
    paths = [home / EVIDENCE / name for name in MANIFESTS]
    if not any(path.exists() for path in paths):
        return None
    for path in paths:
        if (found := _read(path)) is not None:
            return found
    raise StoreError(f"both manifests in {str(home / EVIDENCE)!r} are damaged: its parts cannot be told apart; run 'align doctor'")


def _read(path: Path) -> Manifest | None:
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if body.pop("sum") != content_id(body):
            return None
        tables = {
            name: TableEvidence(held["end"], held["rows"], tuple(EvidencePart(**part) for part in held["parts"]))
            for name, held in body["tables"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not all(_PART.match(part.file) for held in tables.values() for part in held.parts):
        return None
    return Manifest(body["number"], body["schema"], body["exported_at"], tables)


def damaged_manifests(home: Path) -> list[str]:
    """Return the names of manifests that are unreadable, or missing while the other exists."""
    paths = [home / EVIDENCE / name for name in MANIFESTS]
    return [path.name for path in paths if _read(path) is None] if any(path.exists() for path in paths) else []


def part_problem(home: Path, part: EvidencePart, *, quick: bool = False) -> str | None:
    """Return what is wrong with a part's file, None if it is as written; with `quick` only its size is checked."""
    path = home / EVIDENCE / part.file
    try:
        if path.stat().st_size != part.bytes:
            return f"{part.file} has {path.stat().st_size} bytes instead of {part.bytes} ({part.rows} rows)"
        if not quick and file_sha256(path) != part.sha256:
            return f"{part.file} was changed ({part.rows} rows)"
    except FileNotFoundError:
        return f"{part.file} is missing ({part.rows} rows)"
    except OSError as error:
        return f"{part.file} cannot be read: {error.strerror} ({part.rows} rows)"
    return None
