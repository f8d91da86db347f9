"""Back up the state folder into one file while nights and pages go on, and restore it elsewhere.

Everything that changes in place (store, journal, pointer, audit log) is copied at one instant, for which writers wait; what never changes
after it appeared (evidence, releases, finished training runs) is read afterwards. The evidence is older than the store, and files are
newer: so nothing that the store refers to is missing, and the next night goes on.

Effects: `back_up` writes the file, an act in the audit log and `<home>/last_backup.json`; `restore_backup` writes a new folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from alignment.errors import InputError, NoSpace, StoreBusy, StoreError
from alignment.ids import content_id, short
from alignment.release.disk import MANIFEST, QUARANTINED, locked, root
from alignment.store import audit, store_path
from alignment.store.archive import Archived, BackupList, read_archive, write_archive
from alignment.store.integrity import evidence_findings, store_findings
from alignment.store.manifest import sync_path
from alignment.store.migrate import applied_version, schema_version
from alignment.store.session import no_writers
from alignment.store.snapshot import copy_store, evidence_stays, fold_log, link_parts, whole_folder
from alignment.train.job import finished

LAST = "last_backup.json"
_SCRATCH = ".backup"
_KEYS = ("redaction.key", "judge.key", "teacher_calls.jsonl", "policy_calls.jsonl", "gateway/keys.json")
"""Small files that change in place. The keys belong to the data: without them, later masks would not match the earlier ones."""


class BackedUp(NamedTuple):
    """A written backup; `held_seconds` is how long writers of the store waited for it."""

    file: str
    files: int
    bytes: int
    packed: int
    held_seconds: float
    seconds: float


def back_up(home: Path, file: Path, *, actor: str) -> BackedUp:
    """Write a verified backup of the state folder `home` to `file`.

    Raises:
        InputError: `file` exists, or lies in the state folder or in no folder.
        StoreError: there is no store, or store or evidence are damaged; nothing was written.
        StoreBusy: another backup, an erasure or a rebuild is running.
        NoSpace: the disk is full.
    """
    file = file.expanduser().absolute()
    _refuse_place(home, file)
    begun, moment = time.perf_counter(), datetime.now(UTC)
    with whole_folder(home), _scratch(home) as scratch:
        # In the backup, too; that it was made is only known afterwards.
        audit.append(home, "backup_started", file.name, actor=actor, now=moment)
        held = _copy_at_one_instant(home, scratch)
        fold_log(scratch)
        _refuse_damage(scratch)
        sources = {**_files(scratch, scratch), **_lasting(home)}
        listed = write_archive(file, sources, schema=applied_version(scratch), created_at=moment.isoformat(timespec="seconds"))
        done = BackedUp(str(file), len(listed.files), listed.size, file.stat().st_size, held, time.perf_counter() - begun)
        audit.append(home, "backed_up", file.name, actor=actor)
        _note(home, {"created_at": listed.created_at, "file": done.file, "bytes": done.packed})
    return done


def _refuse_place(home: Path, file: Path) -> None:
    schema_version(home)  # there is a store, and this code knows it
    if os.path.lexists(file):
        raise InputError(f"{str(file)!r} exists, and no backup is overwritten; give another name, such as {_dated(file)!r}")
    if not file.parent.is_dir():
        raise InputError(f"{str(file.parent)!r} is no folder; make it first, or give another FILE")
    if file.resolve().is_relative_to(home.resolve()):
        raise InputError(f"{str(file)!r} lies in the state folder, and would be lost with it; give a FILE on another disk or machine")


def _dated(file: Path) -> str:
    return f"{file.name.split('.')[0]}-{datetime.now(UTC):%Y%m%dT%H%M%S}.tar.gz"


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    """Make a folder on the state folder's own disk: a copy to a slow one would hold writers for long. A killed backup's goes first."""
    folder = home / _SCRATCH
    shutil.rmtree(folder, ignore_errors=True)
    if shutil.disk_usage(home).free < (size := store_path(home).stat().st_size):
        raise NoSpace(f"a backup first copies the store's {size:,} bytes within {str(home)!r}, which has less room; free some space")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_at_one_instant(home: Path, scratch: Path) -> float:
    """Copy all that changes in place; return for how many seconds writers of the store were kept out."""
    registry = locked(home) if root(home).is_dir() else nullcontext()
    with evidence_stays(home):
        link_parts(home, scratch)
        with registry, no_writers(home):
            begun = time.perf_counter()
            copy_store(home, scratch)
            _copy_registry(home, scratch)
            for name in _KEYS:
                _copy(home / name, scratch / name)
            audit.copy(home, scratch)
            return time.perf_counter() - begun


def _copy_registry(home: Path, scratch: Path) -> None:
    """Copy pointer, canary, their logs and the marks of quarantined releases: all of the registry that changes."""
    folder = root(home)
    for path in [*folder.glob("[!.]*"), *folder.glob(f"[!.]*/{QUARANTINED}")]:
        _copy(path, root(scratch) / path.relative_to(folder))


def _copy(path: Path, target: Path) -> None:
    if path.is_file() and not path.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _refuse_damage(scratch: Path) -> None:
    if found := [*store_findings(scratch), *evidence_findings(scratch)]:
        raise StoreError(f"nothing was backed up, because the state is damaged: {'; '.join(found[:5])}; run 'align doctor --rebuild' first")


def _lasting(home: Path) -> dict[str, Archived]:
    """Return what is never changed once it is there, and the whole lines of the gateway's logs, which only grow."""
    found = {}
    for release in root(home).glob(f"[!.]*/{MANIFEST}"):
        # Its mark is in the copy already, or came later.
        found.update({name: source for name, source in _files(home, release.parent).items() if not name.endswith(f"/{QUARANTINED}")})
    for run in (home / "training").glob("[!.]*/"):
        # An unfinished run is trained again: its checkpoints change under us.
        if finished(run):
            found.update(_files(home, run))
    for path in (home / "gateway" / "held").glob("[!.]*.json"):
        found[_name(home, path)] = _source(home, path)
    # After what is held, whose marks say what has been logged.
    for path in (home / "gateway" / "logs").glob("[!.]*.jsonl"):
        found[_name(home, path)] = Archived(path, _whole_lines(path))
    return found


