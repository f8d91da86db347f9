"""Measure the store under load: a writer, four readers and a reviewer in separate processes, while a large log is ingested.

Reports the waits of each (median, 99th percentile and longest, in milliseconds) and what was lost.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.ingest import lines

READERS, PAUSE, RATE = 4, 0.25, 20
_READ = "SELECT count(*) AS n, count(*) FILTER (consent) AS c, max(created_at) AS newest FROM interactions"


def _write(home: Path, until: float, results: Any) -> None:
    from alignment.store import append, session

    waits: list[float] = []
    number = 0
    while time.time() < until:
        started = time.perf_counter()
        row = {
            "id": f"w{os.getpid()}-{number}",
            "interaction_id": "x",
            "kind": "thumbs",
            "value": "up",
            "recorded_at": datetime.now(UTC).replace(tzinfo=None),
        }
        with session(home, write=True) as connection:
            append(connection, "signals", [row])
        number += 1
        waits.append(time.perf_counter() - started)
        time.sleep(max(0.0, 1 / RATE - waits[-1]))
    results.put(("writer", waits))


def _review(home: Path, until: float, results: Any) -> None:
    os.environ["ALIGN_HOME"] = str(home)
    from dashboard.review_data import claim_item, record_verdict

    waits: list[float] = []
    while time.time() < until:
        started = time.perf_counter()
        token = f"showing-{os.getpid()}-{len(waits)}"
        claim_item(token, "bench", kind=None, item=None)
        if not record_verdict(token, "agree", reviewer="bench").stored:
            break
        waits.append(time.perf_counter() - started)
        time.sleep(1)
    results.put(("reviewer", waits))


def _read(home: Path, until: float, results: Any) -> None:
    from alignment.store import query

    waits: list[float] = []
    while time.time() < until:
        started = time.perf_counter()
        query(home, _READ)
        waits.append(time.perf_counter() - started)
        time.sleep(PAUSE)
    results.put(("reader", waits))


def _ingest(home: Path, log: Path, results: Any) -> None:
    os.environ["ALIGN_HOME"] = str(home)
    from flows.environment import prepare

    prepare(home)
    from alignment.ingest import make_source
    from flows.read_files import read_file

    source = make_source("logs", [str(log)], "gateway", {})
    started = time.perf_counter()
    stored = sum(read_file.fn(source, log_file).batch.stored for log_file in source.find())
    results.put(("ingest", [time.perf_counter() - started, stored]))


def run(seconds: float, rows: int) -> list[dict[str, Any]]:
    """Return one row per kind of process, first without and then with the ingestion of `rows` lines."""
    from alignment.store import append, migrate, session

    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        migrate(home)
        with session(home, write=True) as connection:
            append(connection, "review_items", [{"id": f"item-{number}"} for number in range(int(seconds) + 60)])
        log = Path(scratch) / "logs.jsonl"
        log.write_text("".join(f"{line}\n" for line in lines(rows)), encoding="utf-8")
        return [*_together(home, seconds, None, "alone"), *_together(home, seconds, log, f"while {rows:,} lines are read")]


def _together(home: Path, seconds: float, log: Path | None, name: str) -> list[dict[str, Any]]:
    from alignment.store import query

    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    [before] = query(home, "SELECT (SELECT count(*) FROM signals WHERE interaction_id = 'x') AS w, (SELECT count(*) FROM verdicts) AS v")
    until = time.time() + seconds + 5
    jobs: list[tuple[Any, tuple[Any, ...]]] = [(_write, (home, until)), (_review, (home, until)), *[(_read, (home, until))] * READERS]
    if log:
        jobs.append((_ingest, (home, log)))
    running = [spawn.Process(target=job, args=(*arguments, results)) for job, arguments in jobs]
    for one in running:
        one.start()
    found = [results.get(timeout=seconds * 10 + 300) for _ in running]
    for one in running:
        one.join()
    waits: dict[str, list[float]] = {}
    for kind, values in found:
        waits.setdefault(kind, []).extend(values)
    ingested = waits.pop("ingest", None)
    [after] = query(home, "SELECT (SELECT count(*) FROM signals WHERE interaction_id = 'x') AS w, (SELECT count(*) FROM verdicts) AS v")
    lost = {
        "writer": len(waits["writer"]) - (after["w"] - before["w"]),
        "reviewer": len(waits["reviewer"]) - (after["v"] - before["v"]),
    }
    rows = [
        {
            "run": name,
            "who": kind,
            "transactions": len(values),
            "p50_ms": 1000 * statistics.median(values),
            "p99_ms": 1000 * statistics.quantiles(values, n=100)[98],
            "longest_ms": 1000 * max(values),
            "lost": lost.get(kind, 0),
        }
        for kind, values in sorted(waits.items())
    ]
    if ingested:
        [held] = query(home, "SELECT count(*) AS n FROM interactions")
        rows.append(
            {
                "run": name,
                "who": "ingestion",
                "transactions": int(ingested[1]),
                "p50_ms": 1000 * ingested[0],
                "p99_ms": 1000 * ingested[0],
                "longest_ms": 1000 * ingested[0],
                "lost": int(ingested[1]) - held["n"],
            }
        )
    return rows
