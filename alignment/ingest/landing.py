"""Read many small files at a time: an object store is full of one-line objects, and reading each alone takes half a second.

Each file keeps its own reading: its identity, how far it was read, and why it was set aside.

Effects: reads log files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from alignment.errors import InputError
from alignment.ingest.files import LogFile, fetch, open_log
from alignment.ingest.lines import BLOCK_ROWS, Block
from alignment.ingest.reading import FileProgress, Known, Part, blocks, known_by, resume
from alignment.sections import Ingest

SMALL = 1 << 18
"""Size in bytes up to which a file is read together with others."""
_TOGETHER, _TOGETHER_BYTES, _UNPACKED = 1000, 1 << 26, 1 << 22


class Landed(NamedTuple):
    """The outcome of fetching files together: `parts` to parse, files that cannot be read, and files for another time.

    `alone` turned out larger than listed. `later` begin like a file that this run already landed: they are copies, whose lines are covered
    by the first file's reading once it is stored. For `rest` there was no more room.
    """

    parts: list[Part]
    failed: list[tuple[LogFile, InputError]]
    alone: list[LogFile]
    later: list[LogFile]
    rest: list[LogFile]


def is_small(log_file: LogFile) -> bool:
    """Return whether a file may be read together with others."""
    return not log_file.refused and log_file.size <= SMALL


def some(log_files: Sequence[LogFile]) -> int:
    """Return how many of the first files are fetched together: at most 1,000, and 64 MiB."""
    size = 0
    for number, one in enumerate(log_files[:_TOGETHER]):
        size += one.size
        if size > _TOGETHER_BYTES:
            return max(number, 1)
    return min(len(log_files), _TOGETHER)


def land(known: Known, landed: Known, source: str, log_files: Sequence[LogFile], settings: Ingest, now: datetime) -> Landed:
    """Fetch files and split their unread bytes into lines; add to `landed` the files that this run has landed."""
    found = Landed([], [], [], [], [])
    rows = size = 0
    for place, (log_file, data) in enumerate(zip(log_files, fetch(log_files, SMALL + 1), strict=True)):
        if rows > BLOCK_ROWS or size > _TOGETHER_BYTES:
            return found._replace(rest=list(log_files[place:]))
        if isinstance(data, InputError):
            found.failed.append((log_file, data))
            continue
        try:
            part = _landed(known, landed, source, log_file._replace(data=data), settings, now)
        except InputError as error:
            found.failed.append((log_file, error))
            continue
        if isinstance(part, Part):
            found.parts.append(part._replace(reading=part.reading._replace(log_file=log_file)))
            rows, size = rows + len(part.block.lines), size + part.block.lines.nbytes
        else:
            (found.later if part else found.alone).append(log_file)
    return found


def _landed(known: Known, landed: Known, source: str, log_file: LogFile, settings: Ingest, now: datetime) -> Part | bool:
    """Return a file's only block; False if the file is larger than listed, True if it begins like an already landed file."""
    if len(log_file.data or b"") > SMALL or (log_file.compression and _unpacks_to_much(log_file)):
        return False
    if resume(landed, source, log_file).place.offset:
        return True
    reading = resume(known, source, log_file)
    block = _one_block(blocks(reading, settings, now=now))
    if block is None:
        return False
    if block.end.offset > reading.place.offset:
        if reading.id in landed:
            # Two files that continue the same file differently: once the first is stored, the second is a file of its own.
            return True
        landed.add(_as_read(reading, block))
    return Part(reading, block)


def _unpacks_to_much(log_file: LogFile) -> bool:
    left = _UNPACKED
    try:
        with open_log(log_file) as stream:
            while left > 0 and (read := stream.read(1 << 20)):
                left -= len(read)
    except (OSError, EOFError, pa.ArrowException):
        # The next reader reports what is wrong with it.
        return False
    return left <= 0


def _one_block(found: Iterator[Block]) -> Block | None:
    tables: list[pa.Table] = []
    for block in found:
        tables.append(block.lines)
        if sum(one.nbytes for one in tables) > _UNPACKED:
            return None
    return block._replace(lines=pa.concat_tables(tables))


def _as_read(reading: FileProgress, block: Block) -> dict[str, object]:
    """Return the row by which the store will know the file."""
    head_bytes, head = known_by(reading, block)
    return {
        "id": reading.id,
        "path": reading.log_file.path,
        "head_bytes": head_bytes,
        "head": head,
        "end_offset": block.end.offset,
        "last_line": block.end.lines,
        "sha256": block.end.sha256,
    }
