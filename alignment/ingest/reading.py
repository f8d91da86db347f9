"""Find out how much of a file was read before, and read the blocks that follow.

A file is identified by the hash of the bytes that were read, whatever its name: a file that grew resumes where it ended, and a renamed,
copied or compressed file is not read twice. Path, size and time of change only save work.

Effects: reads log files and the store.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from alignment.errors import InputError
from alignment.ids import content_id
from alignment.ingest import columns, csv_rows
from alignment.ingest.files import LogFile, open_log, open_packed
from alignment.ingest.lines import BLOCK_ROWS, BOM, SCHEMA, Block, Place, read_blocks
from alignment.sections import Ingest
from alignment.store import query, sql

_HEAD, _CHUNK = 1024, 1 << 23
_WRITTEN_SECONDS = 3600
"""A file that changed more recently may end in the middle of a line."""
_DOCUMENT_BYTES = 1 << 28
"""A larger .json file is read by lines; a compressed one that turns out to be larger is refused."""


class FileProgress(NamedTuple):
    """A file and how far it was read. `head` is the hash of its first `head_bytes` bytes; 0 means all bytes."""

    log_file: LogFile
    id: str
    place: Place
    head_bytes: int
    head: str


class Part(NamedTuple):
    """Lines of one file that are processed together with those of other files."""

    reading: FileProgress
    block: Block


def known_by(reading: FileProgress, block: Block) -> tuple[int, str]:
    """Return how many leading bytes identify a file once it is read up to the end of `block`, and their hash."""
    # A last line left for the next time was not read.
    return (block.end.offset, block.end.sha256) if reading.head_bytes > block.end.offset else (reading.head_bytes, reading.head)


Row = Mapping[str, Any]
Ends = dict[int, dict[str, dict[str, Row]]]
"""Files by the end of their reading, the hash of the bytes before it, and their path."""


class Known:
    """How far each file of a source was read, looked up by a file's first bytes."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        # Thousands of objects may begin alike: grouped by where they end, each place is hashed once.
        self._by_head: dict[int, dict[str, Ends]] = {}
        self._ids: set[str] = set()
        for row in rows:
            self.add(row)

    def __contains__(self, file_id: object) -> bool:
        return file_id in self._ids

    def add(self, row: Row) -> None:
        """Add a file: `id`, `path`, `head_bytes`, `head`, `end_offset`, `last_line`, `sha256`."""
        ends = self._by_head.setdefault(row["head_bytes"], {}).setdefault(row["head"], {})
        ends.setdefault(row["end_offset"], {}).setdefault(row["sha256"], {}).setdefault(row["path"], row)
        self._ids.add(row["id"])

    def beginning(self, head: bytes) -> list[Ends]:
        """Return the files of lines whose beginning matches `head`."""
        digest, done = sha256(), 0
        found = []
        for size in sorted(one for one in self._by_head if 0 < one <= len(head)):
            digest.update(head[done:size])
            done = size
            found.append(self._by_head[size].get(digest.copy().hexdigest(), {}))
        return found

    def whole(self, digest: str) -> Row | None:
        """Return the table or document whose bytes have this hash, or None."""
        ends = self._by_head.get(0, {}).get(digest, {})
        return next((row for same in ends.values() for rows in same.values() for row in rows.values()), None)


def unread(home: Path, source: str, log_files: Sequence[LogFile]) -> list[LogFile]:
    """Return the files that were never read, or changed since."""
    rows = query(home, "SELECT path, bytes, mtime_ns FROM source_files WHERE source = ? AND finished", [source])
    known = {(row["path"], row["bytes"], row["mtime_ns"]) for row in rows}
    return [one for one in log_files if not one.mtime_ns or (one.path, one.size, one.mtime_ns) not in known]


def known_files(home: Path, source: str) -> Known:
    """Return how far the files of `source` were read."""
    return Known(query(home, sql("alignment.ingest", "readings"), {"source": source}))


