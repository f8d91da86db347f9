"""Order rows independently of the clock: rows of some tables are numbered in the transaction that writes them.

The store has one writer at a time, so the next number is one more than the highest in all these tables. Gaps are allowed; the last row
has the highest `seq`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

ORDERED = ("canary_checks", "gate_decisions", "gate_verdicts", "hook_runs", "release_events", "seed_events")
"""Tables whose rows are decisions or their outcomes; each has a column `seq`, which is never NULL."""


def numbered(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Give each of `rows` a `seq`, in their order, if `table` has that column; a row that already has a number keeps it."""
    schema, _, name = table.rpartition(".")
    if name not in ORDERED or all(row.get("seq") is not None for row in rows) or not _has_seq(connection, table):
        return list(rows)
    highest = " UNION ALL ".join(f"SELECT max(seq) AS seq FROM {f'{schema}.' if schema else ''}{one}" for one in ORDERED)  # noqa: S608
    last = connection.execute(f"SELECT coalesce(max(seq), 0) FROM ({highest})").fetchone()  # noqa: S608 - names from code
    start = int(last[0]) if last else 0
    return [row if row.get("seq") is not None else {**row, "seq": start + place} for place, row in enumerate(rows, 1)]


def _has_seq(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Return whether the table has `seq` yet; a store restored from older evidence gets it when it is migrated."""
    return any(column[0] == "seq" for column in connection.execute(f"DESCRIBE {table}").fetchall())
