"""Train tonight's challenger in its own process, and store what it logged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from prefect import flow, task

from alignment import errors
from alignment.config import load_settings
from alignment.errors import AlignError, InputError, NoSpace, TrainingError
from alignment.ids import content_id
from alignment.models.chat import Progress
from alignment.models.identity import folder_id
from alignment.pairs import load_pairs
from alignment.store import append, session
from alignment.train import TrainJob, read_result, write_job
from alignment.train.job import METRICS, finished
from flows.checks import check_training, consent_of
from flows.night import now, only_night
from flows.policy import base_path
from flows.secret import without_secret
from flows.show import progress, say
from flows.stopping import saves

_LOG_TAIL = 2000
_SERVED = ("MULTI_GPU", "MULTI_CPU", "NO", "FSDP")
_BARS = {"reference": "reference log-probs", "step": "train"}


@task
def fit(night_id: str) -> str:
    """Check the night's pairs and train on them, or find the finished run; return the run's folder."""
    settings = load_settings()
    base = base_path(settings)
    base_id = folder_id(base)
    job = write_job(
        settings.home / "training",
        base,
        base_id,
        settings.home / "reference" / f"{base_id[:16]}.parquet",
        load_pairs(settings.home, night_id),
        settings.train,
    )
    if not finished(job.folder):
        check_training(settings, night_id, job)
        _run(job)
    return str(job.folder)


def command(job: TrainJob) -> list[str]:
    """Return the command that starts the training process, or with [train] accelerate_config a launcher of several.

    Raises:
        InputError: the configuration file does not exist, or asks for something unsupported.
    """
    run = ["-m", "alignment.train", str(job.folder / "run.json"), "--parent", str(os.getpid())]
    if not (config := job.settings.accelerate_config):
        return [sys.executable, *run]
    check_launcher(config)
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, *run]


def environment() -> dict[str, str]:
    """Return the environment of the training process: no secrets, and no imports from its working folder."""
    return {**without_secret(os.environ), "PYTHONSAFEPATH": "1"}


def check_launcher(config: str) -> None:
    """Refuse an unsupported launcher; the training process checks the FSDP options.

    Raises:
        InputError: the launcher is unsupported, the file does not exist, or it is no configuration.
    """
    if not Path(config).is_file():
        raise InputError(f"[train] accelerate_config = {config!r} is no file; write one with 'accelerate config --config_file {config}'")
    try:
        found = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        kind = found.get("distributed_type") or "NO"  # an unquoted NO is YAML's word for false
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise InputError(f"[train] accelerate_config = {config!r} cannot be read: {error}; write it with 'accelerate config'") from error
    if kind not in _SERVED:
        raise InputError(
            f"distributed_type: {kind!r} in [train] accelerate_config = {config!r} is not served; set it to {', '.join(_SERVED)}, "
            f"or write another with 'accelerate config --config_file {config}'. Where one device is too small, take FSDP "
            "or set [train] method = 'qlora'"
        )


def _run(job: TrainJob) -> None:
    """Run the training process, show its steps as a bar, and append its stderr to `train.log`.

    Raises:
        AlignError: the training process's own, or `NoSpace` or `TrainingError` for unexpected failures.
    """
    log = job.folder / "train.log"
    with log.open("a", encoding="utf-8") as out:
        print(f"-- {now():%Y-%m-%d %H:%M:%S} --", file=out, flush=True)
        before = out.tell()
        with (
            subprocess.Popen(
                command(job), stdout=subprocess.PIPE, stderr=out, text=True, start_new_session=True, env=environment()
            ) as process,
            saves(process),
        ):
            failed = _followed(process)
    if process.returncode != 0:
        raise failed or _unexpected(job, log, log.read_bytes()[before:], process.returncode)


def _followed(process: subprocess.Popen[str]) -> AlignError | None:
    """Show a training process's events until it ends; if this process must stop, stop the training process too and wait for it."""
    try:
        return _follow(process.stdout or ())
    except BaseException:
        # Ctrl-C reaches only this process: the child, or all children of a launcher, save a checkpoint and exit.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        # It must not block on a reader of its events.
        if process.stdout:
            process.stdout.close()
        process.wait()
        raise


def _unexpected(job: TrainJob, log: Path, written: bytes, code: int) -> AlignError:
    """Return the error of a training process that ended without naming one, based on the end of its stderr."""
    tail = written.decode(errors="replace")[-_LOG_TAIL:].strip()
    if "No space left" in tail:
        return NoSpace(f"the disk of {str(job.folder)!r} is full; free some space and run the same command again")
    last = tail.splitlines()[-1] if tail else f"exit status {code}"
    return TrainingError(f"training stopped: {last}. The whole log is in {str(log)!r}; run the same command again to resume")


def _follow(lines: Iterable[str]) -> AlignError | None:
    """Show a training process's events (`alignment.train.events`): progress as bars, one at a time, and messages.

    Returns the error that ended it, if it names one.
    """
    failed = None
    with ExitStack() as shown:
        bars: dict[str, Progress] = {}
        for line in lines:
            row = _row(line)
            if "said" in row:
                say(row["said"])
            if "failed" in row:
                failed = getattr(errors, row["failed"])(row["words"])
            for name, title in _BARS.items():
                if name in row:
                    if name not in bars:
                        shown.close()
                        bars[name] = shown.enter_context(progress(title))
                    bars[name](row[name], row["of"])
    return failed


def _row(line: str) -> dict[str, Any]:
    """Return a line of JSON as a mapping; an empty one for other output of libraries."""
    with suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict):
            return row
    return {}


@task
def record(night_id: str, folder: str) -> dict[str, Any]:
    """Store a finished run's summary and metrics; return the summary."""
    settings = load_settings()
    result = read_result(Path(folder))
    consent = consent_of(settings, Path(folder))
    summary = {
        **{name: value for name, value in asdict(result).items() if name not in ("run_id", "adapter")},
        "pairs_given": consent.pairs,
        "without_consent": consent.without,
    }
    run = {
        "id": content_id(night_id, result.run_id),
        "night_id": night_id,
        "base": folder_id(base_path(settings)),
        "release_id": None,
        "config": settings.train.model_dump(),
        "summary": summary,
        "seconds": result.seconds,
        "finished_at": now(),
    }
    metrics = [{"run_id": result.run_id, **one} for one in _metrics(Path(folder) / METRICS)]
    with session(settings.home, write=True) as connection:
        append(connection, "training_runs", [run])
        append(connection, "training_metrics", metrics, key=("run_id", "step", "name"))
    return summary


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Return a run's logged metrics, one row per value. A resumed run repeats steps after its checkpoint: the last value counts."""
    values = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        # A line may be empty, or cut off by a full disk; the run logged its step again.
        row = _row(line)
        for name, value in row.items():
            if name not in ("step", "of") and isinstance(value, int | float):
                values[row["step"], name] = float(value)
    return [{"step": step, "name": name, "value": value} for (step, name), value in values.items()]


@flow(name="train")
def train(night_id: str) -> dict[str, Any]:
    """Train the challenger of a night; return its summary and the run's folder."""
    with only_night(load_settings()):
        folder = fit(night_id)
        return {**record(night_id, folder), "folder": folder}
