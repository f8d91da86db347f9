"""Releases on disk: `<home>/releases/<id>/` holds adapter or model, card and manifest; `<home>/releases/current` names the one in use.

A release folder appears whole, by one rename, and never changes or goes away. The pointer changes by one rename as well, so at any
instant, and after any kill, it names a complete release or the base model. `history.jsonl` beside it records every change of the pointer
with a number; a rollback goes one step back in it. The pointer never names a release without the right to be served
(`alignment.release.rights`), and every file is hashed each time a release is promoted, made a canary, rolled back to or loaded.

Effects: writes `<home>/releases`; reads the store, and appends events to it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from alignment.errors import ReleaseError, ReleaseMoved, StoreError
from alignment.models.folder import ADAPTER, MODEL, is_whole
from alignment.release.card import card_page
from alignment.release.contents import Verified, digests, look
from alignment.release.contents import names as plain_names
from alignment.release.disk import (
    BASE,
    CANARIES,
    CANARY,
    MANIFEST,
    QUARANTINED,
    is_quarantined,
    keep_reserve,
    locked,
    next_seq,
    read_quarantine,
    read_rows,
    read_text,
    root,
    sync_folder,
    with_reserve,
    write_durably,
)
from alignment.release.events import tell_store
from alignment.release.pointer import Canary, current, current_canary, end_in_log, history, move, write_serving
from alignment.release.rights import Right, may_serve, records_of, refuse
from alignment.store import audit

__all__ = ["BASE", "current", "folder_of", "history", "list_releases", "promote", "quarantine", "register", "rollback", "verify"]

CARD, PAGE = "card.md", "card.html"
_ID = re.compile(r"^[0-9a-f]{16}$")


def folder_of(home: Path, release_id: str) -> Path:
    """Return the folder of a release.

    Raises:
        ReleaseError: the release does not exist.
    """
    folder = root(home) / release_id
    if not _ID.match(release_id) or not (folder / MANIFEST).is_file():
        known = ", ".join(row["release_id"] for row in list_releases(home)) or "none yet"
        raise ReleaseError(f"no release {release_id!r}; known: {known} ('align release list')")
    return folder


def register(home: Path, release_id: str, adapter: Path, *, card: str, manifest: Mapping[str, Any]) -> Path:
    """Copy a trained adapter, or a whole model, into the registry; registering the same release again changes nothing.

    If the manifest has `model_id`, `dtype` and `batch_size`, the id must match the copied files.

    Raises:
        ReleaseError: the id is malformed or does not match the files, the files contain a link, or the id belongs to other weights.
    """
    if not _ID.match(release_id):
        raise ReleaseError(f"{release_id!r} is no release id; 16 hex digits are ('align release list' shows them)")
    target, inside = root(home) / release_id, MODEL if is_whole(adapter) else ADAPTER
    for _ in plain_names(adapter):
        pass
    with locked(home):
        if (target / MANIFEST).is_file():
            _refuse_others(home, release_id, {f"{inside}/{name}": told for name, told in digests(adapter).items()})
            return target
        scratch = root(home) / f".{release_id}.part"
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(adapter, scratch / inside, symlinks=True)
        (scratch / CARD).write_text(card, encoding="utf-8")
        (scratch / PAGE).write_text(card_page(card, title=f"Release {release_id}"), encoding="utf-8")
        write_durably(scratch / MANIFEST, json.dumps({**manifest, "release_id": release_id, "files": digests(scratch)}, indent=1))
        look(scratch, release_id)
        os.replace(scratch, target)
        keep_reserve(home)
    return target


def _refuse_others(home: Path, release_id: str, given: Mapping[str, str]) -> None:
    """Refuse to give a release's id to other files; files that describe them (a manifest of the run) may differ."""
    try:
        listed: dict[str, str] = json.loads(read_text(root(home) / release_id / MANIFEST))["files"]
        other = sorted(name for name, told in given.items() if not name.endswith(f"/{MANIFEST}") and listed.get(name) != told)
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # `verify` reports the problem when somebody wants to serve it
    if other:
        raise ReleaseError(
            f"release {release_id!r} was registered with other files ({', '.join(other[:3])} differ); "
            "register what was trained anew under its own id, which 'align gate' does"
        )


def inspect(home: Path, release_id: str) -> Verified:
    """Hash every file of a release; return what it is.

    Raises:
        ReleaseError: a file is missing, changed, added or a link; the message names each.
    """
    return look(folder_of(home, release_id), release_id)


