"""Releases on disk: `<home>/releases/<id>/` holds adapter, card and manifest; `<home>/releases/current` names the one in use.

A release folder appears whole, by one rename, and never changes or goes away. The pointer changes by one rename as well, so
that at any instant, and after any kill, it names a complete release or the base model. `history.jsonl` beside it keeps every
change of the pointer; rolling back goes one step back in it.

Effects: writes `<home>/releases`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from alignment.errors import ReleaseError, ReleaseMoved
from alignment.ids import file_sha256

BASE = "base"
MANIFEST, POINTER, HISTORY, QUARANTINED = "manifest.json", "current", "history.jsonl", "QUARANTINED"
_ID = re.compile(r"^[0-9a-f]{16}$")


def _root(home: Path) -> Path:
    return home / "releases"


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    _root(home).mkdir(parents=True, exist_ok=True)
    handle = os.open(_root(home) / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write_durably(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(scratch, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def folder_of(home: Path, release_id: str) -> Path:
    """Return the folder of a release.

    Raises:
        ReleaseError: there is no such release.
    """
    folder = _root(home) / release_id
    if not _ID.match(release_id) or not (folder / MANIFEST).is_file():
        known = ", ".join(row["release_id"] for row in list_releases(home)) or "none yet"
        raise ReleaseError(f"no release {release_id!r}; known: {known} ('align release list')")
    return folder


def register(home: Path, release_id: str, adapter: Path, *, card: str, manifest: Mapping[str, Any]) -> Path:
    """Copy a trained adapter into the registry; registering the same release again changes nothing.

    Raises:
        ReleaseError: the id is none.
    """
    if not _ID.match(release_id):
        raise ReleaseError(f"{release_id!r} is no release id; 16 hex digits are ('align release list' shows them)")
    target = _root(home) / release_id
    with _lock(home):
        if (target / MANIFEST).is_file():
            return target
        scratch = _root(home) / f".{release_id}.part"
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(adapter, scratch / "adapter")
        (scratch / "card.md").write_text(card, encoding="utf-8")
        files = {str(path.relative_to(scratch)): file_sha256(path) for path in sorted(scratch.rglob("*")) if path.is_file()}
        _write_durably(scratch / MANIFEST, json.dumps({**manifest, "release_id": release_id, "files": files}, indent=1))
        os.replace(scratch, target)
    return target


def verify(home: Path, release_id: str) -> Path:
    """Return the release's folder after comparing every file with the manifest.

    Raises:
        ReleaseError: a file is missing, was changed or was added; each is named.
    """
    folder = folder_of(home, release_id)
    try:
        files: Mapping[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError):
        files = {MANIFEST: ""}
    wrong = [name for name, digest in files.items() if not (folder / name).is_file() or file_sha256(folder / name) != digest]
    # A file that was put in can change what is loaded just as an edited one.
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    wrong += sorted(present - files.keys() - {MANIFEST, QUARANTINED})
    if wrong:
        raise ReleaseError(
            f"release {release_id!r} is not as it was registered: {', '.join(wrong)} missing, changed or added; "
            f"run 'align release quarantine {release_id} --reason TEXT', which also rolls back"
        )
    return folder


def current(home: Path) -> str:
    """Return the id of the release in production, `base` when there is none."""
    try:
        return (_root(home) / POINTER).read_text(encoding="utf-8").strip() or BASE
    except FileNotFoundError:
        return BASE


def is_quarantined(home: Path, release_id: str) -> bool:
    """Say whether a release may no longer be promoted."""
    return (_root(home) / release_id / QUARANTINED).exists()


def _point(home: Path, release_id: str, *, event: str, actor: str, reason: str, now: datetime) -> None:
    row = {
        "event": event,
        "release_id": release_id,
        "previous": current(home),
        "actor": actor,
        "reason": reason,
        "recorded_at": now.isoformat(),
    }
    torn = _torn(_root(home) / HISTORY)
    # History first: after a kill in between, it tells of a step that the pointer did not take, which `history` leaves out.
    with (_root(home) / HISTORY).open("a", encoding="utf-8") as out:
        out.write("\n" * torn + json.dumps(row) + "\n")
        out.flush()
        os.fsync(out.fileno())
    _write_durably(_root(home) / POINTER, release_id + "\n")


def _torn(path: Path) -> bool:
    """Say whether a kill cut the last line short: the next one must not continue it."""
    try:
        with path.open("rb") as handle:
            handle.seek(-1, os.SEEK_END)
            return handle.read(1) != b"\n"
    except OSError:  # there is none yet, or it is empty
        return False


def history(home: Path) -> list[dict[str, Any]]:
    """Return every change of the pointer that took place, oldest first."""
    path = _root(home) / HISTORY
    rows = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue  # empty, or torn by a kill while it was written
    # A step that was announced but not taken is followed by one that starts from the same place, or by nothing.
    taken = []
    for position, row in enumerate(rows):
        after = rows[position + 1]["previous"] if position + 1 < len(rows) else current(home)
        if after == row["release_id"]:
            taken.append(row)
    return taken


def promote(home: Path, release_id: str, *, actor: str, reason: str, now: datetime, replacing: str | None = None) -> str:
    """Put a verified release into production; return what it replaced. Promoting the current release changes nothing.

    With `replacing`, the release it was compared with, it takes that one's place only, and not after a rollback from it: what people
    took back only people promote again.

    Raises:
        ReleaseError: it is unknown, changed or quarantined.
        ReleaseMoved: something else than `replacing` is in production, or it was rolled back before.
    """
    with _lock(home):
        verify(home, release_id)
        if is_quarantined(home, release_id):
            raise ReleaseError(f"release {release_id!r} is quarantined and cannot be promoted; see 'align release show {release_id}'")
        previous = current(home)
        if previous == release_id:
            return previous
        if replacing is not None:
            if previous != replacing:
                raise ReleaseMoved(
                    f"{release_id} was compared with {replacing}, but {previous} is in production by now; run 'align nightly --force'"
                )
            if any(row["event"] == "rolled_back" and row["previous"] == release_id for row in history(home)):
                raise ReleaseMoved(f"{release_id} was rolled back before; 'align release promote {release_id} --reason TEXT' is for people")
        _point(home, release_id, event="promoted", actor=actor, reason=reason, now=now)
        return previous


def rollback(home: Path, *, actor: str, reason: str, now: datetime) -> str:
    """Return to what was in production before the current release; return its id.

    Quarantined releases are skipped. Nothing is deleted.

    Raises:
        ReleaseError: the base model is in production already, or the earlier release was changed.
    """
    with _lock(home):
        return _step_back(home, actor=actor, reason=reason, now=now)


def _step_back(home: Path, *, actor: str, reason: str, now: datetime) -> str:
    here = current(home)
    if here == BASE:
        raise ReleaseError("the base model is in production: there is nothing to roll back")
    stack: list[str] = [BASE]
    for row in history(home):
        if row["event"] == "promoted":
            stack.append(row["release_id"])
        elif row["release_id"] in stack:
            # Its last place: a release that was promoted twice has two.
            while stack[-1] != row["release_id"]:
                stack.pop()
    earlier = [one for one in stack if one != here and (one == BASE or not is_quarantined(home, one))]
    target = earlier[-1] if earlier else BASE
    if target != BASE:
        verify(home, target)
    _point(home, target, event="rolled_back", actor=actor, reason=reason, now=now)
    return target


def quarantine(home: Path, release_id: str, *, actor: str, reason: str, now: datetime) -> str:
    """Bar a release from production for good, rolling back if it is there; return what is in production afterwards."""
    with _lock(home):
        folder = folder_of(home, release_id)
        note = {"actor": actor, "reason": reason, "recorded_at": now.isoformat()}
        _write_durably(folder / QUARANTINED, json.dumps(note, ensure_ascii=False) + "\n")
        here = current(home)
        return _step_back(home, actor=actor, reason=f"quarantined: {reason}", now=now) if here == release_id else here


def list_releases(home: Path) -> list[dict[str, Any]]:
    """Return the manifests of all complete releases, newest first, with `status`."""
    here = current(home)
    rows = []
    for path in _root(home).glob(f"*/{MANIFEST}"):
        if not _ID.match(path.parent.name):
            continue
        name = path.parent.name
        try:
            manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            manifest = {}  # `verify` says what is wrong with it
        status = "quarantined" if is_quarantined(home, name) else "in production" if name == here else "kept"
        rows.append({**manifest, "release_id": name, "status": status})
    return sorted(rows, key=lambda row: str(row.get("created_at", "")), reverse=True)
