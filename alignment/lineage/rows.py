"""A person's rows in the store: find them, and copy the store without them.

Effects: none of its own; works on the connections it is given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from alignment.errors import StoreError
from alignment.lineage.scrub import TEXT_COLUMNS, Scrubber, Subject, quarantine_pattern
from alignment.store import sql

_KEY = {"detections": "interaction_id", "deep_redactions": "interaction_id"}


class Found(NamedTuple):
    """A person's data in the store: rows to erase and other people's rows that name the person, by table; affected files and releases."""

    rows: Mapping[str, int]
    mentions: Mapping[str, int]
    ids: frozenset[str]
    texts: tuple[str, ...]
    log_files: tuple[str, ...]
    exports: tuple[str, ...]
    releases: tuple[tuple[str, str], ...]


def look_up(connection: duckdb.DuckDBPyConnection, subject: Subject) -> Found:
    """Look up what the store open on `connection` holds of `subject`."""
    counts = _mark(connection, subject)
    ids = {str(row[0]) for row in connection.execute("SELECT DISTINCT id FROM doomed").fetchall()}
    scrubber = Scrubber(subject.forms)
    mentions = {table: len(_scrubbed(connection, table, scrubber)) for table in TEXT_COLUMNS}
    files = connection.execute(sql("alignment.lineage", "erase_log_files"), {"forms": list(subject.forms)}).fetchall()
    exports = connection.execute(sql("alignment.lineage", "erase_exports")).fetchall()
    return Found(
        counts,
        {table: number for table, number in mentions.items() if number},
        frozenset(ids),
        _texts(connection),
        tuple(str(row[0]) for row in files),
        tuple(str(row[0]) for row in exports),
        tuple((str(release), str(night)) for release, night in connection.execute(sql("alignment.lineage", "erase_releases")).fetchall()),
    )


def _mark(connection: duckdb.DuckDBPyConnection, subject: Subject) -> dict[str, int]:
    """Make the temporary table `doomed` (table_name, id); return its rows by table."""
    parameters = {"forms": list(subject.forms), "pattern": quarantine_pattern(subject)}
    # A temporary table cannot be made from a statement with parameters.
    found = connection.execute(sql("alignment.lineage", "erase_doomed"), parameters).to_arrow_table()
    connection.register("found", found)
    connection.execute("CREATE OR REPLACE TEMP TABLE doomed AS SELECT * FROM found")
    connection.unregister("found")
    return {
        str(name): int(n) for name, n in connection.execute("SELECT table_name, count(*) FROM doomed GROUP BY ALL ORDER BY 1").fetchall()
    }


def _texts(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Return what the person wrote, and the answers to it."""
    exchanges = connection.execute("SELECT messages::VARCHAR, response FROM interactions SEMI JOIN doomed USING (id)").fetchall()
    edits = connection.execute("SELECT value FROM signals SEMI JOIN doomed USING (id) WHERE kind = 'edit'").fetchall()
    said = [turn["content"] for messages, _ in exchanges for turn in json.loads(messages) if turn["role"] != "system"]
    return tuple(sorted({*said, *(response for _, response in exchanges), *(value for (value,) in edits)}))


def _scrubbed(connection: duckdb.DuckDBPyConnection, table: str, scrubber: Scrubber) -> list[dict[str, Any]]:
    """Return other people's rows in `table` that hold the person's id, with their row number and their text columns cleaned."""
    columns = TEXT_COLUMNS[table]
    if not scrubber.needles:
        return []
    listed = ", ".join(f"{name}::VARCHAR AS {name}" for name in columns)
    rows = connection.execute(
        f"SELECT rowid AS row_number, {listed} FROM {table} ANTI JOIN "  # noqa: S608 - names from code
        "(SELECT id FROM doomed WHERE table_name = $table) AS gone USING (id) "
        f"WHERE len(list_filter($needles, lambda needle: contains(concat_ws(chr(10), {', '.join(columns)}), needle))) > 0",
        {"table": table, "needles": list(scrubber.needles)},
    ).to_arrow_table()
    pairs = [(row, scrubber.row(row)) for row in rows.to_pylist()]
    return [cleaned for row, cleaned in pairs if cleaned != row]


def copy_without(connection: duckdb.DuckDBPyConnection, subject: Subject) -> None:
    """Copy every table of `old` to `new` without the person's rows, and with the person's id removed from other people's text.

    Raises:
        StoreError: rows went missing during the copy.
    """
    connection.execute("USE old")
    counts = _mark(connection, subject)
    scrubber, full = Scrubber(subject.forms), Scrubber(subject.forms, _texts(connection))
    tables = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'old' AND NOT temporary ORDER BY 1"
    ).fetchall()
    for (table,) in tables:
        # A check's report about a row may quote it.
        cleaned = _scrubbed(connection, table, full if table == "check_results" else scrubber) if table in TEXT_COLUMNS else []
        _copy(connection, table, cleaned, doomed=counts.get(table, 0))


def _copy(connection: duckdb.DuckDBPyConnection, table: str, cleaned: list[dict[str, Any]], *, doomed: int) -> None:
    columns = TEXT_COLUMNS.get(table, ())
    # `table`, the key and the columns are names of the schema, never data.
    source, key, replaced = f'old.main."{table}" AS had', _KEY.get(table, "id"), ""
    if cleaned:
        schema = pa.schema([("row_number", pa.int64()), *((name, pa.string()) for name in columns)])
        connection.register("cleaned", pa.Table.from_pylist(cleaned, schema=schema))
        source += " LEFT JOIN cleaned ON cleaned.row_number = had.rowid"
        cases = (f"CASE WHEN cleaned.row_number IS NULL THEN had.{name} ELSE cleaned.{name} END AS {name}" for name in columns)
        replaced = f" REPLACE ({', '.join(cases)})"
    if doomed:
        source += f" ANTI JOIN (SELECT DISTINCT id FROM doomed WHERE table_name = '{table}') AS gone ON gone.id = had.{key}"  # noqa: S608
    connection.execute(f'INSERT INTO new.main."{table}" BY NAME SELECT had.*{replaced} FROM {source}')  # noqa: S608
    if cleaned:
        connection.unregister("cleaned")
    [had] = connection.execute(f'SELECT count(*) FROM old.main."{table}"').fetchone() or (0,)  # noqa: S608
    [has] = connection.execute(f'SELECT count(*) FROM new.main."{table}"').fetchone() or (0,)  # noqa: S608
    if had - doomed != has:
        raise StoreError(f"rows of {table!r} went missing: of {had} less {doomed} to erase, {has} were copied; the store is unchanged")