def resume(known: Known, source: str, log_file: LogFile) -> FileProgress:
    """Return how far a file's bytes were read before, under any name; at the start if they were not.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return _resume_whole(known, source, log_file) if _is_table(log_file) else _resume_lines(known, source, log_file)
    except (OSError, EOFError, pa.ArrowException, duckdb.Error) as error:
        raise _unreadable(log_file, error) from error


def from_start(log_file: LogFile) -> FileProgress:
    """Return a reading that starts at the first line, whatever was read before.

    Raises:
        InputError: the file cannot be read.
    """
    return resume(Known(), "", log_file)


def _unreadable(log_file: LogFile, error: BaseException) -> InputError:
    # Without DuckDB's message: it quotes the text that it stumbled over.
    what = type(error).__name__ if isinstance(error, duckdb.Error) else str(error)
    return InputError(f"cannot read the log file {log_file.path!r}: {what}; check the file")


def _resume_lines(known: Known, source: str, log_file: LogFile) -> FileProgress:
    with open_log(log_file) as stream:
        head = _exactly(stream, _HEAD)
        found = _read_before(known.beginning(head), log_file.path, _Hashed(head, stream))
    if found:
        row, here = found
        return FileProgress(log_file, row["id"], Place(row["end_offset"], row["last_line"], here), row["head_bytes"], row["head"])
    file_id = content_id(source, log_file.path, log_file.size, log_file.mtime_ns, sha256(head).hexdigest())
    return FileProgress(log_file, file_id, Place(0, 0, sha256()), len(head), sha256(head).hexdigest())


def _read_before(ends: Sequence[Ends], path: str, hashed: _Hashed) -> tuple[Row, Any] | None:
    """Return the file with the longest reading that this file begins with, and the hash of those bytes."""
    found: tuple[Row, Any] | None = None
    for end in sorted({end for one in ends for end in one}):
        if not hashed.reach(end):
            break
        here = hashed.digest.hexdigest()
        named = [rows for one in ends if (rows := one.get(end, {}).get(here))]
        own = next((rows[path] for rows in named if path in rows), None)
        # A refused file, of which nothing was read, begins like every file. A line that was cut off resumes only in its own file: another
        # file with the same beginning has a line of its own there.
        if own or (named and end and not hashed.midline()):
            found = own or next(iter(named[0].values())), hashed.digest.copy()
    return found


class _Hashed:
    """A stream's bytes, hashed as far as needed; `head` are the bytes already read."""

    def __init__(self, head: bytes, stream: Any) -> None:
        self.digest = sha256()
        self._ahead, self._stream = memoryview(head), stream
        self._offset, self._last = 0, b""

    def reach(self, end: int) -> bool:
        """Hash up to `end`; return whether there are that many bytes."""
        while self._offset < end and self._more():
            piece = self._ahead[: end - self._offset]
            self.digest.update(piece)
            self._offset, self._last, self._ahead = self._offset + len(piece), bytes(piece[-1:]), self._ahead[len(piece) :]
        return self._offset == end

    def midline(self) -> bool:
        """Return whether the current position is within a line."""
        return self._last != b"\n" and self._more()

    def _more(self) -> bool:
        if not self._ahead:
            self._ahead = memoryview(self._stream.read(_CHUNK))
        return bool(self._ahead)


def _exactly(stream: Any, size: int) -> bytes:
    read = b""
    while len(read) < size and (more := stream.read(size - len(read))):
        read += more
    return read


def _hash_on(stream: Any, digest: Any, size: int) -> int:
    done = 0
    while done < size and (chunk := stream.read(min(_CHUNK, size - done))):
        digest.update(chunk)
        done += len(chunk)
    return done


def _is_table(log_file: LogFile) -> bool:
    return log_file.suffix in (".parquet", *csv_rows.SUFFIXES) or (log_file.suffix == ".json" and _document(log_file) is not None)


def _document(log_file: LogFile) -> str | None:
    """Return the text of a .json file that is one JSON value: a list, or an object over several lines. Other files are read as lines.

    Raises:
        InputError: it unpacks to more than a document's limit.
    """
    if log_file.size > _DOCUMENT_BYTES:
        return None
    with open_log(log_file) as stream:
        head = _exactly(stream, _HEAD)
        if head.removeprefix(BOM).strip()[:1] not in (b"[", b"{", b""):
            return None
        whole = head + _exactly(stream, _DOCUMENT_BYTES + 1 - len(head))
    if len(whole) > _DOCUMENT_BYTES:
        raise InputError(
            f"the JSON document {log_file.path!r} unpacks to more than {_DOCUMENT_BYTES >> 20} MiB, and a document is read whole; "
            "write one record a line into a .jsonl file, packed or not"
        )
    try:
        text = whole.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    with _documents_database().cursor() as connection:
        [(kind,)] = connection.execute("SELECT CASE WHEN json_valid($text) THEN json_type($text) END", {"text": text}).fetchall()
    return text if kind == "ARRAY" or (kind and "\n" in text) else None


