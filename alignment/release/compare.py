"""Compare two releases: training settings, training data, gate measurements, and files that differ.

Effects: reads `<home>/releases`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignment.models.folder import ADAPTER, MODEL, trained
from alignment.release.disk import BASE, MANIFEST
from alignment.release.registry import folder_of

Sides = dict[str, dict[str, Any]]


def describe(home: Path, release_id: str) -> dict[str, Any]:
    """Return a release's own facts: `lineage`, `settings` and `files` with their hashes; all empty for the base model.

    Raises:
        ReleaseError: there is no such release.
    """
    if release_id == BASE:
        return {"lineage": {}, "settings": {}, "files": {}}
    folder = folder_of(home, release_id)
    manifest, made = _read(folder / MANIFEST), _read(trained(folder) / MANIFEST)
    lineage = {name: manifest.get(name) for name in ("night_id", "run_id", "base", "champion", "decision", "created_at")}
    lineage |= {name: made.get(name) for name in ("base_id", "pairs_sha256", "code_version", "torch")}
    weights = {name: digest for name, digest in (manifest.get("files") or {}).items() if name.startswith((f"{ADAPTER}/", f"{MODEL}/"))}
    return {"lineage": lineage, "settings": made.get("settings") or {}, "files": weights}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Sides:
    """Return the differing entries by name, as `a` and `b`; None where a side has no entry.

    >>> differences({"x": 1, "y": 2}, {"x": 1, "z": 3})
    {'y': {'a': 2, 'b': None}, 'z': {'a': None, 'b': 3}}
    """
    names = sorted(one.keys() | other.keys())
    return {name: {"a": one.get(name), "b": other.get(name)} for name in names if one.get(name) != other.get(name)}
