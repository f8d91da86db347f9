"""Check what a stopped night leaves: no running process, at most one lost training step, and the same end as an undisturbed night.

Nights of a tiny random model over the sample traffic are stopped at random moments, in turn by SIGTERM and SIGKILL to the process, by
Ctrl-C and by SIGTERM to its process group. Each run resumes the stopped one; a finished night is compared with the undisturbed night, and
the next night begins in a new state folder. Running processes are found by their environment, in /proc.

Effects: starts processes and stops them. Linux only.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from alignment.ids import file_sha256
from alignment.records import STAGES

WAYS: dict[str, Callable[[int], None]] = {
    "SIGTERM": lambda pid: os.kill(pid, signal.SIGTERM),
    "SIGKILL": lambda pid: os.kill(pid, signal.SIGKILL),
    "Ctrl-C": lambda pid: os.killpg(pid, signal.SIGINT),
    "SIGTERM to the group": lambda pid: os.killpg(pid, signal.SIGTERM),
}
MOST_SECONDS = 20.0
# The checkpoint interval is the default.
_CONFIG = """
[ingest]
logs = ["logs.jsonl"]
[model]
path = "model"
[candidates]
harm_budget = 16
helpful_budget = 16
max_new_tokens = 8
[labels]
min_margin = 0.05
[train]
epochs = {epochs}
batch_size = 2
lora_rank = 4
max_completion_tokens = 24
max_tokens = 1500
# So little that the answers stay the random ones: half-learnt refusals are in doubt, and a gate with many of them has no evidence.
learning_rate = 1e-6
[seeds]
pairs = 40
[gate]
max_new_tokens = 8
max_prompts = 60
unsafe = "short answers make a benchmark quick"
[pairs]
eval_share = 0.2
"""


class Stops(NamedTuple):
    """Results of stopping nights in one way; `lost_steps` is the most that one night lost, `at` counts the stages at the stop."""

    way: str
    stops: int
    at: str
    median_s: float
    longest_s: float
    lost_steps: int
    left_running: int


class Found(NamedTuple):
    """All stops, how many nights then finished, and how many of these ended differently from the undisturbed night."""

    stops: list[Stops]
    nights: int
    differing: int
    steps: int


class _Stop(NamedTuple):
    way: str
    stage: str
    seconds: float
    lost: int
    left: int


def prepare(folder: Path, make_model: Callable[[Path], Any], *, lines: int = 260, epochs: float = 12) -> Path:
    """Write a model, settings and a log to `folder`, like a user's; return it."""
    folder.mkdir(parents=True)
    make_model(folder / "model")
    (folder / "align.toml").write_text(_CONFIG.format(epochs=epochs), encoding="utf-8")
    traffic = Path(str(files("alignment.samples") / "traffic.jsonl.gz"))
    chosen = random.Random(1).sample(gzip.decompress(traffic.read_bytes()).decode().splitlines(), lines)
    (folder / "logs.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return folder


def start(folder: Path, home: Path) -> subprocess.Popen[bytes]:
    """Start a night; append its output to a file beside its state folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ALIGN_", "PREFECT_"))}
    with home.with_suffix(".output").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "nightly", "--json"],
            cwd=folder,
            env={**clean, "ALIGN_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def running(home: Path) -> list[int]:
    """Return the processes of a state folder, by their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"={home}".encode() in (process / "environ").read_bytes() and process.name != str(os.getpid()):
                found.append(int(process.name))
    return found


def stop(folder: Path, home: Path, way: str, after: float) -> _Stop | None:
    """Start a night and stop it after `after` seconds; None if it ended before that."""
    process = start(folder, home)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        pass
    else:
        _refuse_failed(process, home)
        return None
    reached = _stage(home)
    began = time.perf_counter()
    WAYS[way](process.pid)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2 * MOST_SECONDS)
    while (left := running(home)) and time.perf_counter() - began < MOST_SECONDS:
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return _Stop(way, reached, seconds, lost_steps(home), len(left))


def lost_steps(home: Path) -> int:
    """Return how many logged steps of the newest unfinished training run are in no checkpoint."""
    lost = 0
    for metrics in (home / "training").glob("*/metrics.jsonl"):
        if (metrics.parent / "result.json").exists():
            continue
        steps = [0]
        for line in metrics.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                steps.append(json.loads(line)["step"])
        saved = [int(state.parent.name.split("-")[1]) for state in metrics.parent.glob("checkpoints/checkpoint-*/trainer_state.json")]
        lost = max(lost, steps[-1] - max(saved, default=0))
    return lost


def _stage(home: Path) -> str:
    lines = [line.strip() for line in home.with_suffix(".output").read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line in STAGES), "start")


def _refuse_failed(process: subprocess.Popen[bytes], home: Path) -> None:
    if process.returncode:
        raise SystemExit(f"a night failed by itself: {home.with_suffix('.output').read_text(errors='replace')[-3000:]}")


def ended(home: Path) -> dict[str, Any]:
    """Return the results of a finished night: its id, decision, pairs and adapter."""
    from alignment.store import query

    [night] = query(home, "SELECT night_id, summary ->> 'decision' AS decision FROM night_events WHERE event = 'finished'")
    pairs = query(
        home, "SELECT pairs.id, chosen, rejected, pair_sets.split FROM pairs JOIN pair_sets ON pair_id = pairs.id ORDER BY pairs.id"
    )
    [result] = (home / "training").glob("*/result.json")
    adapter = result.parent / "adapter" / "adapter_model.safetensors"
    return {**night, "pairs": pairs, "adapter": file_sha256(adapter), "steps": json.loads(result.read_text())["steps"]}


def run(folder: Path, runs: int, *, seed: int = 0) -> Found:
    """Stop `runs` nights in each way, in a folder from `prepare`, and compare those that finish."""
    # A shell's background job ignores Ctrl-C, and so would all its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    draw, calm = random.Random(seed), folder / "calm"
    began = time.perf_counter()
    process = start(folder, calm)
    process.wait()
    _refuse_failed(process, calm)
    whole, right = time.perf_counter() - began, ended(calm)
    due = [way for way in WAYS for _ in range(runs)]
    draw.shuffle(due)
    stops: list[_Stop] = []
    nights = differing = 0
    home = folder / "home"
    while due or home.exists():
        if not home.exists():
            home.mkdir(mode=0o700)
            # Placeholders of personal data differ between state folders unless these share a key.
            shutil.copy(calm / "redaction.key", home)
        found = stop(folder, home, due[-1] if due else "SIGKILL", draw.uniform(0.5, whole) if due else 100 * whole)
        if found:
            stops.append(found)
            due.pop()
            print(f"  {found.way} in {found.stage}: {found.seconds:.1f} s, {found.lost} steps lost, {found.left} left", file=sys.stderr)
            continue
        nights += 1
        differing += ended(home) != right
        shutil.rmtree(home)
    return Found([_summed(way, [one for one in stops if one.way == way]) for way in WAYS], nights, differing, right["steps"])


def _summed(way: str, stops: list[_Stop]) -> Stops:
    at = ", ".join(f"{name} {count}" for name in ("start", *STAGES) if (count := sum(one.stage == name for one in stops)))
    seconds = [one.seconds for one in stops]
    return Stops(
        way, len(stops), at, statistics.median(seconds), max(seconds), max(one.lost for one in stops), sum(one.left for one in stops)
    )
