"""`align release diff`: the differences between two releases, from the registry and the store."""

from __future__ import annotations

from typing import Any

from alignment.config import Settings
from alignment.release.compare import describe, differences
from alignment.store import query, sql, store_path
from alignment.text import amount, change

_POINTS = {"rate": "points", "nats": "nats"}


def _pairs(settings: Settings, night: str | None) -> dict[str, int]:
    if not night or not store_path(settings.home).exists():
        return {}
    rows = query(settings.home, sql("flows", "release_pairs"), {"night": night})
    return {f"{row['kind']}: {row['name']}": row["pairs"] for row in rows}


def _metrics(settings: Settings, release_id: str) -> dict[str, str]:
    """Return each metric of the gate's last decision as text: rate, n, and the change from the model it was compared with."""
    if not store_path(settings.home).exists():
        return {}
    return {
        row["name"]: f"{amount(row['rate'], row['unit'])} of {row['n']}; {change(row['diff'], row['unit'])} {_POINTS[row['unit']]} "
        f"({change(row['low'], row['unit'])} to {change(row['high'], row['unit'])}) against {row['compared_with']}, {row['status']}"
        for row in query(settings.home, sql("flows", "release_metrics"), {"release": release_id})
    }


def _facts(settings: Settings, release_id: str) -> dict[str, dict[str, Any]]:
    found = describe(settings.home, release_id)
    pairs = _pairs(settings, found["lineage"].get("night_id"))
    return {
        "lineage": found["lineage"],
        "settings": found["settings"],
        "pairs": pairs,
        "metrics": _metrics(settings, release_id),
        "files": found["files"],
    }


def compare(settings: Settings, a: str, b: str) -> dict[str, Any]:
    """Return the facts of both releases (`a`, `b`), and their differences by kind and name under `changes`.

    Raises:
        ReleaseError: there is no such release.
    """
    mine, theirs = _facts(settings, a), _facts(settings, b)
    changes = {kind: differences(mine[kind], theirs[kind]) for kind in mine}
    return {"releases": {"a": a, "b": b}, "a": mine, "b": theirs, "changes": changes}
