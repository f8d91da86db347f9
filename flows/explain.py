"""Explain how a log file is read: the preset that fits its first lines, each field's result, and why a line was not read.

Nothing is stored.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any

from alignment.config import Settings
from alignment.errors import InputError
from alignment.ingest import Context, LogFile, LogSource, Parsed, Part, blocks, find_files, log_sources, make_source, parse, parser, presets
from alignment.ingest.reading import from_start
from alignment.ingest.reasons import REASONS
from alignment.store import store_path
from alignment.text import cap, printable
from flows.night import now
from flows.read_files import read_context

LINES, _SHOWN = 50, 120
_FIELDS = ("conversation_id", "session_id", "user_id", "created_at", "model", "messages", "response", "thumbs", "regenerated", "edit",
           "tools", "reasoning", "consent", "purpose")  # fmt: skip


def explain(settings: Settings, file: str) -> dict[str, Any]:
    """Return which presets and configured mappings read the first lines of `file`, and what the best of them extracted.

    Values are masked as in the store.

    Raises:
        InputError: the file cannot be read or has no line.
    """
    mapped = {f"source {one.name}": one for one in log_sources(settings) if settings.ingest.sources.get(one.name) or settings.ingest.fields}
    [log_file, *_] = find_files([file])
    context = _context(settings)
    return {"file": file, **explain_lines(first_lines(log_file, context), context, mapped)}


def first_lines(log_file: LogFile, context: Context) -> Part:
    """Return the first lines of a log file, at most 50.

    Raises:
        InputError: it cannot be read or has no line.
    """
    reading = from_start(log_file)
    block = next((one for one in blocks(reading, context.settings, now=context.now) if len(one.lines)), None)
    if block is None:
        raise InputError(f"{log_file.path!r} has no line to explain; give a file with records")
    return Part(reading, block._replace(lines=block.lines.slice(0, LINES)))


def explain_lines(part: Part, context: Context, mapped: Mapping[str, LogSource]) -> dict[str, Any]:
    """Return the same as `explain` for lines already read; try each preset and each of `mapped` on them."""
    sources = {name: make_source(name, [], name, {}) for name in presets()}
    read = {name: _read(source, part, context) for name, source in {**mapped, **sources}.items()}
    best = max(read, key=lambda name: (len(read[name].usable), -len(read[name].quarantine)))
    found = read[best]
    return {
        "lines": len(part.block.lines),
        # A text log is full of lines that no preset reads.
        "fits": best if len(found.usable) or (found.skipped and list(found.why_skipped) != ["another_record"]) else "",
        "presets": [_fit(name, one) for name, one in read.items()],
        "fields": _fields(found),
        "not_read": _not_read(found),
    }


def _context(settings: Settings) -> Context:
    """Return the context in which lines are judged; before the first night there is no masking key and nobody was erased."""
    if store_path(settings.home).exists():
        return read_context(settings)
    moment = now()
    return Context(settings.ingest, secrets.token_bytes(32), moment, moment + settings.skew)


def _read(source: LogSource, part: Part, context: Context) -> Parsed:
    connection = parser()
    try:
        return parse(connection, source.statement(), source.undated, [part], context)
    finally:
        connection.close()


def _fit(name: str, parsed: Parsed) -> dict[str, Any]:
    reasons = Counter(parsed.quarantine["reason"].to_pylist())
    worst = ", ".join(f"{reason} ({number})" for reason, number in reasons.most_common(2))
    return {
        "preset": name,
        "exchanges": len(parsed.usable),
        "skipped": parsed.skipped,
        "unusable": len(parsed.quarantine),
        "because": worst,
    }


def _fields(parsed: Parsed) -> list[dict[str, str]]:
    """Return how each field of the first usable record was read."""
    if not len(parsed.usable):
        return []
    place = int(parsed.usable[0])
    row = parsed.rows.slice(place, 1).to_pylist()[0]
    masked = dict(zip(parsed.masked["position"].to_pylist(), parsed.masked.to_pylist(), strict=True)).get(place, {})
    values = {name: masked.get(name, row[name]) for name in _FIELDS}
    shown = {name: "nothing" if value in (None, "") else cap(printable(str(value)), _SHOWN) for name, value in values.items()}
    return [{"field": name, "value": value} for name, value in shown.items()]


def _not_read(parsed: Parsed) -> list[dict[str, Any]]:
    rows = parsed.rows.select(["line_number", "record_number", "reason", "skipped"]).to_pylist()
    return [
        {
            "line": row["line_number"],
            "record": row["record_number"],
            "became": "skipped" if row["skipped"] else "quarantined",
            "reason": row["skipped"] or row["reason"],
            "because": REASONS.get(row["skipped"] or row["reason"], ""),
        }
        for row in rows
        if row["reason"]
    ]
