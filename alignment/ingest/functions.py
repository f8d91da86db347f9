"""What the parsing SQL asks Python for, because it takes a loop: thoughts out of a text, and the calls in traces."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import duckdb

from alignment.ingest import datasets, otel, vendors, vllm
from alignment.reasoning import apart

THOUGHT = (
    r"(?i)(?:<|u003c)[\\/ \t]{0,12}(?:think|thinking|reasoning|seed:think|\|begin_of_thought|\|channel)|\[THINK\]|(?:\x{25c1}|u25c1)think"
)
"""RE2 pattern of a record, as JSON, that may hold thoughts between tags; only its texts are given to `spoken`."""


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `spoken(text)`, `chat_of(preset, record)` and what finds a line's records known to a connection."""
    connection.create_function("spoken", _spoken, ["VARCHAR"], "VARCHAR")  # type: ignore[arg-type]
    connection.create_function("chat_of", _chat_of, ["VARCHAR", "VARCHAR"], "JSON")  # type: ignore[arg-type]
    connection.create_function("join_calls", _join_calls, ["VARCHAR"], "JSON", null_handling="special")  # type: ignore[arg-type]
    for name, read in (
        ("otel_records", otel.records),
        ("vllm_records", vllm.records),
        ("preferences", datasets.preferences),
        ("web_chats", datasets.web_chats),
    ):
        connection.create_function(name, _records(read), ["VARCHAR"], "JSON")  # type: ignore[arg-type]


def _join_calls(text: str) -> str | None:
    try:
        halves = _loaded(text)
        return _dumped(whole) if (whole := (vllm if "vllm" in halves[0]["chat"] else otel).joined(halves)) else None
    except Exception:
        return None


def _spoken(text: str) -> str:
    return _storable(apart(text).answer)


def _chat_of(preset: str, text: str) -> str | None:
    try:
        return _dumped(vendors.READERS[preset](_loaded(text)))
    except Exception:
        return None


def _records(read: Callable[[Any], list[Any]]) -> Callable[[str], str]:
    def found(text: str) -> str:
        try:
            return _dumped(read(_loaded(text)))
        except Exception:
            return f"[{text}]"

    return found


def _loaded(text: str) -> Any:
    # JSON knows no infinity, and a number that is one for Python would not come back.
    return json.loads(text, parse_float=lambda number: float(number) if math.isfinite(float(number)) else None)


def _dumped(value: Any) -> str:
    return _storable(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _storable(text: str) -> str:
    """Return a text in which halves of a character, which no store takes, are whole again or replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