def verify(home: Path, release_id: str) -> Path:
    """Compare every file of a release with its manifest; return its folder.

    Raises:
        ReleaseError: see `inspect`.
    """
    return inspect(home, release_id).folder


def right_of(home: Path, release_id: str, *, approval: bool = False, share: float | None = None) -> Right:
    """Hash every file of a release; return whether it may be served; see `alignment.release.rights.may_serve`.

    Raises:
        ReleaseError: the release is not as it was registered.
        StoreError: the store cannot be read.
    """
    if release_id == BASE:
        return may_serve(BASE, None)
    return may_serve(release_id, records_of(home, release_id, inspect(home, release_id)), approval=approval, share=share)


def champion(home: Path) -> str:
    """Return the release in production, verified, for a caller that will answer with it.

    Raises:
        ReleaseError: it has no right to be served, or is not as it was registered.
    """
    here = current(home)
    right = right_of(home, here)
    if not right.allowed:
        raise ReleaseError(f"{here} is in production, but may not be served: {right.why}; run 'align release push', which takes it out")
    return here


def promote(
    home: Path,
    release_id: str,
    *,
    actor: str,
    reason: str,
    now: datetime,
    replacing: str | None = None,
    held: Canary | None = None,
    approval: bool = False,
    night_id: str | None = None,
) -> str:
    """Promote a verified release that may be served; return what it replaced. Promoting the current release changes nothing.

    `replacing` is the release it was compared with: it is promoted only if that is in production, and not after a rollback from it, because
    only people may promote again what people took back. With `held`, it is promoted only while that canary holds, and not by an override:
    permission for a share does not cover all traffic. `approval`: see `may_serve`.


    Raises:
        ReleaseError: it is unknown, changed or quarantined, or has no right to be served.
        ReleaseMoved: production is not `replacing`, the release was rolled back or quarantined before, or `held` no longer holds.
    """
    with locked(home):
        verified = check_place(home, release_id, replacing=replacing, held=held)
        right = may_serve(release_id, records_of(home, release_id, verified), approval=approval)
        refuse(right)
        if held is not None and right.by == "override":
            raise ReleaseError(
                f"{release_id} is served by an override ({right.why}), of which the outcomes of a canary make no more; "
                f"'align release promote {release_id} --actor NAME --reason TEXT' is for people"
            )
        previous = place(home, release_id, actor=actor, reason=reason, now=now, night_id=night_id)
    tell_store(home)
    return previous


def check_place(home: Path, release_id: str, *, replacing: str | None = None, held: Canary | None = None) -> Verified:
    """Refuse to promote if things changed since the caller looked (see `promote`), whoever asks; the caller holds the lock."""
    verified = inspect(home, release_id)
    if is_quarantined(home, release_id):
        # People may have quarantined it since the gate compared: the night then ends with a decision, not with an error at each try.
        kind = ReleaseError if replacing is None else ReleaseMoved
        raise kind(f"release {release_id!r} is quarantined and cannot be promoted; see 'align release show {release_id}'")
    if (previous := current(home)) == release_id:
        return verified
    if held is not None and current_canary(home) != held:
        raise ReleaseMoved(f"{release_id} is no canary any more; 'align release canary' shows what is")
    if replacing is not None:
        if previous != replacing:
            raise ReleaseMoved(
                f"{release_id} was compared with {replacing}, but {previous} is in production by now; run 'align nightly --force'"
            )
        if taken_back(home, release_id):
            raise ReleaseMoved(f"{release_id} was rolled back before; 'align release promote {release_id} --reason TEXT' is for people")
    return verified


def place(home: Path, release_id: str, *, actor: str, reason: str, now: datetime, night_id: str | None = None) -> str:
    """Point to a checked release; return what was in production. The caller holds the lock."""
    previous = current(home)
    if previous == release_id:
        write_serving(home)
        return previous
    keep_reserve(home)
    move(home, release_id, event="promoted", actor=actor, reason=reason, now=now.isoformat(), night_id=night_id)
    return previous


def taken_back(home: Path, release_id: str) -> bool:
    """Return whether people have rolled a release back, from production or as a canary."""
    left = any(row["event"] == "rolled_back" and row["previous"] == release_id for row in history(home))
    tried = read_rows(root(home) / CANARIES)
    return left or any(row.get("event") == "canary_rolled_back" and row.get("release_id") == release_id for row in tried)


def times_left(home: Path, release_id: str) -> int:
    """Return how often a release left production."""
    return sum(row["previous"] == release_id for row in history(home))


