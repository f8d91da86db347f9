"""Measure ingestion speed against DuckDB's bare reader and a loop over lines, interleaved in the same run.

`align bench ingest` writes a log of chat lines (some broken, repeated or personal) and measures each way in a separate process:
`bare` (read_json with ignore_errors, then DISTINCT ON), `loop` (json.loads per line, then pandas), `plain` (normalise, dedupe,
quarantine), `whole` (with redaction and data checks) and `again` (the same file once more).
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

KEYS = "conversation_id, user_id, created_at, messages, response"
TEXT = (
    "please tell me how to write a short letter about my garden because the neighbours complain when it rains and nobody answers the "
    "phone could you explain why bread needs salt or what happens if the oven is too hot for an hour thanks I would rather not call them"
)
WORDS = TEXT.split()


def lines(rows: int, *, seed: int = 0) -> Iterator[str]:
    """Yield about `rows` log lines of 600 bytes: 2% repeated, 0.5% cut, 2% with personal data, 5% with a signal."""
    draw = random.Random(seed)
    for number in range(rows):
        prompt, answer = (" ".join(draw.choices(WORDS, k=draw.randint(20, 55))) for _ in range(2))
        if draw.random() < 0.01:
            prompt += f" write to user{number}@example.com"
        if draw.random() < 0.01:
            answer += f" or call +49 171 {draw.randint(1_000_000, 9_999_999)}"
        moment = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=number)
        row: dict[str, Any] = {
            "conversation_id": f"c{number // 2}",
            "session_id": f"s{number // 4}",
            "user_id": f"u{draw.randrange(50_000)}",
            "created_at": moment.isoformat(),
            "model": "my-chat-model",
            "messages": [{"role": "user", "content": prompt}],
            "response": answer,
        }
        if draw.random() < 0.05:
            row["signals"] = {"thumbs": draw.choice(("up", "down"))}
        line = json.dumps(row)
        if draw.random() < 0.005:
            line = line[: draw.randrange(1, len(line))]
        yield line
        if draw.random() < 0.02:
            yield line


def bare(log: Path, home: Path) -> int:
    """Read the file with DuckDB's JSON reader and drop duplicates."""
    columns = {name: "VARCHAR" for name in ("conversation_id", "session_id", "user_id", "model", "response")}
    columns |= {"created_at": "TIMESTAMP", "messages": "STRUCT(role VARCHAR, content VARCHAR)[]", "signals": "STRUCT(thumbs VARCHAR)"}
    connection = duckdb.connect(str(home / "bare.duckdb"))
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    shape = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
    connection.execute(
        f"CREATE TABLE interactions AS SELECT DISTINCT ON ({KEYS}) * FROM "
        f"read_json($log, format = 'newline_delimited', ignore_errors = true, columns = {{{shape}}})",
        {"log": str(log)},
    )
    [(stored,)] = connection.execute("SELECT count(*) FROM interactions").fetchall()
    connection.close()
    return int(stored)


def loop(log: Path, home: Path) -> int:
    """Read the file line by line, as a naive first version would."""
    import pandas as pd

    rows, seen = [], set()
    with log.open(encoding="utf-8") as handle:
        for line in handle:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            key = json.dumps([row[name] for name in KEYS.split(", ")])
            if key not in seen:
                seen.add(key)
                rows.append({**row, "messages": json.dumps(row["messages"]), "created_at": datetime.fromisoformat(row["created_at"])})
    frame = pd.DataFrame(rows)
    connection = duckdb.connect(str(home / "loop.duckdb"))
    connection.execute("CREATE TABLE interactions AS SELECT * FROM frame")
    connection.close()
    return len(frame)


def plain(log: Path, home: Path) -> int:
    """Normalise, dedupe and quarantine, without redaction and data checks."""
    flow = _flow()
    sys.modules["alignment.ingest.parse"].PREFILTER = r"[^\s\S]"  # type: ignore[attr-defined]
    flow.check_block = lambda *_: flow.CheckReport({}, [])
    return _read(log)


def whole(log: Path, home: Path) -> int:
    """Do everything that happens to a line before moderation."""
    return _read(log)


def _flow() -> Any:
    import flows.read_files

    return flows.read_files


def _read(log: Path) -> int:
    flow = _flow()
    from alignment.config import load_settings
    from alignment.ingest import make_source, unread
    from alignment.store import migrate

    home = load_settings().home
    migrate(home)
    source = make_source("logs", [str(log)], "gateway", {})
    return sum(flow.read_file.fn(source, log_file).batch.stored for log_file in unread(home, "logs", source.find()))


WAYS: dict[str, Callable[[Path, Path], int]] = {"bare": bare, "loop": loop, "plain": plain, "whole": whole, "again": whole}


def _child(way: str, log: Path, home: Path) -> None:
    if way not in ("bare", "loop"):
        from flows.environment import prepare

        prepare(home)
        _flow()
        import data_checks

        # A service has its libraries loaded: measure only the work.
        data_checks.run._context()
    started = time.perf_counter()
    stored = WAYS[way](log, home)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "stored": stored, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def _measure(way: str, log: Path, home: Path) -> dict[str, Any]:
    import os

    done = subprocess.run(
        [sys.executable, "-m", "bench.ingest", way, str(log), str(home)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "ALIGN_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(rows: int, repeat: int, folder: Path | None = None) -> list[dict[str, Any]]:
    """Return one row per way: median seconds, rows per second, the ratio to `bare`, rows stored and peak memory (GiB)."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        log = Path(scratch) / "logs.jsonl"
        with log.open("w", encoding="utf-8") as out:
            total = sum(out.write(line + "\n") > 0 for line in lines(rows))
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for round_number in range(repeat):
            for way in WAYS:
                home = Path(scratch) / f"{'whole' if way == 'again' else way}-{round_number}"
                home.mkdir(exist_ok=True)
                found[way].append(_measure(way, log, home))
        size = log.stat().st_size / total
    median = {way: statistics.median(one["seconds"] for one in results) for way, results in found.items()}
    return [
        {
            "way": way,
            "seconds": median[way],
            "rows_per_second": round(total / median[way]),
            "times_bare": median["bare"] / median[way],
            "times_loop": median["loop"] / median[way],
            "stored": results[0]["stored"],
            "peak_gib": max(one["peak_gib"] for one in results),
            "bytes_per_row": size,
        }
        for way, results in found.items()
    ]


if __name__ == "__main__":
    _child(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
