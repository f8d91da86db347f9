"""Turn a block of lines into exchanges, signals and refusals: parsed, judged and redacted, outside the store and without its lock."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alignment.errors import InputError
from alignment.ids import content_id
from alignment.ingest.functions import THOUGHT
from alignment.ingest.lines import PARTED
from alignment.ingest.normalize import spellings
from alignment.ingest.reading import Part
from alignment.ingest.redact import LINE_WORK, PERSONAL_ID, PREFILTER, TooMuchWork, Work, redact, redact_id
from alignment.sections import Ingest

_RAW_SHOWN, _CUT_MARGIN = 2000, 400
KEPT_WHOLE = "kept whole"
MAX_ID_BYTES, MAX_EDIT_BYTES, MAX_MASKED_BYTES = 256, 1 << 14, 1 << 16
"""Limits on an id, an edit, and a line's texts if something in them has to be masked: beyond them the line is quarantined."""
_SAMPLED, _SAMPLED_FROM, _SAMPLED_BYTES, _KEYS_OF_A_LINE = 200, 2000, 1 << 16, 100
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_KINDS = {str: "VARCHAR", bool: "BOOLEAN", int: "NUMBER", float: "NUMBER", list: "ARRAY", dict: "OBJECT"}
_QUOTED = re.compile(r'"([^"\\\s]{7,80})"')
PLACEHOLDERS = (
    "default-message-value",
    "redacted-by-litellm",
    "redacted by litellm",
    "redacted-by-litellm. 'litellm.turn_off_message_logging=true'",
    "violated guardrail policy",
    "__redacted__",
)
"""Texts that gateways write in place of the content."""
_SIGNALS = ("thumbs", "regenerated", "edit", "no_consent", "tools", "reasoning", "not_for_training")
_ID_KIND = re.compile(r"<([A-Z_]+)_[0-9a-f]{12}>")
_IDS = ("conversation_id", "session_id", "user_id", "model")
_REFUSED = ("part", "line_number", "record_number", "reason", "line")
_PLACE = ("part", "line_number")
_TEXTS = ("messages", "prompt", "response", "edit", *_IDS)
_PERSONAL = ("personal_ids", "personal_messages", "personal_answer")
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
    """What lines are judged by: the settings, the secret for placeholders and ids, the time, and who was erased."""

    settings: Ingest
    key: bytes
    now: datetime
    latest: datetime
    erased: tuple[str, ...] = ()


class Parsed(NamedTuple):
    """A block of each of `parts`, ready to be checked and merged. `read` counts their records and unusable lines.

    `rows` are all records as logged, with the number of their `part` and `reason` (NULL where usable); `masked` are, by position, the rows
    whose texts were searched, as they are to be stored. `keys` are the top-level keys of a sample of lines. The other tables have the
    store's schema.
    """

    parts: Sequence[Part]
    read: int
    skipped: int
    why_skipped: Counter[str]
    thumbs_unread: int
    rows: pa.Table
    masked: pa.Table
    signals: pa.Table
    quarantine: pa.Table
    redacted: int
    keys: frozenset[str]

    @property
    def usable(self) -> npt.NDArray[np.int64]:
        """The positions of the usable rows."""
        return np.flatnonzero(self.rows["reason"].is_null().to_numpy())

    @property
    def of_part(self) -> npt.NDArray[np.int64]:
        """The part of each row."""
        found: npt.NDArray[np.int64] = self.rows["part"].to_numpy()
        return found

    def told_without(self, refused: Collection[int]) -> tuple[frozenset[str], Counter[str], int]:
        """Return `keys`, `why_skipped` and `thumbs_unread` without the parts in `refused`."""
        lines = [part.block.lines for number, part in enumerate(self.parts) if number not in refused]
        if not refused or not lines:
            return (self.keys, self.why_skipped, self.thumbs_unread) if lines else (frozenset(), Counter(), 0)
        rows = self.rows.filter(pa.array(~np.isin(self.of_part, sorted(refused))))
        return _keys(pa.concat_tables(lines)), _why_skipped(rows), _thumbs_unread(rows)


class Unmasked(NamedTuple):
    """The lines of a block of each of `parts`, and their records as logged: nothing is masked yet."""

    parts: Sequence[Part]
    lines: pa.Table
    rows: pa.Table


