"""A person's data in the files of a state folder, outside the store: which files hold some, and how they change.

Effects: `find_changes` reads, `apply_change` rewrites or removes files. Each file changes by one rename, and a second run finds whatever a
killed run left.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.errors import StoreBusy
from alignment.lineage import orchestrator
from alignment.lineage.scrub import Scrubber

Action = Literal["remove", "drop rows", "scrub", "left"]

# Weights, vocabularies and hashed evidence hold no log text, and a word in a vocabulary is not a person. The store's own evidence follows
# the store: `alignment.store.rewriting` writes it afresh. `alignment.store.audit.withhold` removes words from the audit log.
_KEPT = re.compile(
    r"^(?:models/|vectors/|releases/[^/]+/(?:adapter/|model/|card\.(?:md|html)$|manifest\.json$)"
    r"|training/[^/]+/(?:adapter/|model/|run\.json$|result\.json$)"
    r"|audit/|evidence/|store\.duckdb(?:\.wal)?$|redaction\.key$|prefect\.secret$|(?:.*/)?\.[^/]*(?:lock|gate)$|\.store\.rewrite\."
    r"|.*\.toml$)"
)
_PLAIN = frozenset((".log", ".txt", ".md", ".json", ".csv", ".html", ""))
_RUN_WAIT = 30.0
_TORN = "\x00torn"
_UNFINISHED = ("checkpoints", "adapter.part", "model.part")


class FileChange(NamedTuple):
    """One file or folder (`path` is relative to the state folder), what happens to it, and how many of its rows are affected."""

    path: str
    action: Action
    rows: int = 0


@dataclass(frozen=True)
class Marks:
    """How to recognise a person's rows in files (ids of store rows, and the forms of `user_id`), and what to remove from other text."""

    ids: frozenset[str]
    others: Scrubber
    own: Scrubber
    had_pairs: bool = False

    def owns(self, row: dict[str, Any]) -> bool:
        """Return whether a row of a file exists because of the person."""
        if _TORN in row:
            return bool(self.own.text(row[_TORN]) != row[_TORN])
        return row.get("user_id") in self.others.forms or any(isinstance(value, str) and value in self.ids for value in row.values())


def find_changes(home: Path, marks: Marks) -> list[FileChange]:
    """Return what must change in the state folder, outside the store."""
    # Leftovers of killed processes: nobody reads them again.
    gone = [*home.rglob(".*.removed"), *(path for path in home.rglob("*.part") if path.is_file())]
    # Copies of damaged stores and evidence, an unfinished rebuild and a killed backup's copies cannot be searched.
    gone += [*home.glob("*.damaged-*"), *home.glob(".rebuild"), *home.glob(".backup")]
    had_pairs = marks.had_pairs
    for run in (home / "training").glob("*/pairs.jsonl"):
        if run.parent.name.startswith(".") or not any(marks.owns(row) for row in _json_rows(run)):
            continue
        had_pairs = True
        # Without the person's pairs an unfinished run would be another run; a finished one keeps its result.
        finished = (run.parent / "result.json").exists()
        gone += [path for name in _UNFINISHED if (path := run.parent / name).exists()] if finished else [run.parent]
    for item in (home / "gateway" / "held").glob("*.json"):
        if any(marks.owns(line) for line in _held_lines(item)):
            gone += item.parent.glob(f"{item.name.split('.')[0]}.*")
    if had_pairs:
        # Its keys are hashes of tokens, so that the person's cannot be identified; all are recomputed when needed.
        gone += (home / "reference").glob("*.parquet")
    removed = {path for path in gone if not path.is_symlink()}
    outermost = sorted(path for path in removed if not removed.intersection(path.parents))
    found = [FileChange(str(path.relative_to(home)), "remove") for path in outermost]
    return found + [change for path in _others(home, removed) if (change := _examine(home, path, marks))]


def _others(home: Path, gone: set[Path]) -> Iterator[Path]:
    for folder, names, files in os.walk(home):
        here = Path(folder)
        names[:] = sorted(name for name in names if here / name not in gone and not _KEPT.match(f"{(here / name).relative_to(home)}/"))
        for name in sorted(files):
            path = here / name
            if path not in gone and not _KEPT.match(str(path.relative_to(home))) and path.is_file() and not path.is_symlink():
                yield path


def _held_lines(path: Path) -> list[dict[str, Any]]:
    """Return the log lines of a held exchange; none of its decision and delivery, which go with it."""
    try:
        found = json.loads(_text(path))
    except ValueError:
        return []
    lines = found.get("lines", []) if isinstance(found, dict) else []
    return [line for line in lines if isinstance(line, dict)]


