"""`align doctor`: what has to be right before a night can run.

Effects: reads; converts the embedded model if that was never done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from alignment.config import Settings
from alignment.errors import AlignError
from alignment.ids import short
from alignment.ingest import log_sources
from alignment.labels import load_constitution
from alignment.models.embedded import embedder_path
from alignment.release import BASE, current, list_releases, verify
from alignment.store import query, store_path
from flows.night import base_path, base_weights

_FREE_GIB = 3
_TESTED = {"duckdb": "1.5.5", "prefect": "3.8", "fastapi": "0.150", "sqlalchemy": "2.0", "torch": "2.13", "trl": "1.16"}


def _versions(_: Settings) -> str:
    wrong = []
    for name, tested in _TESTED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        if not found.startswith(tested):
            wrong.append(f"{name} is {found}, tested was {tested}")
    if wrong:
        raise AlignError("; ".join(wrong) + "; install with 'pip install -c constraints.txt -e .'")
    return ", ".join(f"{name} {version(name)}" for name in _TESTED)


def _disk(settings: Settings) -> str:
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free / 2**30
    if free < _FREE_GIB:
        raise AlignError(f"{free:.1f} GiB are free for {str(settings.home)!r}, a night needs {_FREE_GIB}; free some space")
    return f"{free:.0f} GiB free"


def _logs(settings: Settings) -> str:
    return ", ".join(f"{source.name}: {len(source.find())} log files" for source in log_sources(settings))


def _constitution(settings: Settings) -> str:
    found = load_constitution(settings.labels.constitution)
    return f"{found.name} {found.version}, {len(found.principles)} principles"


def _models(settings: Settings) -> str:
    from alignment.models.local import load_tokenizer

    base = base_path(settings)
    load_tokenizer(base)
    return f"{base} ({short(base_weights(base))}), {embedder_path().parent.name}"


def _store(settings: Settings) -> str:
    if not store_path(settings.home).exists():
        return "none yet; the first night makes it"
    [row] = query(settings.home, "SELECT count(*) AS n FROM interactions")
    return f"{row['n']:,} exchanges"


def _registry(settings: Settings) -> str:
    names = [row["release_id"] for row in list_releases(settings.home)]
    for name in names:
        verify(settings.home, name)
    here = current(settings.home)
    if here != BASE and here not in names:
        raise AlignError(f"release {here!r} is in production but not in the registry; run 'align release rollback'")
    return f"{len(names)} releases, all as registered; in production: {here}"


_CHECKS: tuple[tuple[str, Callable[[Settings], str]], ...] = (
    ("versions", _versions),
    ("disk", _disk),
    ("logs", _logs),
    ("constitution", _constitution),
    ("models", _models),
    ("store", _store),
    ("releases", _registry),
)


def examine(settings: Settings) -> list[dict[str, str]]:
    """Return one row a check: what, `right` or `wrong`, and what was found or what to do."""
    rows = []
    for name, look in _CHECKS:
        try:
            rows.append({"check": name, "result": "right", "found": look(settings)})
        except AlignError as error:
            rows.append({"check": name, "result": "wrong", "found": str(error)})
    return rows
