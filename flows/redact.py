"""The deep second pass for personal data over texts that are flagged, shown to people or trained on, before anything is built on them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import pyarrow as pa
from prefect import task

from alignment.config import Settings, load_settings
from alignment.ingest.redact import redaction_key
from alignment.store import append, query, session, sql
from flows.night import now
from flows.show import progress

if TYPE_CHECKING:
    from alignment.ingest.presidio import DeepRedactor

_READ_TOGETHER = 256

Mask = Callable[..., tuple[str, Counter[str]]]
"""Masks a text; `asked=allowance()` is the shared budget for all texts of an exchange."""


class _Texts(NamedTuple):
    """Where an exchange's texts are stored; `which` is the column with the exchange's id."""

    table: str
    columns: tuple[str, ...]
    which: str = "interaction_id"
    only: str = "true"


_EXCHANGES = _Texts("interactions", ("messages", "response"), which="id")
# By the time a new redactor version reads an exchange again, copies of it exist.
_COPIES = (
    _Texts("signals", ("value",), only="kind = 'edit'"),
    _Texts("candidates", ("text", "detail")),
    _Texts("review_items", ("prompt", "answer_a", "answer_b")),
    _Texts("pairs", ("messages", "chosen", "rejected")),
)
_JSON = frozenset({"messages", "detail"})


@cache
def _redactor(ner_model: str) -> DeepRedactor:
    from alignment.ingest.presidio import DeepRedactor

    return DeepRedactor(ner_model)


def masking(settings: Settings) -> Mask:
    """Return the function that masks a text thoroughly. Its first call loads presidio.

    It raises:
        ConfigError: the configured spaCy model cannot be loaded.
    """
    key = redaction_key(settings.home)
    return lambda text, **limits: _redactor(settings.ingest.ner_model).redact(text, key, **limits)


@task
def redact_deeply() -> int:
    """Mask what the fast rules missed in flagged or selected exchanges, once per version; return how many were read."""
    from alignment.ingest.presidio import deep_version

    settings = load_settings()
    version = deep_version(settings.ingest.ner_model)
    parameters = {"version": version, "max_chars": settings.candidates.max_prompt_chars}
    ids = [row["id"] for row in query(settings.home, sql("flows", "unscanned"), parameters)]
    if not ids:
        return 0
    mask = masking(settings)
    with progress("second look for personal data") as advance:
        for start in range(0, len(ids), _READ_TOGETHER):
            chunk = ids[start : start + _READ_TOGETHER]
            _redact(settings, chunk, mask, version)
            advance(start + len(chunk), len(ids))
    return len(ids)


def _redact(settings: Settings, ids: Sequence[str], mask: Mask, version: str) -> None:
    """Mask one chunk of exchanges and all rows derived from them, in one transaction."""
    exchanges, found = _masked_exchanges(_rows(settings, _EXCHANGES, ids, more=", pii::VARCHAR AS pii"), mask)
    copies = {
        texts: [new for row in _rows(settings, texts, ids) if (new := mask_row(row, texts.columns, mask)[0]) != row] for texts in _COPIES
    }
    moment = now()
    scans = [{"interaction_id": one, "version": version, "found": found[one], "scanned_at": moment} for one in ids]
    with session(settings.home, write=True) as connection:
        _update(connection, "interactions", exchanges)
        for texts, rows in copies.items():
            _update(connection, texts.table, rows)
        append(connection, "deep_redactions", scans, key=("interaction_id", "version"))


def _rows(settings: Settings, texts: _Texts, ids: Sequence[str], *, more: str = "") -> list[dict[str, Any]]:
    columns = ", ".join(f"{name}::VARCHAR AS {name}" for name in texts.columns)
    return query(
        settings.home,
        f"SELECT id, {columns}{more} FROM {texts.table} WHERE {texts.only} AND list_contains($ids, {texts.which})",  # noqa: S608
        {"ids": list(ids)},
    )


def _masked_exchanges(rows: Sequence[dict[str, Any]], mask: Mask) -> tuple[list[dict[str, Any]], dict[str, Counter[str]]]:
    """Return the exchanges that changed, with their prompt and counts, and the findings for every exchange."""
    changed, found = [], {}
    for row in rows:
        new, counts = mask_row(row, _EXCHANGES.columns, mask)
        found[row["id"]] = counts
        if counts:
            pii = Counter(json.loads(row["pii"] or "{}")) + counts
            prompt = json.loads(new["messages"])[-1]["content"]
            changed.append({**new, "prompt": prompt, "pii": json.dumps(dict(sorted(pii.items())))})
    return changed, found


def mask_row(row: dict[str, Any], columns: Sequence[str], mask: Mask) -> tuple[dict[str, Any], Counter[str]]:
    """Return the row with its text `columns` masked, and the findings; JSON without findings keeps its exact form."""
    from alignment.ingest.presidio import allowance

    masked, counts = dict(row), Counter[str]()
    together = allowance()

    def inner(text: str) -> tuple[str, Counter[str]]:
        return mask(text, asked=together)

    for name in columns:
        if row[name] is None:
            continue
        before = json.loads(row[name]) if name in _JSON else row[name]
        after, found = _masked(before, inner)
        counts += found
        if found:
            masked[name] = json.dumps(after, ensure_ascii=False) if name in _JSON else after
    return masked, counts


def _masked(value: Any, mask: Mask) -> tuple[Any, Counter[str]]:
    if isinstance(value, str):
        return mask(value)
    counts = Counter[str]()

    def inner(part: Any) -> Any:
        new, found = _masked(part, mask)
        counts.update(found)
        return new

    if isinstance(value, list):
        return [inner(part) for part in value], counts
    if isinstance(value, dict):
        return {name: inner(part) for name, part in value.items()}, counts
    return value, counts


def _update(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    assigned = ", ".join(f"{name} = changed.{name}" for name in rows[0] if name != "id")
    connection.register("changed", pa.Table.from_pylist(list(rows)))
    try:
        connection.execute(f"UPDATE {table} SET {assigned} FROM changed WHERE {table}.id = changed.id")  # noqa: S608 - names from code
    finally:
        connection.unregister("changed")
