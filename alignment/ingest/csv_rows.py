"""CSV and TSV files as records: one object of texts per row, under the names in the first row.

A quote that is never closed swallows what follows, and an extra comma shifts every later column: such rows are reported, not guessed at.

Effects: reads log files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from alignment.csv_rows import read_csv
from alignment.errors import InputError
from alignment.ingest.files import LogFile, open_log

SUFFIXES = (".csv", ".tsv")
DAMAGED = "csv_columns"
"""The reason of a row whose columns differ from the header's."""
_TOGETHER = 1 << 26


class _Bytes(io.RawIOBase):
    """A log's stream with the interface of a Python file."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = bytes(self._stream.read(len(buffer)))
        buffer[: len(read)] = read
        return len(read)


def batches(log_file: LogFile, *, rows: int) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield rows as JSON texts with the damage of each, at most `rows` per batch.

    Raises:
        InputError: it is not CSV (see `read_csv`) or not UTF-8; the message names the line.
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
    begin = 1
    with open_log(log_file) as stream:
        text = io.TextIOWrapper(io.BufferedReader(_Bytes(stream)), encoding="utf-8-sig", newline="")
        try:
            for row in read_csv(text, name=log_file.path, delimiter="\t" if log_file.suffix == ".tsv" else ","):
                begin = row.line
                # In a row with other columns nobody can tell which cell belongs to which name.
                found = row.cells if row.values is None else row.values
                yield json.dumps(found, ensure_ascii=False), DAMAGED if row.values is None else None
        except UnicodeDecodeError as error:
            raise InputError(
                f"the log file {log_file.path!r} is no UTF-8 after line {begin}: {error.reason}; convert it, for instance with iconv"
            ) from error
