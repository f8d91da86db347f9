"""Staged Parquet into the store, in short transactions that a kill cannot tear.

Effects: writes the store.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.errors import StoreError
from alignment.ids import content_id
from alignment.ingest.stage import Staged, discard
from alignment.store import append, session
from alignment.store.session import append_arrow

_ROWS_PER_TRANSACTION = 100_000


class Batch(NamedTuple):
    """What became of a file's lines: read == stored + duplicate + quarantined."""

    read: int
    stored: int
    duplicate: int
    quarantined: int
    redacted: int


def merge(home: Path, staged: Staged, *, rejected: Mapping[int, str], now: datetime) -> Batch:
    """Store a staged file; `rejected` maps positions in its interactions to the data check they failed.

    A file counts as read with its last transaction, so that a killed merge is repeated and finds its rows already there.

    Raises:
        StoreError: lines went missing (read != stored + duplicate + quarantined).
    """
    started = time.perf_counter()
    usable = pq.read_table(staged.interactions)
    keep = pa.array([position not in rejected for position in range(usable.num_rows)], pa.bool_())
    refused = _refusals(staged, usable, rejected, now)
    usable = usable.filter(keep)
    with session(home) as connection:
        before = _held_from(connection, staged)
    stored = 0
    for start in range(0, usable.num_rows, _ROWS_PER_TRANSACTION):
        with session(home, write=True) as connection:
            stored += append_arrow(connection, "interactions", usable.slice(start, _ROWS_PER_TRANSACTION))
    # Rows that an earlier, killed merge of this very file stored are this file's rows, not duplicates.
    stored += before
    quarantined = staged.unusable + len(rejected)
    batch = Batch(staged.read, stored, usable.num_rows - stored, quarantined, staged.redacted)
    if batch.read != batch.stored + batch.duplicate + batch.quarantined:
        raise StoreError(f"lines of {str(staged.log_file.path)!r} went missing: {batch}; please report this")
    with session(home, write=True) as connection:
        append_arrow(connection, "signals", pq.read_table(staged.signals))
        append_arrow(connection, "quarantine", pq.read_table(staged.quarantine))
        append(connection, "quarantine", refused)
        append(connection, "source_files", [_file_row(staged, batch, now, time.perf_counter() - started)])
    discard(staged)
    return batch


def _held_from(connection: object, staged: Staged) -> int:
    row = connection.execute(  # type: ignore[attr-defined]
        "SELECT count(*) FROM interactions WHERE source_file = ?", [staged.log_file.id]
    ).fetchone()
    return int(row[0])


def _refusals(staged: Staged, usable: pa.Table, rejected: Mapping[int, str], now: datetime) -> list[dict[str, object]]:
    rows = usable.take(sorted(rejected)).to_pylist() if rejected else []
    return [
        {
            "id": content_id(staged.log_file.id, row["line_number"], reason),
            "source_file": staged.log_file.id,
            "line_number": row["line_number"],
            "reason": reason,
            "detail": "a data check",
            "raw": row["prompt"][:2000],
            "quarantined_at": now,
        }
        for row, (_, reason) in zip(rows, sorted(rejected.items()), strict=True)
    ]


def _file_row(staged: Staged, batch: Batch, now: datetime, seconds: float) -> dict[str, object]:
    return {
        "id": staged.log_file.id,
        "path": str(staged.log_file.path),
        "bytes": staged.log_file.size,
        "sha256": staged.log_file.id,
        "rows_read": batch.read,
        "rows_stored": batch.stored,
        "rows_duplicate": batch.duplicate,
        "rows_quarantined": batch.quarantined,
        "rows_redacted": batch.redacted,
        "seconds": seconds,
        "ingested_at": now,
    }
