"""Releases on disk: `<home>/releases/<id>/` holds adapter or model, card and manifest; `<home>/releases/current` names the one in use.

A release folder appears whole, by one rename, and never changes or goes away. The pointer changes by one rename as well, so
that at any instant, and after any kill, it names a complete release or the base model. `history.jsonl` beside it keeps every
change of the pointer; rolling back goes one step back in it.

Effects: writes `<home>/releases`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from alignment.errors import ReleaseError, ReleaseMoved
from alignment.ids import file_sha256
from alignment.models.whole import ADAPTER, MODEL, is_whole
from alignment.release.card import card_page
from alignment.release.disk import (
    BASE,
    CANARIES,
    MANIFEST,
    QUARANTINED,
    is_quarantined,
    locked,
    read_quarantine,
    read_rows,
    root,
    write_durably,
)
from alignment.release.pointer import Canary, current, current_canary, history, log_canary, move, write_serving
from alignment.store import audit

__all__ = ["BASE", "current", "folder_of", "history", "list_releases", "promote", "quarantine", "register", "rollback", "verify"]

CARD, PAGE = "card.md", "card.html"
_ID = re.compile(r"^[0-9a-f]{16}$")


def folder_of(home: Path, release_id: str) -> Path:
    """Return the folder of a release.

    Raises:
        ReleaseError: there is no such release.
    """
    folder = root(home) / release_id
    if not _ID.match(release_id) or not (folder / MANIFEST).is_file():
        known = ", ".join(row["release_id"] for row in list_releases(home)) or "none yet"
        raise ReleaseError(f"no release {release_id!r}; known: {known} ('align release list')")
    return folder


def register(home: Path, release_id: str, adapter: Path, *, card: str, manifest: Mapping[str, Any]) -> Path:
    """Copy a trained adapter, or a whole model, into the registry; registering the same release again changes nothing.

    Raises:
        ReleaseError: the id is none.
    """
    if not _ID.match(release_id):
        raise ReleaseError(f"{release_id!r} is no release id; 16 hex digits are ('align release list' shows them)")
    target = root(home) / release_id
    with locked(home):
        if (target / MANIFEST).is_file():
            return target
        scratch = root(home) / f".{release_id}.part"
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(adapter, scratch / (MODEL if is_whole(adapter) else ADAPTER))
        (scratch / CARD).write_text(card, encoding="utf-8")
        (scratch / PAGE).write_text(card_page(card, title=f"Release {release_id}"), encoding="utf-8")
        files = {str(path.relative_to(scratch)): file_sha256(path) for path in sorted(scratch.rglob("*")) if path.is_file()}
        write_durably(scratch / MANIFEST, json.dumps({**manifest, "release_id": release_id, "files": files}, indent=1))
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
    # Beside a mark, a killed quarantine leaves half of one: neither is loaded.
    wrong += sorted(present - files.keys() - {MANIFEST, QUARANTINED, f".{QUARANTINED}.part"})
    if wrong:
        raise ReleaseError(
            f"release {release_id!r} is not as it was registered: {', '.join(wrong)} missing, changed or added; "
            f"run 'align release quarantine {release_id} --reason TEXT', which also rolls back"
        )
    return folder


def promote(
    home: Path, release_id: str, *, actor: str, reason: str, now: datetime, replacing: str | None = None, held: Canary | None = None
) -> str:
    """Put a verified release into production; return what it replaced. Promoting the current release changes nothing.

    With `replacing`, the release it was compared with, it takes that one's place only, and not after a rollback from it: what people
    took back only people promote again. With `held`, only while that canary holds.

    Raises:
        ReleaseError: it is unknown, changed or quarantined.
        ReleaseMoved: something else than `replacing` is in production, it was rolled back or quarantined before, or `held` holds no longer.
    """
    with locked(home):
        verify(home, release_id)
        if is_quarantined(home, release_id):
            # Since the gate compared, people may have: its night ends with a decision, not with an error at each try.
            kind = ReleaseError if replacing is None else ReleaseMoved
            raise kind(f"release {release_id!r} is quarantined and cannot be promoted; see 'align release show {release_id}'")
        previous = current(home)
        if previous == release_id:
            write_serving(home)
            return previous
        if held is not None and current_canary(home) != held:
            raise ReleaseMoved(f"{release_id} is no canary any more; 'align release canary' shows what is")
        if replacing is not None:
            if previous != replacing:
                raise ReleaseMoved(
                    f"{release_id} was compared with {replacing}, but {previous} is in production by now; run 'align nightly --force'"
                )
            if _taken_back(home, release_id):
                raise ReleaseMoved(f"{release_id} was rolled back before; 'align release promote {release_id} --reason TEXT' is for people")
        move(home, release_id, event="promoted", actor=actor, reason=reason, now=now.isoformat())
        return previous


def _taken_back(home: Path, release_id: str) -> bool:
    """Say whether a release was rolled back before, from production or as a canary."""
    left = any(row["event"] == "rolled_back" and row["previous"] == release_id for row in history(home))
    tried = read_rows(root(home) / CANARIES)
    return left or any(row["event"] == "canary_rolled_back" and row["release_id"] == release_id for row in tried)


def rollback(home: Path, *, actor: str, reason: str, now: datetime) -> str:
    """Return to what was in production before the current release; return its id.

    Releases that are quarantined, or not as they were registered, are skipped. Nothing is deleted.

    Raises:
        ReleaseError: the base model is in production already.
    """
    with locked(home):
        return step_back(home, actor=actor, reason=reason, now=now.isoformat())


def step_back(home: Path, *, actor: str, reason: str, now: str) -> str:
    """Do as `rollback` for a caller that holds the lock; `now` as the history keeps it."""
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
    target = next(one for one in reversed(stack) if one == BASE or (one != here and _is_sound(home, one)))
    move(home, target, event="rolled_back", actor=actor, reason=reason, now=now)
    return target


def _is_sound(home: Path, release_id: str) -> bool:
    try:
        verify(home, release_id)
    except ReleaseError:
        return False
    return not is_quarantined(home, release_id)


def finish_quarantine(home: Path) -> None:
    """Step back from a quarantined release in production, which a kill left there; the caller holds the lock."""
    if is_quarantined(home, here := current(home)):
        note = read_quarantine(home, here)
        step_back(home, actor=note["actor"], reason=f"quarantined: {note['reason']}", now=note["recorded_at"])


def quarantine(home: Path, release_id: str, *, actor: str, reason: str, now: datetime) -> str:
    """Bar a release from production for good, rolling back if it is there; return what is in production afterwards."""
    with locked(home):
        folder = folder_of(home, release_id)
        if (held := current_canary(home)) and held.release_id == release_id:
            # The log first: once the mark is there, nothing tells any more that it was the canary.
            log_canary(home, "canary_ended", held, actor=actor, reason=f"quarantined: {reason}", now=now)
        note = {"actor": actor, "reason": reason, "recorded_at": now.isoformat()}
        audit.append(home, "quarantined", release_id, actor=actor, reason=reason)
        write_durably(folder / QUARANTINED, json.dumps(note, ensure_ascii=False) + "\n")
        finish_quarantine(home)
        write_serving(home)
        return current(home)


def list_releases(home: Path) -> list[dict[str, Any]]:
    """Return the manifests of all complete releases, newest first, with `status`."""
    here, held = current(home), current_canary(home)
    rows = []
    for path in root(home).glob(f"*/{MANIFEST}"):
        if not _ID.match(path.parent.name):
            continue
        name = path.parent.name
        try:
            manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            manifest = {}  # `verify` says what is wrong with it
        status = "quarantined" if is_quarantined(home, name) else "in production" if name == here else "kept"
        status = f"canary, {held.share:.0%}" if held and name == held.release_id else status
        rows.append({**manifest, "release_id": name, "status": status})
    return sorted(rows, key=lambda row: str(row.get("created_at", "")), reverse=True)
