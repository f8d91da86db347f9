"""Which of two rows came first, whatever the clock said: rows of some tables are numbered in the transaction that writes them.

The store has one writer at a time, so that the next number is the highest of all these tables and one. Gaps are allowed; what is
last has the highest `seq`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

ORDERED = ("canary_checks", "gate_decisions", "gate_verdicts", "hook_runs", "release_events", "seed_events")
"""Tables whose rows are decisions or what became of them; each has a column `seq`, NULL in no row."""


def numbered(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return `rows` with a `seq` each, in their order, if `table` has one; a row that has a number keeps it."""
    schema, _, name = table.rpartition(".")
    if name not in ORDERED or all(row.get("seq") is not None for row in rows) or not _has_seq(connection, table):
        return list(rows)
    highest = " UNION ALL ".join(f"SELECT max(seq) AS seq FROM {f'{schema}.' if schema else ''}{one}" for one in ORDERED)  # noqa: S608
    last = connection.execute(f"SELECT coalesce(max(seq), 0) FROM ({highest})").fetchone()  # noqa: S608 - names from code
    start = int(last[0]) if last else 0
    return [row if row.get("seq") is not None else {**row, "seq": start + place} for place, row in enumerate(rows, 1)]


def _has_seq(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Say whether the table has its numbers yet; a store that is restored from older evidence gets them when it is migrated."""
    return any(column[0] == "seq" for column in connection.execute(f"DESCRIBE {table}").fetchall())
