"""CSV and TSV files as records: one object of texts a row, under the names in the first.

A quote that is never closed swallows what follows, and a comma too many moves every later column: such rows are told, not guessed at.

Effects: reads log files.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from alignment.errors import InputError
from alignment.ingest.files import LogFile, open_log

SUFFIXES = (".csv", ".tsv")
DAMAGED = "csv_columns"
"""The reason of a row that has other columns than the header."""
_FIELD, _TOGETHER = 1 << 24, 1 << 26


class _Bytes(io.RawIOBase):
    """A log's stream as Python reads one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = bytes(self._stream.read(len(buffer)))
        buffer[: len(read)] = read
        return len(read)


def batches(log_file: LogFile, *, rows: int) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield rows as texts of JSON with what is damaged in them, at most `rows` together.

    Raises:
        InputError: it has no header, a name in it stands twice, a quote is never closed, or it is no UTF-8; the line is named.
    """
    lines: list[str] = []
    damage: list[str | None] = []
    size = 0
    for text, damaged in _rows(log_file):
        lines.append(text)
        damage.append(damaged)
        size += len(text)
        if len(lines) >= rows or size >= _TOGETHER:
            yield pa.array(lines, pa.string()), pa.array(damage, pa.string())
            lines, damage, size = [], [], 0
    if lines:
        yield pa.array(lines, pa.string()), pa.array(damage, pa.string())


def _rows(log_file: LogFile) -> Iterator[tuple[str, str | None]]:
    csv.field_size_limit(_FIELD)
    begin = 0
    with open_log(log_file) as stream:
        text = io.TextIOWrapper(io.BufferedReader(_Bytes(stream)), encoding="utf-8-sig", newline="")
        reader = csv.reader(text, strict=True, delimiter="\t" if log_file.suffix == ".tsv" else ",")
        try:
            header = next(reader, [])
            _check_header(header, log_file)
            begin = reader.line_num + 1
            for row in reader:
                if row:
                    yield _row(header, row)
                begin = reader.line_num + 1
        except csv.Error as error:
            raise InputError(
                f"the row of {log_file.path!r} that begins on line {begin} is no CSV ({error}): close its quotes, or write a quote within "
                "quotes twice; nothing of the file from there on was read"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"the log file {log_file.path!r} is no UTF-8 after line {begin}: {error.reason}; convert it, for instance with iconv"
            ) from error


def _row(header: list[str], row: list[str]) -> tuple[str, str | None]:
    if len(row) != len(header):
        # What stands where cannot be known: an unquoted comma, or a cell that was left out.
        return json.dumps(row, ensure_ascii=False), DAMAGED
    return json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False), None


def _check_header(header: list[str], log_file: LogFile) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if not header or twice:
        problem = f"names {', '.join(map(repr, twice))} twice in" if twice else "has no"
        raise InputError(f"the log file {log_file.path!r} {problem} its first row, which has to name each column once; correct the header")
