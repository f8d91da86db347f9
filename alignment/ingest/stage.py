"""One log file into Parquet: parsed, judged and redacted, outside the store and without its lock.

Effects: writes `<home>/landing/<file id>`; an in-memory DuckDB does the work.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.config import Ingest
from alignment.errors import InputError, NoSpace
from alignment.ids import content_id, short
from alignment.ingest.files import LogFile
from alignment.ingest.redact import PREFILTER, redact, redaction_key
from alignment.store import sql
from alignment.store.session import is_disk_full

_RAW_SHOWN = 2000
_BLOCK = 50_000
_SIGNALS = ("thumbs", "regenerated", "edit", "no_consent")
_IDS = ("conversation_id", "session_id", "user_id", "model")
_PERSONAL_ID = re.compile("[@+]")


class Staged(NamedTuple):
    """A log file made ready to merge. `read` counts its non-blank lines."""

    log_file: LogFile
    folder: Path
    read: int
    usable: int
    unusable: int
    redacted: int

    @property
    def interactions(self) -> Path:
        """Parquet of usable lines; ids repeat where lines do."""
        return self.folder / "interactions.parquet"

    @property
    def signals(self) -> Path:
        """Parquet of user signals."""
        return self.folder / "signals.parquet"

    @property
    def quarantine(self) -> Path:
        """Parquet of unusable lines."""
        return self.folder / "quarantine.parquet"


def stage(home: Path, log_file: LogFile, settings: Ingest, *, now: datetime, latest: datetime) -> Staged:
    """Parse, judge and redact one file. `now` is when it is read (UTC), `latest` the last believable time of a line.

    Raises:
        InputError: the file cannot be read, or holds no line at all.
        NoSpace: the disk is full.
    """
    folder = home / "landing" / short(log_file.id)
    folder.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        read = _read_lines(connection, log_file.path)
        if read == 0:
            raise InputError(
                f"the log file {str(log_file.path)!r} holds no line; if logging stopped, repair it, else take the file out of [ingest] logs"
            )
        connection.execute(
            sql("ingest_parse"),
            {
                "max_line_bytes": settings.max_line_bytes,
                "latest": latest,
                "consent_default": settings.consent_default,
            },
        )
        key = redaction_key(home)
        usable, redacted = _write_usable(connection, folder, log_file, key, now)
        unusable = _write_quarantine(connection, folder, log_file, key, now)
    except (OSError, EOFError, zlib.error, duckdb.Error) as error:
        if is_disk_full(error):
            raise NoSpace(f"the disk of {str(home)!r} is full; free some space and run the same command again") from error
        raise InputError(f"cannot read the log file {str(log_file.path)!r}: {error}; check the file") from error
    finally:
        connection.close()
    return Staged(log_file, folder, read, usable, unusable, redacted)


def _read_lines(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    try:
        connection.execute(
            "CREATE TABLE lines AS SELECT * FROM (SELECT row_number() OVER () AS line_number, line, NULL::VARCHAR AS damage "
            "FROM read_csv($path, columns = {'line': 'VARCHAR'}, delim = '\x01', quote = '', escape = '', header = false, "
            "auto_detect = false, max_line_size = 16777216, strict_mode = false, compression = $compression)) "
            "WHERE trim(line, ' ' || chr(9)) <> ''",
            {"path": str(path), "compression": "gzip" if path.suffix == ".gz" else "none"},
        )
        fast = connection.execute("SELECT count(*), coalesce(bool_or(contains(line, chr(13))), false) FROM lines").fetchone()
        # DuckDB takes a bare carriage return for a line's end; such a file is read by Python.
        if fast and not fast[1] and not _has_separator(path):
            return int(fast[0])
    except duckdb.Error as error:
        if is_disk_full(error):
            raise
    return _read_lines_slowly(connection, path)


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _has_separator(path: Path) -> bool:
    with _open(path) as handle:
        return any(b"\x01" in block or b"\r" in block for block in iter(lambda: handle.read(1 << 22), b""))


def _read_lines_slowly(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    connection.execute("CREATE OR REPLACE TABLE lines (line_number BIGINT, line VARCHAR, damage VARCHAR)")
    total = 0
    for block in _decoded(path):
        arrow_block = pa.Table.from_pylist(
            block, schema=pa.schema([("line_number", pa.int64()), ("line", pa.string()), ("damage", pa.string())])
        )
        connection.register("block", arrow_block)
        connection.execute("INSERT INTO lines SELECT * FROM block")
        connection.unregister("block")
        total += len(block)
    return total


def _decoded(path: Path) -> Iterator[list[dict[str, Any]]]:
    block: list[dict[str, Any]] = []
    with _open(path) as handle:
        for number, raw in enumerate(handle, start=1):
            try:
                line, damage = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"), None
            except UnicodeDecodeError:
                line, damage = raw.decode("utf-8", "replace").rstrip("\r\n"), "not_utf8"
            if line.strip(" \t"):
                block.append({"line_number": number, "line": line, "damage": damage})
            if len(block) >= _BLOCK:
                yield block
                block = []
    yield block


def _clean(text: str, key: bytes) -> tuple[str, Counter[str]]:
    # A NUL cannot be stored everywhere and has no meaning in a chat.
    return redact(text.replace("\x00", "\ufffd"), key)


def _unescaped(line: str) -> str:
    """Return a damaged line with JSON's escapes of ASCII resolved, so that none hides an address."""
    return re.sub(r"\\u00([2-7][0-9A-Fa-f])", lambda match: chr(int(match.group(1), 16)), line)


