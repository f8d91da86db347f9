"""A store with rows in every table, whatever the schema is, that keeps the rules between tables."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from alignment.ids import content_id
from alignment.store import export, migrate, session
from alignment.store.evidence import tables

Rows = dict[str, list[tuple[Any, ...]]]

_VALUES = {
    "BIGINT": "{n}",
    "INTEGER": "{n}",
    "DOUBLE": "{n} / 8",
    "BOOLEAN": "{n} % 2 = 0",
    "DATE": "DATE '2026-11-23' + {n}::INTEGER",
    "TIMESTAMP": "TIMESTAMP '2026-11-23 02:00:00.123456' + INTERVAL 1 SECOND * {n}",
    "JSON": "'{{\"a\": [' || {n} || ', \"ü\"]}}'",
    "VARCHAR": "'{name} ' || {n} || ' é'",
}
_POINTERS = {
    ("pairs", "interaction_id"): "interactions",
    ("pair_sets", "pair_id"): "pairs",
    ("verdicts", "item_id"): "review_items",
    ("deep_redactions", "interaction_id"): "interactions",
    ("source_files", "sha256"): "source_files",
}


def fill(home: Path, *, start: int = 0, rows: int = 40) -> None:
    """Append rows `start` to `start + rows` to every table."""
    migrate(home)
    with session(home, write=True) as connection:
        for table in tables(connection):
            columns = connection.execute(f'DESCRIBE "{table}"').fetchall()
            values = [_value(table, name, kind) for name, kind, *_ in columns]
            names = ", ".join(f'"{name}"' for name, *_ in columns)
            connection.execute(f'INSERT INTO "{table}" ({names}) SELECT {", ".join(values)} FROM range({start}, {start + rows}) AS r(n)')


def fill_and_export(home: Path, *, rows: int = 40) -> None:
    """Fill every table of the `home` of a test and export it. That is done once per session of tests, and copied from then on."""
    made = home.parents[1] / f"filled-{rows}"
    if not made.exists():
        fill(made, rows=rows)
        export(made)
    shutil.copytree(made, home, dirs_exist_ok=True)


def _value(table: str, name: str, kind: str) -> str:
    if name == "id":
        return f"sha256('{table}' || n)"
    if (table, name) in _POINTERS:
        return f"sha256('{_POINTERS[table, name]}' || n)"
    if table == "source_files" and name in ("rows_stored", "rows_duplicate"):
        return "n" if name == "rows_stored" else "0"
    if table == "source_files" and name in ("rows_quarantined", "rows_skipped"):
        return "0"
    return _VALUES[kind].format(name=name, n="n")


def everything(home: Path) -> Rows:
    """Return all rows of all tables, sorted."""
    with session(home) as connection:
        return {name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in tables(connection)}


def verdict(name: str) -> dict[str, Any]:
    """Return a verdict on the first review item."""
    return {"id": content_id(name), "item_id": query_id("review_items", 0), "reviewer": name, "verdict": "agree"}


def query_id(table: str, number: int) -> str:
    """Return the id of row `number` of `table`."""
    import hashlib

    return hashlib.sha256(f"{table}{number}".encode()).hexdigest()
