"""A block of lines into exchanges, signals and refusals: parsed, judged and redacted, outside the store and without its lock."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from alignment.config import Ingest
from alignment.errors import InputError
from alignment.ids import content_id
from alignment.ingest.lines import Block
from alignment.ingest.reading import Reading
from alignment.ingest.redact import PERSONAL_ID, PREFILTER, redact, redact_id

_RAW_SHOWN = 2000
_SIGNALS = ("thumbs", "regenerated", "edit", "no_consent")
_ID_KIND = re.compile(r"<([A-Z_]+)_[0-9a-f]{12}>")
_IDS = ("conversation_id", "session_id", "user_id", "model")
_TEXTS = ("messages", "prompt", "response", "edit", *_IDS)
_STORED = (
    "id",
    "line_number",
    "conversation_id",
    "session_id",
    "user_id",
    "created_at",
    "model",
    "messages",
    "prompt",
    "response",
    "consent",
    "purpose",
)


class Context(NamedTuple):
    """What a line is judged by: the settings, the secret for placeholders and ids, the time, and who was erased."""

    settings: Ingest
    key: bytes
    now: datetime
    latest: datetime
    erased: tuple[str, ...] = ()


class Parsed(NamedTuple):
    """A block ready to be checked and merged. `read` counts its records and unusable lines, `records` are the
    numbers of the interactions within their lines; the rest are tables as the store has them."""

    block: Block
    read: int
    skipped: int
    interactions: pa.Table
    records: pa.Array
    signals: pa.Table
    quarantine: pa.Table
    redacted: int


def parse(connection: duckdb.DuckDBPyConnection, statement: str, undated: bool, reading: Reading, block: Block, context: Context) -> Parsed:
    """Parse one block with a source's `statement`; `connection` is one of `sources.parser`.

    Raises:
        InputError: the statement fails on what the block holds.
    """
    connection.register("block", block.lines)
    try:
        rows = connection.execute(statement, _parameters(statement, undated, reading, context)).to_arrow_table()
    except duckdb.Error as error:
        raise InputError(
            f"cannot read the log file {reading.log_file.path!r} as its source maps it: {error}; correct the mapping in align.toml"
        ) from error
    finally:
        connection.unregister("block")
    skipped = pc.sum(pc.equal(rows["reason"], "no_exchange")).as_py() or 0
    usable = rows.filter(pc.is_null(rows["reason"]))
    refused = rows.filter(pc.is_valid(rows["line"]))
    usable, redacted = _masked(usable, context.key)
    interactions = usable.select([*_STORED, "pii"])
    moment = pa.scalar(context.now, pa.timestamp("us"))
    interactions = interactions.append_column("source_file", pa.repeat(pa.scalar(reading.id), len(usable)))
    interactions = interactions.append_column("ingested_at", pa.repeat(moment, len(usable)))
    return Parsed(
        block,
        len(rows),
        skipped,
        interactions,
        usable["record_number"].combine_chunks(),
        _signal_rows(usable, context.now),
        _quarantine_rows(refused, reading.id, context),
        redacted,
    )


def _parameters(statement: str, undated: bool, reading: Reading, context: Context) -> dict[str, Any]:
    return {
        "max_line_bytes": context.settings.max_line_bytes,
        "latest": context.latest,
        "consent_default": context.settings.consent_default,
        "purpose_default": context.settings.purpose_default,
        "undated": undated,
        "file_time": min(datetime.fromtimestamp(reading.log_file.mtime_ns // 10**9, UTC).replace(tzinfo=None), context.now),
        "key": context.key.hex(),
        "prefilter": PREFILTER,
        "personal_id": PERSONAL_ID,
        "erased": list(context.erased),
    }


def _clean(text: str, key: bytes) -> tuple[str, Counter[str]]:
    # A NUL cannot be stored everywhere and has no meaning in a chat.
    return redact(text.replace("\x00", "\ufffd"), key)


def _redact_row(row: dict[str, Any], key: bytes) -> dict[str, Any]:
    counts: Counter[str] = Counter()

    def clean(text: str) -> str:
        masked, found = _clean(text, key)
        counts.update(found)
        return masked

    def clean_id(value: str) -> str:
        masked = redact_id(value, key)
        counts.update(_ID_KIND.findall(masked) if masked != value else ())
        return masked

    messages = [{"role": turn["role"], "content": clean(turn["content"])} for turn in json.loads(row["messages"])]
    return {
        "messages": json.dumps(messages, ensure_ascii=False),
        "prompt": messages[-1]["content"],
        "response": clean(row["response"]),
        "edit": clean(row["edit"]) if row["edit"] is not None else None,
        # Gateways take addresses and phone numbers for ids; their placeholders still tell users apart.
        **{name: clean_id(row[name]) for name in _IDS},
        "pii": json.dumps(dict(sorted(counts.items()))),
    }


def _masked(usable: pa.Table, key: bytes) -> tuple[pa.Table, int]:
    """Replace the texts of the rows that may hold personal data; return the table with a column `pii`, and how many rows held some."""
    mask = usable["personal"].combine_chunks() if len(usable) else pa.array([], pa.bool_())
    found = [_redact_row(row, key) for row in usable.filter(mask).select(list(_TEXTS)).to_pylist()]
    table = usable.append_column("pii", pa.repeat(pa.scalar("{}"), len(usable)))
    for name in (*_TEXTS, "pii") if found else ():
        column = table[name].combine_chunks()
        values = pa.array([row[name] for row in found], column.type)
        table = table.set_column(table.schema.get_field_index(name), name, pc.replace_with_mask(column, mask, values))
    return table, sum(row["pii"] != "{}" for row in found)


def _signal_rows(usable: pa.Table, now: datetime) -> pa.Table:
    said = pc.or_(
        pc.or_(pc.is_valid(usable["thumbs"]), pc.fill_null(usable["regenerated"], False)),
        pc.or_(pc.is_valid(usable["edit"]), usable["no_consent"]),
    )
    rows = []
    for row in usable.filter(said).select(["id", *_SIGNALS]).to_pylist():
        for kind in _SIGNALS:
            if row[kind]:
                value = "true" if row[kind] is True else row[kind]
                rows.append((content_id(row["id"], kind, value), row["id"], kind, value))
    names = ("id", "interaction_id", "kind", "value")
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(len(names))]
    return pa.table([*columns, pa.repeat(pa.scalar(now, pa.timestamp("us")), len(rows))], names=[*names, "recorded_at"])


def _unescaped(line: str) -> str:
    """Return a damaged line with JSON's escapes of ASCII resolved, so that none hides an address."""
    return re.sub(r"\\u00([2-7][0-9A-Fa-f])", lambda match: chr(int(match.group(1), 16)), line)


