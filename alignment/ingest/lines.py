"""A log file as blocks of lines, without a copy of their bytes.

Lines are split at newlines only. A block records where it ends and the hash of everything before, so that a reading can resume there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from alignment.errors import InputError
from alignment.store.session import ROW_GROUP_ROWS

BLOCK_ROWS = 2 * ROW_GROUP_ROWS
"""Lines per block, and so per transaction. DuckDB writes a full row group once, bypassing its log."""
_BLOCK_BYTES, _READ = 1 << 27, 1 << 23
_SHOWN, _NO_LOG = 4000, 1 << 28
_SHORT = 64
"""Below this average length, which chat lines exceed, lines are checked for blank ones."""
_BLANK = np.isin(np.arange(256), list(b" \t\r\n"))
BOM = b"\xef\xbb\xbf"
SCHEMA = pa.schema([("line_number", pa.int64()), ("line", pa.string()), ("damage", pa.string())])


PARTED = SCHEMA.append(pa.field("part", pa.int64())).append(pa.field("file_time", pa.timestamp("us")))
"""Lines of several files: the file of each line, and the time used where the line has none."""


class Place(NamedTuple):
    """A reading's position: unpacked bytes and lines already read, and the hash of those bytes."""

    offset: int = 0
    lines: int = 0
    digest: Any = None

    @property
    def sha256(self) -> str:
        """The hash of everything before."""
        return str(self.digest.hexdigest())


class Block(NamedTuple):
    """Lines and their end position; `last` is true for the block that reaches the end of its file."""

    lines: pa.Table
    end: Place
    last: bool


class _Piece(NamedTuple):
    """Lines of one read. `ends` are their ends in `raw`; `numbers` are their places among its `total` lines, blank lines included."""

    lines: pa.StringArray
    damage: pa.StringArray
    raw: memoryview
    ends: Any
    numbers: Any
    total: int

    def split(self, room: int) -> tuple[_Piece, _Piece]:
        """Split into the first `room` lines and the rest."""
        cut, count = int(self.ends[room - 1]), int(self.numbers[room - 1])
        first = _Piece(self.lines[:room], self.damage[:room], self.raw[:cut], self.ends[:room], self.numbers[:room], count)
        ends, numbers = self.ends[room:] - cut, self.numbers[room:] - count
        return first, _Piece(self.lines[room:], self.damage[room:], self.raw[cut:], ends, numbers, self.total - count)


def read_blocks(
    stream: Any, start: Place, *, max_line_bytes: int, growing: bool, midline: bool = False, listed: int | None = None
) -> Iterator[Block]:
    """Yield the blocks after `start` in an open log.

    A line longer than `max_line_bytes` is skipped and only its beginning kept. With `growing`, an incomplete last line without an end is
    left for the next time. With `midline`, the stream begins with the rest of a line that was read without its end: its bytes count, but
    not as a line. A stream that does not end at its `listed` size is growing, whatever `growing` says.
    """
    pieces: list[_Piece] = []
    place, rows, size, whole = start, 0, 0, True
    # The first block is short, so that its consumer does not wait long.
    most = min(ROW_GROUP_ROWS, BLOCK_ROWS)
    for piece in _pieces(stream, max_line_bytes, first=start.offset == 0, growing=growing, midline=midline, listed=listed):
        if piece is None:
            whole = False
            break
        pieces.append(piece)
        rows, size = rows + len(piece.lines), size + len(piece.raw)
        while rows >= most or size >= _BLOCK_BYTES:
            pieces, taken = _cut(pieces, most)
            most = BLOCK_ROWS
            block = _block(taken, place, last=False)
            place = block.end
            rows, size = sum(len(one.lines) for one in pieces), sum(len(one.raw) for one in pieces)
            yield block
    # A line left over makes the file unfinished, so that it is read again even if nobody writes to it.
    yield _block(pieces, place, last=whole)


def _cut(pieces: list[_Piece], rows: int) -> tuple[list[_Piece], list[_Piece]]:
    """Return the remaining pieces and the taken ones: whole pieces, and as many lines of the last piece as fit."""
    taken: list[_Piece] = []
    for number, piece in enumerate(pieces):
        room = rows - sum(len(one.lines) for one in taken)
        if not room:
            return pieces[number:], taken
        if len(piece.lines) <= room:
            taken.append(piece)
            continue
        first, rest = piece.split(room)
        return [rest, *pieces[number + 1 :]], [*taken, first]
    return [], taken