def parse(connection: duckdb.DuckDBPyConnection, statement: str, undated: bool, parts: Sequence[Part], context: Context) -> Parsed:
    """Read and mask blocks of a source's files with its `statement`; `connection` is one of `sources.parser`.

    Raises:
        InputError: the statement fails on the content of the blocks.
    """
    return mask(read_records(connection, statement, undated, parts, context), context)


def read_records(connection: duckdb.DuckDBPyConnection, statement: str, undated: bool, parts: Sequence[Part], context: Context) -> Unmasked:
    """Run a source's statement on blocks. DuckDB releases Python's lock, so that another thread can mask the previous block.

    Raises:
        InputError: the statement fails on the content of the blocks.
    """
    lines = _together(parts, context.now)
    connection.register("block", lines)
    try:
        rows = connection.execute(statement, _parameters(undated, context)).to_arrow_table()
    except duckdb.Error as error:
        raise InputError(
            # Without DuckDB's message: it quotes the text that it stumbled over.
            f"cannot read the log file {parts[0].reading.log_file.path!r} as its source maps it ({type(error).__name__}); "
            "correct the source's preset or fields in align.toml"
        ) from None
    finally:
        connection.unregister("block")
    return Unmasked(parts, lines, rows)


def mask(block: Unmasked, context: Context) -> Parsed:
    """Mask personal data in records, and collect signals and refusals."""
    rows, masked = _masked(block.rows, block.lines, context.key)
    return Parsed(
        block.parts,
        len(rows),
        pc.sum(pc.equal(rows["reason"], "no_exchange")).as_py() or 0,
        _why_skipped(rows),
        _thumbs_unread(rows),
        rows,
        masked,
        _signal_rows(rows, masked, context.now),
        _quarantine_rows(rows.select([*_REFUSED, "user_id"]).filter(pc.is_valid(rows["line"])), block.parts, context),
        pc.sum(pc.not_equal(masked["pii"], "{}")).as_py() or 0,
        _keys(block.lines),
    )