def _redact_row(row: dict[str, Any], key: bytes) -> dict[str, Any]:
    counts: Counter[str] = Counter()

    def clean(text: str) -> str:
        masked, found = _clean(text, key)
        counts.update(found)
        return masked

    messages = [{"role": turn["role"], "content": clean(turn["content"])} for turn in json.loads(row["messages"])]
    return {
        "line_number": row["line_number"],
        "messages": json.dumps(messages, ensure_ascii=False),
        "prompt": messages[-1]["content"],
        "response": clean(row["response"]),
        "edit": clean(row["edit"]) if row["edit"] is not None else None,
        # Gateways take addresses and phone numbers for ids; their placeholders still tell users apart.
        **{name: clean(row[name]) if _PERSONAL_ID.search(row[name]) else row[name] for name in _IDS},
        "pii": json.dumps(dict(sorted(counts.items()))),
    }


_REDACTED_SCHEMA = pa.schema(
    [("line_number", pa.int64())] + [(name, pa.string()) for name in ("messages", "prompt", "response", "edit", *_IDS, "pii")]
)


def _write_usable(connection: duckdb.DuckDBPyConnection, folder: Path, log_file: LogFile, key: bytes, now: datetime) -> tuple[int, int]:
    # The texts are searched as they are stored: a line may hide an address behind escapes (\\u0040).
    hits = connection.execute(
        "SELECT line_number, messages::VARCHAR AS messages, response, edit, conversation_id, session_id, user_id, model "
        "FROM parsed WHERE reason IS NULL AND (regexp_matches(concat_ws(chr(10), messages::VARCHAR, response, edit), $prefilter) "
        "OR regexp_matches(concat(conversation_id, session_id, user_id, model), $personal_id) OR contains(line, '\\u0000'))",
        {"prefilter": PREFILTER, "personal_id": _PERSONAL_ID.pattern},
    ).to_arrow_table()
    masked = pa.Table.from_pylist([_redact_row(row, key) for row in hits.to_pylist()], schema=_REDACTED_SCHEMA)
    connection.register("masked", masked)
    usable = connection.execute(sql("ingest_usable"), {"source_file": log_file.id, "ingested_at": now}).to_arrow_table()
    pq.write_table(usable.drop_columns(list(_SIGNALS)), folder / "interactions.parquet")
    pq.write_table(_signal_rows(usable, now), folder / "signals.parquet")
    redacted = sum(row["pii"] != "{}" for row in masked.select(["pii"]).to_pylist())
    return usable.num_rows, redacted


def _signal_rows(usable: pa.Table, now: datetime) -> pa.Table:
    rows = [
        {
            "id": content_id(row["id"], kind, str(row[kind])),
            "interaction_id": row["id"],
            "kind": kind,
            "value": str(row[kind]),
            "recorded_at": now,
        }
        for row in usable.select(["id", *_SIGNALS]).to_pylist()
        for kind in _SIGNALS
        if row[kind]
    ]
    names = ("id", "interaction_id", "kind", "value")
    return pa.Table.from_pylist(rows, schema=pa.schema([*((name, pa.string()) for name in names), ("recorded_at", pa.timestamp("us"))]))


def _write_quarantine(connection: duckdb.DuckDBPyConnection, folder: Path, log_file: LogFile, key: bytes, now: datetime) -> int:
    refused = connection.execute("SELECT line_number, reason, line FROM parsed WHERE reason IS NOT NULL").fetchall()
    rows = [
        {
            "id": content_id(log_file.id, number, reason),
            "source_file": log_file.id,
            "line_number": number,
            "reason": reason,
            "detail": f"{len(line)} characters",
            # Cut first with room to spare, so that a long line is not searched whole; then cut what is kept.
            "raw": _clean(_unescaped(line[: 2 * _RAW_SHOWN]), key)[0][:_RAW_SHOWN],
            "quarantined_at": now,
        }
        for number, reason, line in refused
    ]
    schema = pa.schema(
        [("id", pa.string()), ("source_file", pa.string()), ("line_number", pa.int64())]
        + [(name, pa.string()) for name in ("reason", "detail", "raw")]
        + [("quarantined_at", pa.timestamp("us"))]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "quarantine.parquet")
    return len(rows)


def discard(staged: Staged) -> None:
    """Remove the landing folder of a merged file."""
    shutil.rmtree(staged.folder, ignore_errors=True)
