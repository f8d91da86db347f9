"""Log sources: where the files are, and how their records become exchanges.

A preset or custom mapping is one SQL expression per field; presets.toml lists the presets.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import duckdb
import pyarrow as pa

from alignment.config import Settings
from alignment.errors import ConfigError
from alignment.ingest.files import LogFile, find_files
from alignment.ingest.functions import register
from alignment.ingest.lines import PARTED
from alignment.sections import SAMPLE_LOGS
from alignment.store import sql

_ONE_RECORD = "SELECT part, file_time, line_number, 1 AS record_number, line, damage, document, document AS body FROM valid"
_JSON_FIELDS = ("response", "consent", "purpose")
_ANYTHING = {
    "max_line_bytes": 100,
    "max_id_bytes": 100,
    "max_edit_bytes": 100,
    "max_masked_bytes": 100,
    "consent_default": True,
    "purpose_default": "training",
    "undated": False,
    "key": "",
    "prefilter": "x",
    "personal_id": "x",
    "odd": "x",
    "plain": "x",
    "erased": [],
    "nobody": [],
    "placeholders": [],
    "thought": "x",
}
_SUBJECT_KEY = "sha256(concat_ws(chr(31), $key, user_id, $key))"


class Source(Protocol):
    """A place that exchanges come from."""

    @property
    def name(self) -> str:
        """The name used in the settings."""

    @property
    def undated(self) -> bool:
        """Whether a record without a time takes its file's."""

    @property
    def joins(self) -> bool:
        """Whether one call may be spread over several records."""

    def find(self) -> list[LogFile]:
        """Return the files as they are now."""

    def statement(self) -> str:
        """Return the SQL that reads the table `block`; see sql/parse.sql."""


class LogSource(NamedTuple):
    """A source of log files."""

    name: str
    patterns: tuple[str, ...]
    shape: str
    chat: str
    records: str
    undated: bool
    line: str
    joins: bool
    fields: Mapping[str, str]

    def find(self) -> list[LogFile]:
        """Return the files that the patterns name.

        Raises:
            InputError: a pattern matches nothing.
        """
        return find_files(self.patterns)

    def statement(self) -> str:
        """Return the parsing SQL with this source's expressions filled in."""
        records = _ONE_RECORD
        if self.records:
            listed = re.sub(r"\bbody\b", "document", self.records)
            records = sql("alignment.ingest", "many_records").replace("@records@", listed)
        refused = "coalesce(body::VARCHAR, line)" if self.records else "line"
        values = {
            "refused": refused,
            "shape": self.shape.replace("\n", ""),
            "records": records,
            "line": self.line,
            "calls": sql("alignment.ingest", "calls") if self.joins else "FROM records",
            "chat": self.chat,
            "subject_key": _SUBJECT_KEY,
            **self.fields,
        }
        return re.sub("@([a-z_]+)@", lambda match: values[match.group(1)], sql("alignment.ingest", "parse"))


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Return all presets by name."""
    return tomllib.loads((files("alignment.ingest") / "presets.toml").read_text(encoding="utf-8"))


OWN = "align_gateway"
"""The name of the source that is our own gateway's logs."""


def _patterns(configured: Mapping[str, tuple[list[str], str, dict[str, str], str]]) -> list[str]:
    return [pattern for logs, *_ in configured.values() for pattern in logs if "://" not in pattern]


def gateway_logs(home: Path) -> Path:
    """Return the folder of the gateway's exchange logs."""
    return home / "gateway" / "logs"


def log_sources(settings: Settings) -> list[LogSource]:
    """Return the configured sources, and our gateway's logs if there are any; custom mappings are tried on a line.

    Raises:
        ConfigError: a preset or field is unknown, or an expression is not SQL; lists all problems at once.
    """
    ingest = settings.ingest
    sources: list[LogSource] = []
    problems: list[str] = []
    configured = {name: (one.logs, one.preset, one.fields, one.records) for name, one in ingest.sources.items()}
    own = gateway_logs(settings.home)
    if any(own.glob("*.jsonl")) and not any(str(own) in str(Path(path).expanduser().absolute()) for path in _patterns(configured)):
        configured[OWN] = ([str(own / "*.jsonl")], "gateway", {}, "")
    # The sample is only for users who have no logs yet.
    if not configured or "logs" in ingest.model_fields_set:
        configured = {"logs": (ingest.logs, ingest.preset, ingest.fields, ingest.records), **configured}
    for name, (logs, preset, fields, records) in configured.items():
        try:
            sources.append(make_source(name, logs, preset, fields, records))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return sources