def _block(pieces: list[_Piece], start: Place, *, last: bool) -> Block:
    digest, lines, size = start.digest.copy() if start.digest else sha256(), start.lines, 0
    batches = []
    for piece in pieces:
        digest.update(piece.raw)
        size += len(piece.raw)
        numbers = pa.array(lines + piece.numbers, pa.int64())
        lines += piece.total
        batches.append(pa.record_batch([numbers, piece.lines, piece.damage], schema=SCHEMA))
    return Block(pa.Table.from_batches(batches, SCHEMA), Place(start.offset + size, lines, digest), last)


def _pieces(stream: Any, max_line_bytes: int, *, first: bool, growing: bool, midline: bool, listed: int | None) -> Iterator[_Piece | None]:
    """Yield lines; None at the end if a line was left for the next time."""
    carry = b""
    if midline:
        rest, carry, _ = _rest_of_line(stream, b"")
        none = np.zeros(0, np.int64)
        yield _Piece(pa.array([], pa.string()), pa.array([], pa.string()), memoryview(rest), none, none, 0)
    while True:
        cut = carry.rfind(b"\n") + 1
        if cut:
            yield _piece(carry[:cut] if cut < len(carry) else carry, first=first)
            first, carry = False, carry[cut:]
        if len(carry) > max_line_bytes:
            line, carry, ended = _rest_of_line(stream, carry)
            if not ended and (growing or _grew(stream, listed)):
                yield None
                return
            shown = line[:_SHOWN].decode("utf-8", "replace")
            yield _Piece(pa.array([shown]), pa.array(["too_long"]), memoryview(line), np.array([len(line)]), np.array([1]), 1)
            first = False
            continue
        read = stream.read(_READ)
        if not read:
            break
        carry += read
    if carry:
        yield None if (growing or _grew(stream, listed)) and not _whole(carry) else _piece(carry, first=first)


def _grew(stream: Any, listed: int | None) -> bool:
    """Return whether a stream at its end has another size than when its file was listed."""
    return listed is not None and stream.tell() != listed


def _rest_of_line(stream: Any, beginning: bytes) -> tuple[bytes, bytes, bool]:
    """Read to the end of a line; return the whole line, the bytes read beyond it, and whether the line ended."""
    kept, size = [beginning], len(beginning)
    while read := stream.read(_READ):
        size += len(read)
        if size > _NO_LOG:
            raise InputError(f"a line is longer than {_NO_LOG >> 20} MiB: this is no log of lines. Take the file out of [ingest] logs")
        end = read.find(b"\n") + 1
        if end:
            return b"".join([*kept, read[:end]]), read[end:], True
        kept.append(read)
    return b"".join(kept), b"", False


def _whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _piece(data: bytes, *, first: bool) -> _Piece:
    begin = len(BOM) if first and data.startswith(BOM) else 0
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    offsets = np.concatenate([[begin], ends]).astype(np.int32)
    lines = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(data))
    starts, numbers, count = offsets[:-1], np.arange(1, len(ends) + 1), len(ends)
    if len(data) < _SHORT * count and not (kept := _written(data, offsets)).all():
        lines, starts, ends, numbers = lines.filter(pa.array(kept)), starts[kept], ends[kept], numbers[kept]
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid:
        lines, damage = _repaired(data, starts, ends)
    else:
        damage = pa.nulls(len(lines), pa.string())
    return _Piece(lines, damage, memoryview(data), ends, numbers, count)


def _written(data: bytes, offsets: Any) -> Any:
    """Return for each line whether it is not blank: a hundred million blank lines cost little more than their bytes."""
    written = np.diff(offsets) > 1
    # A line of one byte is only its newline, or the last byte of a file.
    written[-1:] = True
    longer = np.flatnonzero(written)
    if len(longer) and len(data):
        starts = np.minimum(offsets[:-1][longer], len(data) - 1)
        blank = _BLANK[np.frombuffer(data, np.uint8)]
        # Each group ends where the next longer line begins; the bare newlines between them are blank.
        written[longer] = ~np.logical_and.reduceat(blank, starts)
    return written


def _repaired(data: bytes, starts: Any, ends: Any) -> tuple[pa.StringArray, pa.StringArray]:
    lines: list[str] = []
    damage: list[str | None] = []
    for start, end in zip(starts, ends, strict=True):
        raw = data[start:end]
        try:
            lines.append(raw.decode())
            damage.append(None)
        except UnicodeDecodeError:
            # Keep the length in bytes, so that a block can be split here: invalid UTF-8 becomes question marks.
            lines.append(raw.decode("utf-8", "replace").encode("ascii", "replace")[: len(raw)].decode().ljust(len(raw)))
            damage.append("not_utf8")
    return pa.array(lines, pa.string()), pa.array(damage, pa.string())