def _together(parts: Sequence[Part], now: datetime) -> pa.Table:
    times = [min(datetime.fromtimestamp(one.reading.log_file.mtime_ns // 10**9, UTC).replace(tzinfo=None), now) for one in parts]
    of_part = pa.array(np.repeat(np.arange(len(parts)), [len(one.block.lines) for one in parts]))
    lines = pa.concat_tables([one.block.lines for one in parts])
    columns = [*lines.columns, of_part, pa.array(times, pa.timestamp("us")).take(of_part)]
    return pa.table(columns, schema=PARTED)


def _thumbs_unread(rows: pa.Table) -> int:
    return pc.sum(pc.and_(rows["thumbs_unread"], pc.is_null(rows["reason"]))).as_py() or 0


def _why_skipped(rows: pa.Table) -> Counter[str]:
    return Counter({str(one["values"]): int(one["counts"]) for one in pc.value_counts(rows["skipped"].drop_null()).to_pylist()})


def _keys(lines: pa.Table) -> frozenset[str]:
    """Return the top-level keys of a sample of lines with the kinds of their values, as `key:KIND`: they show changes of a source's schema.

    All numbers are one kind, and a null has none. Keys that are not plain names are left out, as are long lines and the keys after a line's
    first hundred: DuckDB looks up a key in time that grows with all keys before it.
    """
    found: set[str] = set()
    sampled = 0
    beginning = lines.slice(0, _SAMPLED_FROM)
    short = beginning.filter(pc.less_equal(pc.binary_length(beginning["line"]), _SAMPLED_BYTES))
    for text in short.filter(pc.is_null(short["damage"]))["line"].to_pylist():
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            named = [(key, value) for key, value in islice(record.items(), _KEYS_OF_A_LINE) if value is not None and _NAME.fullmatch(key)]
            found.update(f"{key}:{_KINDS[type(value)]}" for key, value in named)
            sampled += 1
            if sampled == _SAMPLED:
                break
    return frozenset(found)


def _parameters(undated: bool, context: Context) -> dict[str, Any]:
    return {
        "max_line_bytes": context.settings.max_line_bytes,
        "max_id_bytes": MAX_ID_BYTES,
        "max_edit_bytes": MAX_EDIT_BYTES,
        "max_masked_bytes": MAX_MASKED_BYTES,
        "latest": context.latest,
        "consent_default": context.settings.consent_default,
        "purpose_default": context.settings.purpose_default,
        "undated": undated,
        "key": context.key.hex(),
        "prefilter": PREFILTER,
        "personal_id": PERSONAL_ID,
        "odd": spellings()[0],
        "plain": spellings()[1],
        "erased": list(context.erased),
        "nobody": [name.strip().lower() for name in context.settings.nobody],
        "placeholders": list(PLACEHOLDERS),
        "thought": THOUGHT,
    }


def _clean(text: str, key: bytes, work: Work) -> tuple[str, Counter[str]]:
    # Not every store accepts a NUL, and it has no meaning in a chat.
    return redact(text.replace("\x00", "\ufffd"), key, work=work)


def _redact_row(row: dict[str, Any], key: bytes, work: Work) -> dict[str, Any] | None:
    """Return the row without personal data, or None if that would exceed its line's budget."""
    try:
        return _redacted(row, key, work)
    except TooMuchWork:
        return None


def _redacted(row: dict[str, Any], key: bytes, work: Work) -> dict[str, Any]:
    """Mask the texts of a row in which SQL saw something personal; return them with the number of hits per kind."""
    counts: Counter[str] = Counter()

    def clean(text: str) -> str:
        masked, found = _clean(text, key, work)
        counts.update(found)
        return masked

    def clean_id(value: str) -> str:
        value = value.replace("\x00", "\ufffd")
        masked = redact_id(value, key)
        counts.update(_ID_KIND.findall(masked) if masked != value else ())
        return masked

    texts = {name: row[name] for name in _TEXTS}
    if row["personal_messages"]:
        messages = [{"role": turn["role"], "content": clean(turn["content"])} for turn in json.loads(row["messages"])]
        texts |= {"messages": json.dumps(messages, ensure_ascii=False), "prompt": messages[-1]["content"]}
    if row["personal_answer"]:
        texts |= {name: clean(row[name]) for name in ("response", "edit") if row[name] is not None}
    if row["personal_ids"]:
        # Gateways use addresses and phone numbers as ids; their placeholders still tell users apart.
        texts |= {name: clean_id(row[name]) for name in _IDS}
    return {**texts, "pii": json.dumps(dict(sorted(counts.items())))}


def _masked(rows: pa.Table, lines: pa.Table, key: bytes) -> tuple[pa.Table, pa.Table]:
    """Return the rows, refusing those too costly to mask, and the rows that may have held personal data: masked, with their positions
    and a column `pii`."""
    works: defaultdict[tuple[int, int], Work] = defaultdict(Work)
    positions = np.flatnonzero(np.logical_or.reduce([rows[name].to_numpy() for name in _PERSONAL]))
    texts = rows.take(pa.array(positions)).select([*_PLACE, *_PERSONAL, *_TEXTS]).to_pylist()
    tried = [_redact_row(row, key, works[row["part"], row["line_number"]]) for row in texts]
    refused = [int(position) for position, row in zip(positions, tried, strict=True) if row is None]
    clean = [row for row in tried if row is not None]
    positions = np.setdiff1d(positions, refused)
    found = rows.take(pa.array(positions))
    columns = {name: found[name] for name in (*_STORED, "edit")}
    columns |= {name: pa.array([row[name] for row in clean], pa.string()) for name in (*_TEXTS, "pii")}
    return _without(rows, lines, refused), pa.table({"position": pa.array(positions), **columns})


def _without(rows: pa.Table, lines: pa.Table, refused: list[int]) -> pa.Table:
    """Mark the rows at `refused` as unusable, as the parser does for texts that are too long."""
    if not refused:
        return rows
    raw = dict(zip(zip(*(lines[name].to_pylist() for name in _PLACE), strict=True), lines["line"].to_pylist(), strict=True))
    chosen = np.isin(np.arange(len(rows)), refused)
    places = zip(*(rows[name].to_pylist() for name in _PLACE), strict=True)
    said = [raw[place] if here else None for place, here in zip(places, chosen, strict=True)]
    mask = pa.array(chosen)
    for name, value in (("reason", pa.scalar("too_long_to_mask")), ("line", pa.array(said, pa.string()))):
        place = rows.column_names.index(name)
        rows = rows.set_column(place, name, pc.if_else(mask, value, rows[name]))
    return rows


def _signal_rows(rows: pa.Table, masked: pa.Table, now: datetime) -> pa.Table:
    said = pc.or_(
        pc.or_(pc.is_valid(rows["thumbs"]), pc.fill_null(rows["regenerated"], False)),
        pc.or_(pc.is_valid(rows["edit"]), rows["no_consent"]),
    )
    said = pc.or_(said, pc.or_(pc.is_valid(rows["tools"]), pc.is_valid(rows["reasoning"])))
    said = pc.and_(said, pc.is_null(rows["reason"]))
    edits = dict(zip(masked["position"].to_pylist(), masked["edit"].to_pylist(), strict=True))
    positions = np.flatnonzero(said.to_numpy())
    found = []
    for position, row in zip(positions.tolist(), rows.select(["id", *_SIGNALS[:-1]]).take(pa.array(positions)).to_pylist(), strict=True):
        # An answer that rests on tools cannot be taught to a model that is asked without them.
        row["not_for_training"] = bool(row["tools"])
        for kind in _SIGNALS:
            if row[kind]:
                value = "true" if row[kind] is True else edits.get(position, row[kind]) if kind == "edit" else row[kind]
                found.append((content_id(row["id"], kind, value), row["id"], kind, value))
    names = ("id", "interaction_id", "kind", "value")
    columns = [pa.array([row[place] for row in found], pa.string()) for place in range(len(names))]
    return pa.table([*columns, pa.repeat(pa.scalar(now, pa.timestamp("us")), len(found))], names=[*names, "recorded_at"])


def _unescaped(line: str) -> str:
    """Resolve JSON's escapes of ASCII in a damaged line, so that none hides an address."""
    return re.sub(r"\\u00([2-7][0-9A-Fa-f])", lambda match: chr(int(match.group(1), 16)), line)


_QUARANTINE = pa.schema(
    [("id", pa.string()), ("source_file", pa.string()), ("line_number", pa.int64()), ("record_number", pa.int64())]
    + [(name, pa.string()) for name in ("reason", "detail", "raw", "user_id")]
    + [("quarantined_at", pa.timestamp("us"))]
)


def _shown(raw: str, key: bytes) -> str:
    # Cut with room to spare, so that a long line is not searched whole. Half a value may be left at the cut, so the end is dropped.
    text = _unescaped(raw[: 2 * _RAW_SHOWN])
    try:
        masked = _clean(_QUOTED.sub(lambda match: f'"{redact_id(match.group(1), key)}"', text), key, Work(LINE_WORK // 4))[0]
    except TooMuchWork:
        return ""
    return masked[: _RAW_SHOWN if len(raw) <= 2 * _RAW_SHOWN else max(0, min(_RAW_SHOWN, len(masked) - _CUT_MARGIN))]


def quarantine_row(
    file_id: str, line_number: int, record: int, reason: str, detail: str, raw: str, user_id: str | None, context: Context
) -> dict[str, Any]:
    """Return a refused line as the store keeps it: redacted, and cut to 2,000 characters."""
    shown = "" if reason in ("erased_subject", "too_long_to_mask") else _shown(raw.rstrip(), context.key)
    # Of a row refused by a data check only the prompt is kept, which a person wrote: it must never be parsed as a line.
    whole = shown != "" and shown == raw.rstrip() and reason not in ("not_utf8", "too_long") and not reason.startswith("check:")
    return {
        "id": content_id(file_id, line_number, record, reason),
        "source_file": file_id,
        "line_number": line_number,
        "record_number": record,
        "reason": reason,
        "detail": f"{detail}, {KEPT_WHOLE}" if whole else detail,
        "raw": shown,
        # The owner of the line, so that an erasure finds it.
        "user_id": redact_id(user_id[:MAX_ID_BYTES], context.key) if user_id and reason != "erased_subject" else "",
        "quarantined_at": context.now,
    }


def quarantine_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return refused lines as an Arrow table."""
    return pa.Table.from_pylist(rows, schema=_QUARANTINE)


def _quarantine_rows(refused: pa.Table, parts: Sequence[Part], context: Context) -> pa.Table:
    rows = refused.to_pylist()
    return quarantine_table(
        [
            quarantine_row(
                parts[row["part"]].reading.id,
                row["line_number"],
                row["record_number"],
                row["reason"],
                f"{len(row['line'].rstrip())} characters",
                row["line"],
                row["user_id"],
                context,
            )
            for row in rows
        ]
    )