_QUARANTINE = pa.schema(
    [("id", pa.string()), ("source_file", pa.string()), ("line_number", pa.int64()), ("record_number", pa.int64())]
    + [(name, pa.string()) for name in ("reason", "detail", "raw", "user_id")]
    + [("quarantined_at", pa.timestamp("us"))]
)


def quarantine_row(
    file_id: str, line_number: int, record: int, reason: str, detail: str, raw: str, user_id: str | None, context: Context
) -> dict[str, Any]:
    """Return a refused line as the store keeps it: redacted, and cut to 2,000 characters."""
    # Cut first with room to spare, so that a long line is not searched whole; then cut what is kept.
    shown = "" if reason == "erased_subject" else _clean(_unescaped(raw[: 2 * _RAW_SHOWN].rstrip("\r\n")), context.key)[0][:_RAW_SHOWN]
    return {
        "id": content_id(file_id, line_number, record, reason),
        "source_file": file_id,
        "line_number": line_number,
        "record_number": record,
        "reason": reason,
        "detail": detail,
        "raw": shown,
        # Whose line it was, so that an erasure finds it.
        "user_id": redact_id(user_id, context.key) if user_id and reason != "erased_subject" else "",
        "quarantined_at": context.now,
    }


def quarantine_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return refused lines as an Arrow table."""
    return pa.Table.from_pylist(rows, schema=_QUARANTINE)


def _quarantine_rows(refused: pa.Table, file_id: str, context: Context) -> pa.Table:
    rows = refused.select(["line_number", "record_number", "reason", "line", "user_id"]).to_pylist()
    return quarantine_table(
        [
            quarantine_row(
                file_id,
                row["line_number"],
                row["record_number"],
                row["reason"],
                f"{len(row['line'])} characters",
                row["line"],
                row["user_id"],
                context,
            )
            for row in rows
        ]
    )
