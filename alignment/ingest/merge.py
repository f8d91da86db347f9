"""Store parsed blocks in one transaction that a kill cannot leave half done.

Effects: writes the store.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from alignment.ingest.parse import Context, Parsed, quarantine_row, quarantine_table
from alignment.ingest.reading import Part, known_by
from alignment.store import append, session, sql
from alignment.store.session import append_arrow

_READ_ONCE = ("id", "path", "mtime_ns", "start_offset", "end_offset", "last_line", "finished")


class Batch(NamedTuple):
    """The outcome of a block's or file's records: read == stored + duplicate + quarantined + skipped."""

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
    parsed: Parsed,
    *,
    rejected: Mapping[int, str],
    context: Context,
    results: Sequence[Mapping[str, Any]] = (),
    seconds: float = 0.0,
    refused: Collection[int] = (),
) -> list[Batch]:
    """Store blocks, the `results` of their data checks and the fact that they were read, or nothing; return each part's outcome.

    `rejected` maps positions among the usable rows to the data check that failed. For parts in `refused` only the errors are kept, for
    people to look at; their files count as read up to where the block begins.

    Raises:
        StoreError: records went missing.
    """
    turned_away, away = check_refusals(parsed, rejected, context), parsed.usable[sorted(rejected)]
    usable = np.delete(parsed.usable, sorted(rejected))
    keep = usable[~np.isin(parsed.of_part[usable], sorted(refused))]
    with session(home, write=True) as connection:
        # With several threads DuckDB compresses part of a row group twice: for its log and for the file.
        connection.execute("SET threads = 1")
        stored = insert(connection, parsed, keep, context)
        batches = _batches(parsed, stored, keep, away, refused)
        # A person's feedback on an exchange is stored only with the exchange: an erasure has no other way to find it.
        ids = parsed.rows["id"].take(pa.array(keep, pa.int64()))
        append_arrow(connection, "signals", parsed.signals.filter(pc.is_in(parsed.signals["interaction_id"], ids)))
        append_arrow(connection, "quarantine", parsed.quarantine)
        append_arrow(connection, "quarantine", turned_away)
        append(connection, "check_results", results)
        rows = [
            _refused_row(source, part, context)
            if number in refused
            else _file_row(source, part, batch, context, seconds / len(parsed.parts))
            for number, (part, batch) in enumerate(zip(parsed.parts, batches, strict=True))
        ]
        append(connection, "source_files", rows, key=_READ_ONCE)
        own = [*parsed.quarantine["id"].to_pylist(), *turned_away["id"].to_pylist()]
        _supersede(connection, source, [part for part, batch in zip(parsed.parts, batches, strict=True) if batch.read], own, context.now)
    return batches


def would_be(parsed: Parsed, rejected: Collection[int], refused: Collection[int] = ()) -> list[Batch]:
    """Return the outcome of each part's records if the store held none of them."""
    usable = np.delete(parsed.usable, sorted(rejected))
    keep = usable[~np.isin(parsed.of_part[usable], sorted(refused))]
    return _batches(parsed, keep, keep, parsed.usable[sorted(rejected)], refused)


def _batches(
    parsed: Parsed, stored: npt.NDArray[np.int64], keep: npt.NDArray[np.int64], away: npt.NDArray[np.int64], refused: Collection[int]
) -> list[Batch]:
    """Return the outcome of each part's records; those at `away` failed a data check, and a part in `refused` yields nothing."""
    of_part, reasons = parsed.of_part, parsed.rows["reason"]

    def counted(places: Any) -> list[int]:
        return [int(number) for number in np.bincount(of_part[places], minlength=len(parsed.parts))]

    skipped = np.flatnonzero(pc.fill_null(pc.equal(reasons, "no_exchange"), False).to_numpy(zero_copy_only=False))
    wrong = np.flatnonzero(pc.is_valid(parsed.rows["line"]).to_numpy(zero_copy_only=False))
    redacted = parsed.masked["position"].filter(pc.not_equal(parsed.masked["pii"], "{}")).to_numpy()
    columns = (slice(None), stored, keep, wrong, away, redacted, skipped)
    found = []
    for number, (read, new, kept, bad, rejected, masked, none) in enumerate(zip(*map(counted, columns), strict=True)):
        batch = Batch() if number in refused else Batch(read, new, kept - new, bad + rejected, masked, none)
        if batch.read != batch.stored + batch.duplicate + batch.quarantined + batch.skipped:
            path = parsed.parts[number].reading.log_file.path
            raise StoreError(f"records of {path!r} went missing: {batch}; nothing of them was stored. Please report this")
        found.append(batch)
    return found


