"""A parsed block into the store, in one transaction that a kill cannot tear.

Effects: writes the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from alignment.errors import StoreError
from alignment.ingest.parse import Context, Parsed, quarantine_row, quarantine_table
from alignment.ingest.reading import Reading
from alignment.store import append, session, sql
from alignment.store.session import append_arrow


class Batch(NamedTuple):
    """What became of the records of a block or file: read == stored + duplicate + quarantined + skipped."""

    read: int = 0
    stored: int = 0
    duplicate: int = 0
    quarantined: int = 0
    redacted: int = 0
    skipped: int = 0

    def plus(self, other: Batch) -> Batch:
        """Return the sums."""
        return Batch(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def merge(
    home: Path, source: str, reading: Reading, parsed: Parsed, *, rejected: Mapping[int, str], context: Context, seconds: float = 0.0
) -> Batch:
    """Store a block and that it was read, or nothing; `rejected` maps positions in its interactions to the data check they failed.

    Raises:
        StoreError: records went missing.
    """
    refused = check_refusals(reading, parsed, rejected, context)
    usable = parsed.interactions
    if rejected:
        usable = usable.filter(pa.array([position not in rejected for position in range(len(usable))], pa.bool_()))
    with session(home, write=True) as connection:
        stored = insert(connection, usable)
        batch = Batch(
            parsed.read,
            stored,
            len(usable) - stored,
            len(parsed.quarantine) + len(refused),
            parsed.redacted,
            parsed.skipped,
        )
        if batch.read != batch.stored + batch.duplicate + batch.quarantined + batch.skipped:
            raise StoreError(f"records of {reading.log_file.path!r} went missing: {batch}; nothing of them was stored. Please report this")
        append_arrow(connection, "signals", parsed.signals)
        append_arrow(connection, "quarantine", parsed.quarantine)
        append_arrow(connection, "quarantine", refused)
        append(
            connection,
            "source_files",
            [_file_row(source, reading, parsed, batch, context, seconds)],
            key=("id", "path", "mtime_ns", "end_offset", "finished"),
        )
    return batch


def check_refusals(reading: Reading, parsed: Parsed, rejected: Mapping[int, str], context: Context) -> pa.Table:
    """Return the rows that a data check refused as the quarantine keeps them."""
    rows = parsed.interactions.take(sorted(rejected)).to_pylist() if rejected else []
    records = parsed.records.take(pa.array(sorted(rejected), pa.int64())).to_pylist()
    return quarantine_table(
        [
            quarantine_row(reading.id, row["line_number"], record, reason, "a data check", row["prompt"], row["user_id"], context)
            for row, record, (_, reason) in zip(rows, records, sorted(rejected.items()), strict=True)
        ]
    )


def insert(connection: duckdb.DuckDBPyConnection, usable: pa.Table) -> int:
    """Append the exchanges that the store does not hold; return how many those were."""
    # Which rows are new is found on ids alone; whole rows are then moved once.
    connection.register("incoming", usable.append_column("position", pa.array(range(len(usable)), pa.int64())))
    try:
        counted = connection.execute(sql("ingest_insert")).fetchone()
    finally:
        connection.unregister("incoming")
    return int(counted[0]) if counted else 0


def _file_row(source: str, reading: Reading, parsed: Parsed, batch: Batch, context: Context, seconds: float) -> dict[str, Any]:
    end = parsed.block.end
    head_bytes, head = _head(reading, parsed)
    return {
        "id": reading.id,
        "source": source,
        "path": reading.log_file.path,
        "bytes": reading.log_file.size,
        "mtime_ns": reading.log_file.mtime_ns,
        "sha256": end.sha256,
        "head_bytes": head_bytes,
        "head": head,
        "start_offset": reading.place.offset,
        "end_offset": end.offset,
        "first_line": reading.place.lines + 1,
        "last_line": end.lines,
        "finished": parsed.block.last,
        "rows_read": batch.read,
        "rows_stored": batch.stored,
        "rows_duplicate": batch.duplicate,
        "rows_quarantined": batch.quarantined,
        "rows_skipped": batch.skipped,
        "rows_redacted": batch.redacted,
        "seconds": seconds,
        "ingested_at": context.now,
    }


def _head(reading: Reading, parsed: Parsed) -> tuple[int, str]:
    # A last line that was left for the next time is not part of what was read.
    if reading.head_bytes > parsed.block.end.offset:
        return parsed.block.end.offset, parsed.block.end.sha256
    return reading.head_bytes, reading.head
