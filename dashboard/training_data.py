"""The data of the Training page: runs and their logged steps from the store, and the run in progress from its folder.

Effects: reads the store and the training folders of the configured state folder.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from alignment.ids import content_id
from dashboard import data
from dashboard.data import Row

POINTS = 300
_PATIENCE = 180.0
_LONGEST = 16_000_000


class Live(NamedTuple):
    """A run without a result: its rows so far, and the seconds since its last sign of life; `stopped` if that is too long."""

    run_id: str
    rows: list[Row]
    step: int
    of: int
    pairs_per_second: float | None
    seconds_left: float | None
    silent: float
    stopped: bool


def runs(limit: int = 60, *, night: str | None = None) -> list[Row]:
    """Return the last run of each night, newest first, `night`'s among them.

    `summary` and `config` are mappings, `run_id` None if no step was logged.
    """
    logged = [row["run_id"] for row in data.read("training_logged")]
    found = data.read("training_runs", limit=limit, night=night)
    # A night's run is stored under the content address of night and run.
    names = {content_id(row["night_id"], run): run for row in found for run in logged}
    return [
        {**row, "summary": data.parsed(row["summary"]), "config": data.parsed(row["config"]), "run_id": names.get(row["id"])}
        for row in found
    ]


def metrics(run_id: str) -> dict[str, list[Row]]:
    """Return a run's logged values by metric, at most `POINTS` rows each, in step order."""
    found: dict[str, list[Row]] = {}
    for row in data.read("training_metrics", run=run_id, points=POINTS):
        found.setdefault(row["name"], []).append(row)
    return found


def left_behind(run_id: str) -> Row:
    """Return facts that only a run's folder holds: the name of its `base`, and how many `starts` it took; None if the folder is gone."""
    folder = data.settings().home / "training" / run_id
    rows = logged(folder / "metrics.jsonl")
    return {
        "base": Path(str(_json(folder / "run.json").get("base") or "")).name or None,
        # The first step that a process logs has no speed yet.
        "starts": sum("loss" in row and "pairs_per_second" not in row for row in rows) or None,
    }


def live(now: float | None = None) -> Live | None:
    """Return the newest run if it has no result yet."""
    folders = list((data.settings().home / "training").glob("*/run.json"))
    newest = max(folders, key=_touched, default=None)
    if newest is None or (newest.parent / "result.json").exists():
        return None
    rows = logged(newest.parent / "metrics.jsonl")
    last = rows[-1] if rows else {}
    step, of, left = int(last.get("step", 0)), int(last.get("of", 0)), last.get("seconds_left")
    silent = max((time.time() if now is None else now) - _touched(newest), 0.0)
    one_step = (left or 0.0) / max(of - step, 1)
    # Before the first step the reference's log-probs are computed, without any log line for a while.
    patience = max(_PATIENCE, 10 * one_step) if rows else 10 * _PATIENCE
    return Live(newest.parent.name, rows, step, of, last.get("pairs_per_second"), left, silent, silent > patience)


def logged(path: Path) -> list[Row]:
    """Return the rows of a run's log, without a line that is still being written."""
    try:
        if path.stat().st_size > _LONGEST:
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def by_metric(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of a log in the form of `metrics`; of a repeated step, the last value.

    >>> by_metric([{"step": 1, "of": 2, "loss": 3.0}, {"step": 1, "of": 2, "loss": 2.5}])
    {'loss': [{'step': 1, 'value': 2.5, 'last': 2.5}]}
    """
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "of") and isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(name, {})[row["step"]] = float(value)
    return {
        name: [{"step": step, "value": value, "last": value} for step, value in sorted(steps.items())][
            :: max(1, math.ceil(len(steps) / POINTS))
        ]
        for name, steps in values.items()
    }


def _touched(run: Path) -> float:
    with suppress(OSError):
        return max(path.stat().st_mtime for path in (run, run.parent / "metrics.jsonl") if path.exists())
    return 0.0


def _json(path: Path) -> dict[str, Any]:
    try:
        found = data.parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