def _supersede(connection: duckdb.DuckDBPyConnection, source: str, parts: Sequence[Part], own: Sequence[str], now: datetime) -> None:
    """Close earlier refusals of these lines, or of another file under one of these names, now that the lines could be read."""
    if not parts:
        return
    read_now = [
        {
            "path": reading.log_file.path,
            "id": reading.id,
            "first_line": reading.place.lines + 1,
            "last_line": block.end.lines,
            "last": block.last,
        }
        for reading, block in parts
    ]
    connection.register("read_now", pa.Table.from_pylist(read_now))
    try:
        rows = connection.execute(sql("alignment.ingest", "superseded"), {"source": source, "own": list(own)}).fetchall()
    finally:
        connection.unregister("read_now")
    closed = [
        {"id": content_id("replay", refused), "quarantine_id": refused, "outcome": "superseded", "replayed_at": now} for (refused,) in rows
    ]
    append(connection, "replays", closed)


def check_refusals(parsed: Parsed, rejected: Mapping[int, str], context: Context) -> pa.Table:
    """Return the rows that a data check refused, as rows of the quarantine."""
    places = parsed.usable[sorted(rejected)]
    rows = parsed.rows.select(["part", "line_number", "record_number", "prompt", "user_id"]).take(pa.array(places, pa.int64())).to_pylist()
    return quarantine_table(
        [
            quarantine_row(
                parsed.parts[row["part"]].reading.id,
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


def insert(connection: duckdb.DuckDBPyConnection, parsed: Parsed, keep: npt.NDArray[np.int64], context: Context) -> npt.NDArray[np.int64]:
    """Append the rows at the positions `keep` that the store does not hold yet; return their positions.

    An exchange stored for training that is now delivered for another purpose gets the signal `not_for_training`.
    """
    kept = np.zeros(len(parsed.rows), bool)
    kept[keep] = True
    files = pa.array([part.reading.id for part in parsed.parts], pa.string()).take(pa.array(parsed.of_part))
    incoming = parsed.rows.append_column("position", pa.array(np.arange(len(parsed.rows)))).append_column("keep", pa.array(kept))
    connection.register("incoming", incoming.append_column("source_file", files))
    masked = parsed.masked.drop_columns(["edit"])
    connection.register("masked", masked.append_column("source_file", files.take(masked["position"].combine_chunks())))
    try:
        fresh = connection.execute(sql("alignment.ingest", "fresh")).to_arrow_table()
        connection.register("fresh", fresh)
        connection.execute(sql("alignment.ingest", "insert"), {"ingested_at": context.now})
        withdrawn = [id_ for (id_,) in connection.execute(sql("alignment.ingest", "withdrawn")).fetchall()]
    finally:
        for name in ("incoming", "masked", "fresh"):
            connection.unregister(name)
    if withdrawn:
        said = {"kind": "not_for_training", "value": "true", "recorded_at": context.now}
        append(connection, "signals", [{"id": content_id(one, said["kind"]), "interaction_id": one, **said} for one in withdrawn])
    found: npt.NDArray[np.int64] = fresh["position"].to_numpy()
    return found


def _refused_row(source: str, part: Part, context: Context) -> dict[str, Any]:
    reading, block = part
    stands = part._replace(block=block._replace(end=reading.place, last=False))
    row = _file_row(source, stands, Batch(), context, 0.0)
    return {**row, "head_bytes": reading.head_bytes, "head": reading.head, "last_line": block.end.lines}


def _file_row(source: str, part: Part, batch: Batch, context: Context, seconds: float) -> dict[str, Any]:
    reading, end = part.reading, part.block.end
    head_bytes, head = known_by(*part)
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
        "finished": part.block.last,
        "rows_read": batch.read,
        "rows_stored": batch.stored,
        "rows_duplicate": batch.duplicate,
        "rows_quarantined": batch.quarantined,
        "rows_skipped": batch.skipped,
        "rows_redacted": batch.redacted,
        "seconds": seconds,
        "ingested_at": context.now,
    }