def make_source(name: str, logs: list[str], preset: str, fields: Mapping[str, str], records: str = "") -> LogSource:
    """Return one source; `records` replaces the preset's expression for a line's records.

    Raises:
        ConfigError: the preset or a field is unknown, or an expression is not SQL.
    """
    known, base = presets(), presets()["gateway"]
    if preset not in known:
        raise ConfigError(f"the source {name!r} has preset {preset!r}; known are {', '.join(known)}. Correct [ingest] in align.toml")
    chosen = known[preset]
    unknown = sorted(set(fields) - set(base["fields"]))
    if unknown:
        raise ConfigError(f"the source {name!r} maps unknown fields {', '.join(unknown)}; known are {', '.join(base['fields'])}")
    sample = str(files("alignment.samples") / "traffic.jsonl.gz")
    source = LogSource(
        name,
        tuple(sample if pattern == SAMPLE_LOGS else pattern for pattern in logs),
        chosen.get("shape", base["shape"]),
        chosen.get("chat", "NULL::JSON"),
        records or chosen.get("records", ""),
        chosen.get("undated", False),
        chosen.get("line", "line"),
        chosen.get("joins", False),
        # A mapping that defines the response overrides the preset's judgement of the record.
        {**base["fields"], **chosen["fields"], **({"skipped": "NULL"} if "response" in fields else {}), **fields},
    )
    return _typed(source, fields) if fields or records else source


def parser() -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB that knows the presets' macros and can reach nothing outside itself."""
    connection = duckdb.connect()
    # The previous block is written meanwhile: with all processors parsing, both took longer.
    threads = max(1, (os.cpu_count() or 1) // 2)
    connection.execute(
        f"SET TimeZone = 'UTC'; SET threads = {threads}; SET enable_progress_bar = false; SET temp_directory = ''; "
        # No folder to spill into: unmasked lines never reach the disk.
        "SET enable_external_access = false; "
        "SET lock_configuration = true"
    )
    register(connection)
    connection.execute(sql("alignment.ingest", "macros"))
    return connection


def _typed(source: LogSource, fields: Mapping[str, str]) -> LogSource:
    """Return the source with fields wrapped to the types they need: texts to JSON, and JSON messages to a list of turns.

    Raises:
        ConfigError: an expression is not SQL, or the mapping as a whole cannot be used.
    """
    connection, typed = parser(), dict(source.fields)
    try:
        for field, expression in fields.items():
            kind = _kind(connection, source, field, expression)
            if field == "messages" and kind == "JSON":
                typed[field] = f"turns({expression})"
            elif field in _JSON_FIELDS and kind != "JSON":
                typed[field] = f"to_json({expression})"
        source = source._replace(fields=typed)
        moment = datetime(2000, 1, 1)  # noqa: DTZ001 - the store keeps UTC without a zone
        connection.register("block", pa.table([[1], ["{}"], pa.nulls(1, pa.string()), [0], [moment]], schema=PARTED))
        try:
            connection.execute(source.statement(), {**_ANYTHING, "latest": moment}).fetchall()
        except duckdb.Error as error:
            raise ConfigError(
                f"the source {source.name!r} cannot be read as it is mapped: {error}; correct its fields or records"
            ) from error
    finally:
        connection.close()
    return source


def _kind(connection: duckdb.DuckDBPyConnection, source: LogSource, field: str, expression: str) -> str:
    row = f"SELECT '{{}}'::JSON AS body, json_transform('{{}}', '{source.shape}') AS x, NULL::JSON AS chat"
    statement = f"DESCRIBE SELECT ({expression}) FROM ({row})"  # noqa: S608
    try:
        return str(connection.execute(statement.replace("\n", " ")).fetchall()[0][1])
    except duckdb.Error as error:
        raise ConfigError(
            f"the source {source.name!r} maps {field} to {expression!r}, which is no SQL expression over body (JSON): {error}"
        ) from error