def _examine(home: Path, path: Path, marks: Marks) -> FileChange | None:
    name = str(path.relative_to(home))
    if path.suffix == ".parquet":
        owned, changed = _parquet(path, marks, write=False)
        return FileChange(name, "drop rows", owned) if owned else FileChange(name, "scrub", changed) if changed else None
    if path.suffix == ".jsonl":
        rows = list(_json_rows(path))
        owned = sum(marks.owns(row) for row in rows)
        changed = sum(marks.others.row(row) != row for row in rows if not marks.owns(row))
        return FileChange(name, "drop rows", owned) if owned else FileChange(name, "scrub", changed) if changed else None
    if path.suffix in (".db-wal", ".db-shm") or not holds(path, marks.own):
        # A database's log is examined together with the database.
        log = path.with_name(f"{path.name}-wal")
        return FileChange(name, "scrub") if path.suffix == ".db" and holds(log, marks.own) else None
    if path.suffix == ".db":
        return FileChange(name, "scrub")
    if name.startswith("prefect/storage/"):
        return FileChange(name, "remove")
    if path.suffix not in _PLAIN:
        return FileChange(name, "left")
    text = _text(path)
    return FileChange(name, "scrub") if marks.own.text(text) != text else None


def holds(path: Path, scrubber: Scrubber) -> bool:
    """Return whether a file's bytes hold any of the person's needles."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return any(whole.find(needle.encode("utf-8", "surrogatepass")) >= 0 for needle in scrubber.needles)


def apply_change(home: Path, change: FileChange, marks: Marks) -> bool:
    """Carry out one change, even if the file is already gone; return False if the file had to be left as it is."""
    path = home / change.path
    if change.action == "remove":
        with _run_lock(home, path):
            _remove(path)
    elif path.suffix == ".parquet":
        _parquet(path, marks, write=True)
    elif path.suffix == ".db":
        return orchestrator.scrub(path, marks.own)
    elif path.suffix == ".jsonl":
        rows = [marks.others.row(row) for row in _json_rows(path) if not marks.owns(row)]
        kept = [row.get(_TORN) or json.dumps(row, ensure_ascii=False) for row in rows]
        _replace(path, "".join(f"{line}\n" for line in kept))
    elif change.action == "scrub":
        _replace(path, marks.own.text(_text(path)))
    return change.action != "left"


@contextmanager
def _run_lock(home: Path, path: Path) -> Iterator[None]:
    """Wait for the training process of a killed night, which may still be saving a checkpoint.

    Raises:
        StoreBusy: it ran for longer than the wait allows.
    """
    training = home / "training"
    run = next((folder for folder in (path, *path.parents) if folder.parent == training), None)
    if run is None or not (run / ".lock").exists():
        yield
        return
    handle = os.open(run / ".lock", os.O_RDWR)
    try:
        deadline = time.monotonic() + _RUN_WAIT
        while not _locked(handle):
            if time.monotonic() >= deadline:
                raise StoreBusy(f"the training run {run.name!r} is still at work; wait for it or stop it, and run the same command again")
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    # Renamed first: a folder half removed by a kill must not be taken for a complete one.
    scratch = path if path.name.endswith(".removed") else path.with_name(f".{path.name}.removed")
    if scratch != path:
        shutil.rmtree(scratch, ignore_errors=True)
        os.replace(path, scratch)
    shutil.rmtree(scratch)


def _text(path: Path) -> str:
    # Damaged bytes survive the round trip through text.
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file as rows; a line cut by a kill is a row of its text."""
    # Not splitlines: chat text may hold other line ends, such as U+2028.
    for line in _text(path).split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        elif line.strip():
            yield {_TORN: line}


def _parquet(path: Path, marks: Marks, *, write: bool) -> tuple[int, int]:
    """Count the person's rows and the other rows that name the person; with `write`, rewrite the file without the person."""
    owned = changed = 0
    scratch = path.with_name(f".{path.name}.part")
    with pq.ParquetFile(path) as source:
        writer = pq.ParquetWriter(scratch, source.schema_arrow) if write else None
        try:
            for batch in source.iter_batches():
                rows = batch.to_pylist()
                kept = [row for row in rows if not marks.owns(row)]
                cleaned = [marks.others.row(row) for row in kept]
                owned += len(rows) - len(kept)
                changed += sum(one != other for one, other in zip(kept, cleaned, strict=True))
                if writer:
                    writer.write_table(pa.Table.from_pylist(cleaned, schema=source.schema_arrow))
        finally:
            if writer:
                writer.close()
    if write:
        _settle(scratch, path)
    return owned, changed


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_bytes(text.encode("utf-8", "surrogateescape"))
    _settle(scratch, path)


def _settle(scratch: Path, path: Path) -> None:
    shutil.copymode(path, scratch)
    with scratch.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(scratch, path)