def rollback(home: Path, *, actor: str, reason: str, now: datetime) -> str:
    """Return to the previous release that may still be served; return its id. Works on a full disk.

    Skips releases that are quarantined, have lost their right to be served, or are not as registered. If none is left, or the store cannot
    tell, the base model serves. Nothing is deleted.

    Raises:
        ReleaseError: the base model is in production already.
    """

    def act() -> str:
        with locked(home):
            return step_back(home, actor=actor, reason=reason, now=now.isoformat())

    target = with_reserve(home, act)
    tell_store(home)
    return target


def step_back(home: Path, *, actor: str, reason: str, now: str, event: str = "rolled_back") -> str:
    """Do as `rollback` for a caller that holds the lock; `now` has the history's format."""
    target = way_back(home)
    move(home, target, event=event, actor=actor, reason=reason, now=now)
    return target


def way_back(home: Path) -> str:
    """Return the release that a rollback would put into production; see `rollback`.

    Raises:
        ReleaseError: the base model is in production already.
    """
    here = current(home)
    if here == BASE:
        raise ReleaseError("the base model is in production: there is nothing to roll back")
    stack: list[str] = [BASE]
    for row in history(home):
        if row["event"] == "promoted":
            stack.append(row["release_id"])
        elif row["release_id"] in stack:
            # Go back to its last place: a release that was promoted twice has two.
            while stack[-1] != row["release_id"]:
                stack.pop()
    return next(one for one in reversed(stack) if one == BASE or (one != here and _is_sound(home, one)))


def _is_sound(home: Path, release_id: str) -> bool:
    try:
        return right_of(home, release_id).allowed
    except (ReleaseError, StoreError):
        return False


def take_out(home: Path, release_id: str, *, actor: str, reason: str, now: datetime, event: str = "withdrawn") -> None:
    """Stop serving a release, as a canary and in production; the caller holds the lock."""
    if (held := current_canary(home)) and held.release_id == release_id:
        end_in_log(home, "canary_ended", held, actor=actor, reason=reason, now=now)
        (root(home) / CANARY).unlink()
        sync_folder(root(home))
    if current(home) == release_id:
        step_back(home, actor=actor, reason=reason, now=now.isoformat(), event=event)
    write_serving(home)


def withdraw(home: Path, release_id: str, *, record: Callable[[], None], actor: str, reason: str, now: datetime) -> None:
    """Stop serving a release, and then `record` the decision that ends its right to be served.

    Both happen under the registry's lock: nobody can serve it in between by the right that it still has.
    """

    def act() -> None:
        with locked(home):
            take_out(home, release_id, actor=actor, reason=reason, now=now)
            record()

    if root(home).is_dir():
        with_reserve(home, act)
        tell_store(home)
    else:
        record()


def finish_quarantine(home: Path) -> None:
    """Step back from a release in production that was marked as quarantined by hand; the caller holds the lock."""
    if is_quarantined(home, here := current(home)):
        note = read_quarantine(home, here)
        step_back(home, actor=note["actor"], reason=f"quarantined: {note['reason']}", now=note["recorded_at"])


def quarantine(home: Path, release_id: str, *, actor: str, reason: str, now: datetime) -> str:
    """Bar a release from production for good, rolling back if it is there; return what is in production afterwards.

    The release leaves production before it is marked, so that no marked release is ever served. Works on a full disk.
    """

    def act() -> str:
        with locked(home):
            return bar(home, release_id, actor=actor, reason=reason, now=now)

    here = with_reserve(home, act)
    tell_store(home)
    return here


def bar(home: Path, release_id: str, *, actor: str, reason: str, now: datetime) -> str:
    """Do as `quarantine` for a caller that holds the lock."""
    folder = folder_of(home, release_id)
    take_out(home, release_id, actor=actor, reason=f"quarantined: {reason}", now=now, event="rolled_back")
    note = {"actor": actor, "reason": reason, "recorded_at": now.isoformat(), "seq": next_seq(home)}
    audit.append(home, "quarantined", release_id, actor=actor, reason=reason)
    write_durably(folder / QUARANTINED, json.dumps(note, ensure_ascii=False) + "\n")
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
            manifest = dict(json.loads(read_text(path)))
        except (ValueError, TypeError, OSError, ReleaseError):
            manifest = {}  # `verify` reports the problem
        status = "quarantined" if is_quarantined(home, name) else "in production" if name == here else "kept"
        status = f"canary, {held.share:.0%}" if held and name == held.release_id else status
        rows.append({**manifest, "release_id": name, "status": status})
    return sorted(rows, key=lambda row: str(row.get("created_at", "")), reverse=True)
