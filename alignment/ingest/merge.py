"""A parsed block into the store, in one transaction that a kill cannot tear.

Effects: writes the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alignment.errors import StoreError
from alignment.ids import content_id
from alignment.ingest.lines import Block
from alignment.ingest.parse import Context, Parsed, quarantine_row, quarantine_table
from alignment.ingest.reading import Reading
from alignment.store import append, session, sql
from alignment.store.session import append_arrow

_READ_ONCE = ("id", "path", "mtime_ns", "start_offset", "end_offset", "last_line", "finished")


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
    home: Path,
    source: str,
    reading: Reading,
    parsed: Parsed,
    *,
    rejected: Mapping[int, str],
    context: Context,
    results: Sequence[Mapping[str, Any]] = (),
    seconds: float = 0.0,
) -> Batch:
    """Store a block, the `results` of its data checks and that it was read, or nothing.

    `rejected` maps places among its usable rows to the data check they failed.

    Raises:
        StoreError: records went missing.
    """
    refused = check_refusals(reading, parsed, rejected, context)
    keep = np.delete(parsed.usable, sorted(rejected))
    with session(home, write=True) as connection:
        # With several threads DuckDB compresses a part of a row group twice: for its log, and for the file.
        connection.execute("SET threads = 1")
        stored = insert(connection, parsed, keep, reading.id, context)
        batch = Batch(
            parsed.read,
            stored,
            len(keep) - stored,
            len(parsed.quarantine) + len(refused),
            parsed.redacted,
            parsed.skipped,
        )
        if batch.read != batch.stored + batch.duplicate + batch.quarantined + batch.skipped:
            raise StoreError(f"records of {reading.log_file.path!r} went missing: {batch}; nothing of them was stored. Please report this")
        # What a person said of an exchange goes where the exchange goes: an erasure finds it by nothing else.
        ids = parsed.rows["id"].take(pa.array(keep, pa.int64()))
        append_arrow(connection, "signals", parsed.signals.filter(pc.is_in(parsed.signals["interaction_id"], ids)))
        append_arrow(connection, "quarantine", parsed.quarantine)
        append_arrow(connection, "quarantine", refused)
        append(connection, "check_results", results)
        append(
            connection,
            "source_files",
            [_file_row(source, reading, parsed, batch, context, seconds)],
            key=_READ_ONCE,
        )
        if batch.read:
            own = [*parsed.quarantine["id"].to_pylist(), *refused["id"].to_pylist()]
            _supersede(connection, reading, parsed.block, own, context.now)
    return batch


def refuse(
    home: Path,
    source: str,
    reading: Reading,
    parsed: Parsed,
    *,
    rejected: Mapping[int, str],
    context: Context,
    results: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Keep what was wrong with a block that is not stored, so that people can look at it; the file counts as read up to where it begins."""
    row = _file_row(source, reading, parsed._replace(block=parsed.block._replace(end=reading.place, last=False)), Batch(), context, 0.0)
    with session(home, write=True) as connection:
        append_arrow(connection, "quarantine", parsed.quarantine)
        append_arrow(connection, "quarantine", check_refusals(reading, parsed, rejected, context))
        append(connection, "check_results", results)
        append(
            connection,
            "source_files",
            [{**row, "head_bytes": reading.head_bytes, "head": reading.head, "last_line": parsed.block.end.lines}],
            key=_READ_ONCE,
        )


def _supersede(connection: duckdb.DuckDBPyConnection, reading: Reading, block: Block, own: Sequence[str], now: datetime) -> None:
    """Close what was refused of these lines, or of another file under this name, before they could be read as they are now."""
    parameters = {
        "path": reading.log_file.path,
        "id": reading.id,
        "first_line": reading.place.lines + 1,
        "last_line": block.end.lines,
        "last": block.last,
        "own": list(own),
    }
    rows = connection.execute(sql("ingest_superseded"), parameters).fetchall()
    closed = [
        {"id": content_id("replay", refused), "quarantine_id": refused, "outcome": "superseded", "replayed_at": now} for (refused,) in rows
    ]
    append(connection, "replays", closed)


def check_refusals(reading: Reading, parsed: Parsed, rejected: Mapping[int, str], context: Context) -> pa.Table:
    """Return the rows that a data check refused as the quarantine keeps them."""
    places = parsed.usable[sorted(rejected)]
    rows = parsed.rows.select(["line_number", "record_number", "prompt", "user_id"]).take(pa.array(places, pa.int64())).to_pylist()
    return quarantine_table(
        [
            quarantine_row(
                reading.id,
                row["line_number"],
                row["record_number"],
                rejected[place],
                "a data check",
                row["prompt"],
                row["user_id"],
                context,
            )
            for row, place in zip(rows, sorted(rejected), strict=True)
        ]
    )


def insert(connection: duckdb.DuckDBPyConnection, parsed: Parsed, keep: npt.NDArray[np.int64], file_id: str, context: Context) -> int:
    """Append those of the rows at the positions `keep` that the store does not hold; return how many those were.

    One that the store holds for training, and that is said now to be for something else, gets the signal `not_for_training`.
    """
    kept = np.zeros(len(parsed.rows), bool)
    kept[keep] = True
    incoming = parsed.rows.append_column("position", pa.array(np.arange(len(parsed.rows)))).append_column("keep", pa.array(kept))
    connection.register("incoming", incoming)
    connection.register("masked", parsed.masked.drop_columns(["edit"]))
    try:
        counted = connection.execute(sql("ingest_insert"), {"source_file": file_id, "ingested_at": context.now}).fetchone()
        withdrawn = [id_ for (id_,) in connection.execute(sql("ingest_withdrawn")).fetchall()]
    finally:
        connection.unregister("incoming")
        connection.unregister("masked")
    if withdrawn:
        said = {"kind": "not_for_training", "value": "true", "recorded_at": context.now}
        append(connection, "signals", [{"id": content_id(one, said["kind"]), "interaction_id": one, **said} for one in withdrawn])
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
