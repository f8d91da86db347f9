"""Check the store after ingestion was killed: nothing lost, nothing twice.

Each run reads a growing folder of large and small logs in small blocks, and is killed with SIGKILL at a random moment. A last run may
finish, and the store is compared with that of an undisturbed ingestion.

Effects: forks processes and kills them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from bench.ingest import lines

BLOCK_ROWS, SMALL_FILES = 400, 20


class Kills(NamedTuple):
    """How many runs were killed while reading, and how the stores compare; `lost` and `twice` count exchanges."""

    runs: int
    killed_midway: int
    records: int
    lost: int
    twice: int
    unaccounted: int


def _read(home: Path, folder: Path) -> None:
    from alignment.ingest import make_source, unread
    from alignment.ingest.landing import is_small
    from alignment.store import migrate
    from flows.read_files import read_file, read_small_files

    sys.modules["alignment.ingest.lines"].BLOCK_ROWS = BLOCK_ROWS  # type: ignore[attr-defined]
    sys.modules["alignment.ingest.landing"]._TOGETHER = SMALL_FILES // 4  # type: ignore[attr-defined]
    os.environ.update(ALIGN_HOME=str(home), ALIGN_INGEST__MAX_QUARANTINED="1")

    migrate(home)
    source = make_source("logs", [f"{folder}/*.jsonl"], "gateway", {})
    wanted = unread(home, "logs", source.find())
    read_small_files.fn(source, [one for one in wanted if is_small(one)])
    for log_file in wanted:
        if not is_small(log_file):
            read_file.fn(source, log_file)


def _fork(home: Path, folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        _read(home, folder)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def _run(home: Path, folder: Path, seconds: float | None) -> tuple[bool, float]:
    """Return whether the run was killed, and its duration."""
    started = time.perf_counter()
    child = _fork(home, folder)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a run failed by itself")
    return os.WIFSIGNALED(status), time.perf_counter() - started


def run(folder: Path, runs: int, *, rows: int = 4000, seed: int = 0) -> Kills:
    """Kill `runs` ingestion runs over logs in `folder` and compare the stores."""
    import data_checks.run
    import flows.ingest  # noqa: F401 - loaded once, for all children

    data_checks.run._context()
    draw = random.Random(seed)
    logs, home, calm = folder / "logs", folder / "home", folder / "calm"
    for one in (logs, home, calm):
        one.mkdir(parents=True)
    _grow(logs, rows, 0)
    # The duration of a run determines when to kill.
    _, whole = _run(calm, logs, None)
    killed = 0
    for number in range(runs):
        if number % 3 == 2:
            _grow(logs, rows, number)
        died, _ = _run(home, logs, draw.uniform(0.02, whole))
        killed += died
    _run(home, logs, None)
    shutil.rmtree(calm)
    calm.mkdir()
    shutil.copy(home / "redaction.key", calm)
    _run(calm, logs, None)
    return _compare(home, calm, runs, killed)


def _grow(logs: Path, rows: int, number: int) -> None:
    """Append to an existing log, and write another log and small logs of one line each."""
    for name, more in (("a.jsonl", rows // 2), (f"b{number}.jsonl", rows // 2)):
        path = logs / name
        with path.open("a", encoding="utf-8") as out:
            out.writelines(f"{line}\n" for line in lines(more, seed=number * 10 + len(name)))
        os.utime(path, (1.7e9 + number, 1.7e9 + number))
    for place, line in zip(range(SMALL_FILES), lines(SMALL_FILES, seed=number * 10 + 7), strict=False):
        path = logs / f"s{number}-{place}.jsonl"
        path.write_text(f"{line}\n", encoding="utf-8")
        os.utime(path, (1.7e9, 1.7e9))


def _compare(home: Path, calm: Path, runs: int, killed: int) -> Kills:
    from alignment.store import query

    def ids(where: Path, table: str) -> list[str]:
        return [str(row["id"]) for row in query(where, f"SELECT id FROM {table}")]

    lost = twice = 0
    for table in ("interactions", "signals", "quarantine"):
        mine, right = ids(home, table), ids(calm, table)
        # Compare counts: a quarantined line's id contains its file's, which depends on when the file was found.
        lost += len(right) - len(mine) if table == "quarantine" else len(set(right) - set(mine))
        twice += len(mine) - len(set(mine))
    [sums] = query(
        home,
        "SELECT sum(rows_read)::BIGINT AS read, sum(rows_stored + rows_duplicate + rows_quarantined + rows_skipped)::BIGINT AS known, "
        "sum(rows_stored)::BIGINT AS stored, (SELECT count(*) FROM interactions) AS there FROM source_files",
    )
    [calm_sums] = query(calm, "SELECT sum(rows_read)::BIGINT AS read FROM source_files")
    wrong = abs(sums["read"] - sums["known"]) + abs(sums["stored"] - sums["there"]) + abs(sums["read"] - calm_sums["read"])
    return Kills(runs, killed, sums["read"], abs(lost), twice, wrong)