def _resume_whole(known: Known, source: str, log_file: LogFile) -> FileProgress:
    """Resume a table or JSON document: such files do not grow, so they were read as they are or not at all. Places count records."""
    digest = sha256()
    with open_packed(log_file) as stream:
        _hash_on(stream, digest, sys.maxsize)
    whole = digest.hexdigest()
    if row := known.whole(whole):
        return FileProgress(log_file, row["id"], Place(row["end_offset"], row["last_line"], digest), 0, whole)
    return FileProgress(log_file, content_id(source, whole), Place(0, 0, digest), 0, whole)


def blocks(reading: FileProgress, settings: Ingest, *, now: datetime) -> Iterator[Block]:
    """Yield the blocks not read yet.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        if reading.log_file.suffix in (".parquet", *csv_rows.SUFFIXES) or (reading.log_file.suffix == ".json" and not reading.head_bytes):
            yield from _table_blocks(reading)
            return
        with open_log(reading.log_file) as stream:
            midline = _skip(stream, reading)
            age = now.timestamp() - reading.log_file.mtime_ns / 1e9 if reading.log_file.mtime_ns else _WRITTEN_SECONDS
            growing = age < _WRITTEN_SECONDS and not reading.log_file.compression
            listed = None if reading.log_file.compression else reading.log_file.size
            yield from read_blocks(
                stream, reading.place, max_line_bytes=settings.max_line_bytes, growing=growing, midline=midline, listed=listed
            )
    except (OSError, EOFError, pa.ArrowException, duckdb.Error) as error:
        raise _unreadable(reading.log_file, error) from error


def _skip(stream: Any, reading: FileProgress) -> bool:
    """Go to the end of the last reading; return whether that is within a line."""
    before = reading.place.offset - 1
    if before < 0:
        return False
    if reading.log_file.compression:
        _hash_on(stream, sha256(), before)
    else:
        stream.seek(before)
    return bool(stream.read(1) != b"\n")


def _table_blocks(reading: FileProgress) -> Iterator[Block]:
    offset, digest = reading.place.offset, reading.place.digest
    seen = 0
    for lines, damage in _records(reading.log_file):
        seen += len(lines)
        if seen <= offset:
            continue
        known = max(0, offset - (seen - len(lines)))
        fresh = lines.slice(known)
        numbers = pa.array(range(seen - len(fresh) + 1, seen + 1), pa.int64())
        yield Block(pa.table([numbers, fresh, damage.slice(known)], schema=SCHEMA), Place(seen, seen, digest), False)
    yield Block(SCHEMA.empty_table(), Place(seen, seen, digest), True)


@cache
def _documents_database() -> duckdb.DuckDBPyConnection:
    """Return the DuckDB that parses tables and documents without outside access; opening it takes longer than most files."""
    connection = duckdb.connect()
    connection.execute("SET memory_limit = '2GB'; SET threads = 1; SET temp_directory = ''; SET enable_external_access = false")
    return connection


def _records(log_file: LogFile) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield a table's rows as JSON texts, with the damage of each."""
    connection = _documents_database().cursor()
    try:
        if log_file.suffix == ".parquet":
            with open_packed(log_file) as stream:
                for batch, damage in columns.batches(stream, log_file, rows=BLOCK_ROWS):
                    # A name that no column uses.
                    connection.register("the_rows_of_a_log", pa.table(_finite(batch)))
                    rows = connection.execute("SELECT to_json(the_rows_of_a_log)::VARCHAR AS line FROM the_rows_of_a_log").to_arrow_table()
                    yield rows.column("line").combine_chunks(), damage
        elif log_file.suffix in csv_rows.SUFFIXES:
            yield from csv_rows.batches(log_file, rows=BLOCK_ROWS)
        else:
            for lines in _documents(connection, _document(log_file) or "[]"):
                yield lines, pa.nulls(len(lines), pa.string())
    finally:
        connection.close()


def _finite(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Replace NaN and infinity, which pandas writes for missing values and JSON does not know, with nulls."""
    return {
        name: pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type)) if pa.types.is_floating(column.type) else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def _documents(connection: duckdb.DuckDBPyConnection, text: str) -> Iterator[pa.Array]:
    """Yield the elements of a JSON array, or a single document unchanged."""
    if not text.startswith("["):
        yield pa.array([text], pa.string())
        return
    rows = connection.execute("SELECT unnest(from_json($text, '[\"JSON\"]'))::VARCHAR AS line", {"text": text})
    for batch in rows.to_arrow_reader(BLOCK_ROWS):
        yield batch.column("line")
