"""Parquet files in batches that fit into memory, however much the file expands.

A column stores each distinct text once with a count, so that a kilobyte may stand for terabytes. Texts are therefore read in dictionary
form, and expanded for only as many rows at a time as fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alignment.errors import InputError
from alignment.ingest.files import LogFile

_WRITTEN_OUT = 1 << 26
_ONE_GROUP = 1 << 31
"""Bytes a row group may unpack to; writers make groups of 128 MiB to 1 GiB."""


class Rows(NamedTuple):
    """Rows, and the damage of each row: bytes that are not a text."""

    batch: pa.RecordBatch
    damage: pa.Array


def batches(stream: Any, log_file: LogFile, *, rows: int) -> Iterator[Rows]:
    """Yield a Parquet file's rows, at most `rows` per batch and fewer where they are long.

    Raises:
        InputError: a row group unpacks to more than 2 GiB, or a single row to more than 64 MiB.
    """
    opened = pq.ParquetFile(stream)
    _refuse_bombs(opened.metadata, log_file)
    schema = opened.schema
    texts = [schema.column(place).path for place in range(len(schema)) if schema.column(place).physical_type == "BYTE_ARRAY"]
    stream.seek(0)
    opened = pq.ParquetFile(stream, read_dictionary=texts)
    plain = pa.schema([pa.field(one.name, _plain(one.type)) for one in opened.schema_arrow])
    waiting: list[pa.RecordBatch] = []
    held, size = 0, 0
    for batch in opened.iter_batches(batch_size=max(1, rows // 2)):
        for part in _parts(batch, log_file):
            written = _bytes_of(part)
            if waiting and (held + len(part) > rows or size + written > _WRITTEN_OUT):
                yield _joined(waiting, plain)
                waiting, held, size = [], 0, 0
            waiting.append(part)
            held, size = held + len(part), size + written
    if waiting:
        yield _joined(waiting, plain)


def _refuse_bombs(metadata: Any, log_file: LogFile) -> None:
    largest = max((metadata.row_group(place).total_byte_size for place in range(metadata.num_row_groups)), default=0)
    if largest > _ONE_GROUP:
        raise InputError(
            f"the log file {log_file.path!r} has a row group of {largest >> 20:,} MiB, more than the {_ONE_GROUP >> 20:,} that are read "
            "together; write it with smaller row groups, or take it out of [ingest] logs"
        )


def _parts(batch: pa.RecordBatch, log_file: LogFile) -> Iterator[pa.RecordBatch]:
    """Halve a batch until each part can be expanded, and yield the parts."""
    if (size := _bytes_of(batch)) <= _WRITTEN_OUT or not len(batch):
        yield batch
        return
    if len(batch) == 1:
        raise InputError(
            f"a row of the log file {log_file.path!r} is {size >> 20:,} MiB long, as no exchange is; take the file out of [ingest] logs"
        )
    middle = len(batch) // 2
    yield from _parts(batch.slice(0, middle), log_file)
    yield from _parts(batch.slice(middle), log_file)


def _bytes_of(array: Any) -> int:
    """Return the size in bytes of an array or batch once its texts are expanded."""
    if isinstance(array, pa.RecordBatch):
        return sum(map(_bytes_of, array.columns))
    if pa.types.is_dictionary(array.type):
        lengths = pc.fill_null(pc.binary_length(array.dictionary), 0).take(array.indices)
        return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0) + 4 * len(array)
    if pa.types.is_struct(array.type):
        return sum(map(_bytes_of, array.flatten())) + len(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _bytes_of(array.flatten()) + 4 * len(array)
    if pa.types.is_map(array.type):
        return _bytes_of(array.keys) + _bytes_of(array.items) + 4 * len(array)
    return int(array.nbytes)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type with dictionaries replaced by texts."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        # Some writers do not mark bytes as a text: ClickHouse, older Spark and Impala.
        return pa.large_string() if pa.types.is_large_binary(kind) else pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _plain(one.type)) for one in kind])
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    return kind


def _joined(parts: list[pa.RecordBatch], plain: pa.Schema) -> Rows:
    whole = pa.Table.from_batches(parts)
    damaged: set[int] = set()
    columns = [_as_text(whole.column(place), field.type, damaged) for place, field in enumerate(plain)]
    table = pa.table(columns, schema=plain).combine_chunks()
    damage = pa.array(["not_utf8" if row in damaged else None for row in range(len(table))], pa.string()) if damaged else None
    batch = table.to_batches(max_chunksize=max(1, len(table)))[0] if len(table) else pa.RecordBatch.from_pylist([], plain)
    return Rows(batch, damage if damage is not None else pa.nulls(len(table), pa.string()))


def _as_text(column: pa.ChunkedArray, kind: pa.DataType, damaged: set[int]) -> pa.ChunkedArray:
    """Return a column with bytes as texts; empty the rows whose bytes are not text, and add their numbers to `damaged`."""
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        cells = []
        for row in range(len(column)):
            try:
                cells.append(column.slice(row, 1).cast(kind).chunk(0))
            except pa.ArrowInvalid:
                damaged.add(row)
                cells.append(pa.nulls(1, kind))
        return pa.chunked_array(cells, kind)
