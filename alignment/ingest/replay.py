"""Read quarantined records again after a setting, a mapping or the code was corrected.

A record is read from its file if that still exists; else from the redacted text that was kept, if that is complete.

Effects: reads log files, writes the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alignment.acting import acting_name
from alignment.errors import InputError
from alignment.ids import content_id
from alignment.ingest.files import LogFile, find_file
from alignment.ingest.lines import SCHEMA, Block, Place
from alignment.ingest.merge import insert
from alignment.ingest.parse import KEPT_WHOLE, Context, Parsed, parse
from alignment.ingest.reading import FileProgress, Part, blocks, known_files, resume
from alignment.ingest.sources import Source, parser
from alignment.store import append, audit, query, session, sql
from alignment.store.session import append_arrow

Check = Callable[[Parsed, str], Mapping[int, str]]


def replay(
    home: Path, sources: Mapping[str, Source], check: Check, context: Context, *, reason: str | None, source: str | None
) -> Counter[str]:
    """Read quarantined records again; return the counts of those `stored`, `duplicate`, or staying for each reason.

    `check` takes a parsed block and a name for the batch, and returns the places among its usable rows that fail a data check.
    """
    outcomes: Counter[str] = Counter()
    rows = query(home, sql("alignment.ingest", "replayable"), {"reason": reason, "source": source})
    if rows:
        audit.append(
            home, "quarantine_replayed", source or "all sources", actor=acting_name(), details={"of": reason, "records": len(rows)}
        )
    for (_, name), group in groupby(rows, key=lambda row: (row["source_file"], row["source"])):
        wanted = list(group)
        if name not in sources:
            outcomes[f"source {name} is not configured"] += len(wanted)
            continue
        outcomes.update(_replay_file(home, sources[name], wanted, check, context))
    return outcomes


def _replay_file(home: Path, source: Source, wanted: Sequence[dict[str, Any]], check: Check, context: Context) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    connection, statement = parser(), source.statement()
    reading, found = _lines(home, source, wanted, context)
    places = {(row["line_number"], row["record_number"]): row["id"] for row in wanted}
    try:
        for block in found:
            if not len(block.lines):
                continue
            parsed = parse(connection, statement, source.undated, [Part(reading, block)], context)
            outcomes.update(_store(home, parsed, places, check(parsed, reading.id), context))
    finally:
        connection.close()
    stay = Counter(row["reason"] for row in wanted)
    gone = sum(outcomes.values())
    if gone < len(wanted):
        outcomes[f"still {', '.join(sorted(stay))}"] = len(wanted) - gone
    return outcomes


def _lines(home: Path, source: Source, wanted: Sequence[dict[str, Any]], context: Context) -> tuple[FileProgress, Iterator[Block]]:
    first = wanted[0]
    reading = _file_of(home, source, first["source_file"])
    if reading is None:
        gone = LogFile(first["path"], first["bytes"], first["mtime_ns"] or 0)
        return FileProgress(gone, first["source_file"], Place(), 0, ""), _kept_lines(wanted)
    numbers = pa.array([row["line_number"] for row in wanted], pa.int64())
    start = reading._replace(place=Place())

    def matching() -> Iterator[Block]:
        for block in blocks(start, context.settings, now=context.now):
            # Half a call needs the line with the other half.
            wanted_lines = block.lines if source.joins else block.lines.filter(pc.is_in(block.lines["line_number"], numbers))
            yield block._replace(lines=wanted_lines)

    return start, matching()


def _file_of(home: Path, source: Source, file_id: str) -> FileProgress | None:
    """Return the file in its current state, under whichever of its names still holds the same bytes."""
    paths = query(home, "SELECT path FROM source_files WHERE id = ? GROUP BY path ORDER BY max(ingested_at) DESC", [file_id])
    known = known_files(home, source.name)
    for row in paths:
        try:
            reading = resume(known, source.name, find_file(row["path"]))
        except InputError:
            continue
        if reading.id == file_id:
            return reading
    return None


def _kept_lines(wanted: Sequence[dict[str, Any]]) -> Iterator[Block]:
    whole = [row for row in wanted if row["detail"].endswith(KEPT_WHOLE) and not row["reason"].startswith("check:")]
    columns = [
        pa.array([row["line_number"] for row in whole], pa.int64()),
        pa.array([row["raw"] for row in whole], pa.string()),
        pa.nulls(len(whole), pa.string()),
    ]
    yield Block(pa.table(columns, schema=SCHEMA), Place(), True)


def _store(
    home: Path, parsed: Parsed, places: Mapping[tuple[int, int], str], rejected: Mapping[int, str], context: Context
) -> Counter[str]:
    """Store the records that are now usable, and mark them as replayed; only the quarantined records count."""
    usable = np.delete(parsed.usable, sorted(rejected))
    numbers = parsed.rows.select(["line_number", "record_number", "id"]).take(pa.array(usable)).to_pylist()
    wanted = [
        (position, row["id"], places[row["line_number"], row["record_number"]])
        for position, row in zip(usable, numbers, strict=True)
        if (row["line_number"], row["record_number"]) in places
    ]
    keep = np.array([position for position, _, _ in wanted], np.int64)
    with session(home, write=True) as connection:
        stored = len(insert(connection, parsed, keep, context))
        ids = pa.array([exchange for _, exchange, _ in wanted], pa.string())
        append_arrow(connection, "signals", parsed.signals.filter(pc.is_in(parsed.signals["interaction_id"], ids)))
        done = [
            {"id": content_id("replay", refused), "quarantine_id": refused, "outcome": "usable", "replayed_at": context.now}
            for _, _, refused in wanted
        ]
        append(connection, "replays", done)
    return Counter({name: number for name, number in (("stored", stored), ("duplicate", len(keep) - stored)) if number})
