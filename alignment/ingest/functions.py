"""Python functions for the parsing SQL where a loop is needed: removing thoughts from a text, and finding the calls in traces."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import duckdb

from alignment.ingest import datasets, otel, vendors, vllm
from alignment.reasoning import apart
from alignment.text import storable

THOUGHT = (
    r"(?i)(?:<|u003c)[\\/ \t]{0,12}(?:think|thinking|reasoning|seed:think|\|begin_of_thought|\|channel)|\[THINK\]|(?:\x{25c1}|u25c1)think"
)
"""RE2 pattern of a JSON record that may hold thoughts between tags; only the texts of such records go to `spoken`."""


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Register `spoken(text)`, `chat_of(preset, record)` and the functions that find a line's records on a connection."""
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
    return storable(apart(text).answer)


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
    # JSON has no infinity: a number that Python reads as infinite could not be written back.
    return json.loads(text, parse_float=lambda number: float(number) if math.isfinite(float(number)) else None)


def _dumped(value: Any) -> str:
    return storable(json.dumps(value, ensure_ascii=False, allow_nan=False))
