"""The contents of a release's folder, and whether they are as registered: all files hashed, no links, no special or extra files.

Effects: reads a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from alignment.errors import ModelError, ReleaseError
from alignment.ids import content_id, short
from alignment.models.folder import ADAPTER, MODEL, trained
from alignment.models.identity import trained_id
from alignment.release.disk import MANIFEST, QUARANTINED, read_text

_BESIDE = frozenset({MANIFEST, QUARANTINED, f".{QUARANTINED}.part"})
"""Files outside the manifest: a quarantine mark, and the half that a killed quarantine leaves of it; neither is loaded."""


class Verified(NamedTuple):
    """A release as it is on disk: its folder, the id of its weights, and the model's full id if its manifest has one."""

    folder: Path
    weights: str
    model_id: str | None


def names(folder: Path) -> Iterator[str]:
    """Yield the name of every file below `folder`, relative to it.

    Raises:
        ReleaseError: there is a link, a file with a second name, or something that is neither a file nor a folder.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            yield from (f"{entry.name}/{name}" for name in names(Path(entry.path)))
        elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            yield entry.name
        else:
            kind = "a link" if stat.S_ISLNK(found.st_mode) else "a hard link" if stat.S_ISREG(found.st_mode) else "no plain file"
            raise ReleaseError(f"{entry.path!r} is {kind}; a release holds plain files only. Copy what it stands for in its place")


def digest(path: Path) -> str:
    """Return the SHA-256 of a plain file; links are refused."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ReleaseError(f"{str(path)!r} is no plain file")
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `folder`, by name.

    Raises:
        ReleaseError: see `names`.
    """
    return {name: digest(folder / name) for name in names(folder)}


def weights_of(files: Mapping[str, str]) -> str:
    """Return the content address of the trained weights, from the digests of a release's files."""
    return content_id("weights", sorted((name, told) for name, told in files.items() if name.startswith((f"{ADAPTER}/", f"{MODEL}/"))))


def look(folder: Path, release_id: str) -> Verified:
    """Hash every file of a release, and compare them with the manifest and the weights with the id.

    Raises:
        ReleaseError: a file is missing, changed, added or a link, or the weights are another model's; the message names each.
    """
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise ReleaseError(f"{str(folder)!r} is a link or no folder")
        present = digests(folder)
        manifest: Any = _manifest(folder)
    except (ReleaseError, OSError) as error:
        raise ReleaseError(_advice(release_id, str(error))) from None
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not all(isinstance(one, str) and _inside(name) for name, one in listed.items()):
        raise ReleaseError(_advice(release_id, f"{MANIFEST} missing, changed or added"))
    wrong = sorted(name for name in listed.keys() | (present.keys() - _BESIDE) if present.get(name) != listed.get(name))
    if wrong:
        raise ReleaseError(_advice(release_id, f"{', '.join(wrong)} missing, changed or added"))
    return Verified(folder, weights_of(listed), _model_id(folder, release_id, manifest, listed))


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(folder / MANIFEST))
    except (ValueError, FileNotFoundError):
        return {}
    return found if isinstance(found, dict) else {}


def _inside(name: str) -> bool:
    """Return whether a name in a manifest stays inside its folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name and "\\" not in name


def _model_id(folder: Path, release_id: str, manifest: Mapping[str, Any], listed: Mapping[str, str]) -> str | None:
    """Return the model's full id, recomputed from its files; None if it was registered without one."""
    if not manifest.get("model_id"):
        return None
    inside = trained(folder)

    def known(path: Path) -> str:
        return listed[path.relative_to(folder).as_posix()]

    try:
        found = trained_id(inside, dtype=str(manifest.get("dtype")), batch_size=int(manifest.get("batch_size") or 0), digest=known)
    except (ModelError, KeyError, ValueError) as error:
        raise ReleaseError(_advice(release_id, f"its model id cannot be told ({error})")) from None
    if found != manifest["model_id"] or short(found) != release_id:
        raise ReleaseError(_advice(release_id, f"{inside.name} holds the model {short(found)}, whatever {MANIFEST} says"))
    return found


def _advice(release_id: str, what: str) -> str:
    return (
        f"release {release_id!r} is not as it was registered: {what}; "
        f"run 'align release quarantine {release_id} --reason TEXT', which also rolls back"
    )