def _files(home: Path, folder: Path) -> dict[str, Archived]:
    """Return the plain files below a folder by their names in the backup, without what is unfinished or locks."""
    found = {}
    for here, names, files in os.walk(folder):
        names[:] = [name for name in names if name != "checkpoints" and not name.endswith(".part")]
        for path in (Path(here) / name for name in files):
            if (not path.name.startswith(".") or path.name == ".audit.lock") and not path.name.endswith(".part") and not path.is_symlink():
                found[_name(home, path)] = _source(home, path)
    return found


def _source(home: Path, path: Path) -> Archived:
    try:
        return Archived(path, path.stat().st_size)
    except FileNotFoundError:
        raise StoreError(f"{_name(home, path)!r} went away during the backup, which was given up; run 'align backup' again") from None


def _name(home: Path, path: Path) -> str:
    return path.relative_to(home).as_posix()


def _whole_lines(path: Path) -> int:
    """Return how many bytes of a log are whole lines: a gateway may be writing the last one."""
    with path.open("rb") as handle:
        end = handle.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - (1 << 16))
            handle.seek(start)
            place = handle.read(end - start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
    return 0


def _note(home: Path, told: dict[str, object]) -> None:
    scratch = home / f".{LAST}.part"
    scratch.write_text(json.dumps(told) + "\n", encoding="utf-8")
    os.replace(scratch, home / LAST)


def last_backup(home: Path) -> dict[str, str] | None:
    """Return when the last backup was made and its file; None if there was none, or the note cannot be read."""
    try:
        told = json.loads((home / LAST).read_text(encoding="utf-8"))
        datetime.fromisoformat(told["created_at"])
        return {"created_at": told["created_at"], "file": str(told["file"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def restore_backup(file: Path, target: Path, *, actor: str) -> BackupList:
    """Unpack a backup into `target`, a new or empty folder, which appears whole or not at all; return what it holds.

    Raises:
        InputError: the backup is damaged, or `target` is taken.
        StoreError: newer code wrote the backup, or its store is not as it says.
        StoreBusy: another restore into `target` is running.
        NoSpace: the disk is full.
    """
    target = target.expanduser().absolute()
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InputError(f"{str(target)!r} is taken, and nothing is overwritten; give a new or empty folder, and set ALIGN_HOME to it")
    if not file.is_file():
        raise InputError(f"{str(file)!r} is no file; give the one that 'align backup' wrote")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(target) as scratch:
        listed = read_archive(file, scratch)
        if (found := applied_version(scratch)) != listed.schema:
            raise StoreError(f"the store in {str(file)!r} has schema {found}, its list says {listed.schema}; take another backup")
        told = {"created_at": listed.created_at, "files": len(listed.files), "version": listed.version}
        audit.append(scratch, "restored", short(content_id(dict(listed.files))), actor=actor, reason=f"from {file.name}", details=told)
        for folder, _, _ in os.walk(scratch):
            Path(folder).chmod(0o700)
            sync_path(Path(folder))
        scratch.rename(target)
        sync_path(target.parent)
    return listed


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """Make a folder beside `target` under a name that nothing reads; what a killed restore left there goes first."""
    scratch = target.with_name(f".{target.name}.restore")
    scratch.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreBusy(f"another restore into {str(target)!r} is running; wait until it has ended") from None
        _empty(scratch)
        try:
            yield scratch
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
