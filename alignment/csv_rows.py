"""CSV as rows under the names of its header; rows that do not fit are reported, not guessed at.

A quote that is never closed swallows what follows, and an unquoted comma shifts every later column: Python's DictReader ignores both.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from alignment.errors import InputError

_FIELD = 1 << 24


class CsvRow(NamedTuple):
    """A row: the line it begins on, its cells, and the cells by name; None if there are more or fewer cells than names."""

    line: int
    cells: list[str]
    values: dict[str, str] | None


def read_csv(lines: Iterable[str], *, name: str, delimiter: str = ",") -> Iterator[CsvRow]:
    """Yield the rows of a CSV file called `name` without blank rows. Empty cells beyond the header's are dropped.

    >>> [row.values for row in read_csv(["a,b\\n", "1,2\\n", "1,2,3\\n"], name="x.csv")]
    [{'a': '1', 'b': '2'}, None]

    Raises:
        InputError: a quote is never closed or ends within a cell, the header repeats a name, or there is no header.
    """
    csv.field_size_limit(_FIELD)
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    begin = 1
    try:
        header = _header(next(reader, []), name)
        begin = reader.line_num + 1
        for cells in reader:
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
            if cells:
                values = dict(zip(header, cells, strict=True)) if len(cells) == len(header) else None
                yield CsvRow(begin, cells, values)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"the row of {name!r} that begins on line {begin} is no CSV ({error}): close its quotes, and write a quote within quotes twice"
        ) from error


def _header(cells: list[str], name: str) -> list[str]:
    while cells and not cells[-1].strip():
        cells = cells[:-1]
    if not cells:
        raise InputError(f"{name!r} has no first row that names its columns; write one")
    if twice := sorted({one for one in cells if cells.count(one) > 1}):
        raise InputError(f"the first row of {name!r} names {', '.join(map(repr, twice))} twice; name each column once")
    return cells
