"""The files that a training process reads and writes; imports no model library.

Effects: reads and writes a run folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignment.errors import InputError, TrainingError
from alignment.ids import content_id, short
from alignment.models.folder import trained
from alignment.records import Pair, TrainResult
from alignment.sections import Train

JOB, PAIRS, RESULT, METRICS = "run.json", "pairs.jsonl", "result.json", "metrics.jsonl"
_NAMED = 5
CUTS = 2
"""Version of the way answers are cut (`tokens`): raise it with every change, so that no run resumes with other tokens."""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training run. `run_id` is the content address of everything that shapes its result."""

    run_id: str
    folder: Path
    base: Path
    base_id: str
    reference_cache: Path
    settings: Train


def job_id(base_id: str, pairs: Sequence[Pair], settings: Train) -> str:
    """Return the content address of a run, from the way answers are cut, base weights, pairs with their splits, and settings."""
    return short(content_id(CUTS, base_id, sorted((pair.id, pair.split) for pair in pairs), settings.model_dump()))


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Refuse untrainable pairs before any compute.

    Raises:
        InputError: there is no training pair; see also `check_answers`.
    """
    if not any(pair.split == "train" for pair in pairs):
        raise InputError(f"none of {len(pairs)} pairs is for training; add logs or lower [pairs] eval_share")
    check_answers((pair.id, pair.chosen, pair.rejected) for pair in pairs)


def check_answers(rows: Iterable[tuple[str, str, str]]) -> None:
    """Refuse pairs, given as (id, chosen, rejected), whose answers teach nothing.

    Raises:
        InputError: some have an empty answer, or chosen = rejected; the message names both problems.
    """
    answers = [(name, chosen.strip(), rejected.strip()) for name, chosen, rejected in rows]
    empty = [name for name, chosen, rejected in answers if not chosen or not rejected]
    equal = [name for name, chosen, rejected in answers if chosen == rejected and chosen]
    problems = []
    if empty:
        problems.append(f"{len(empty)} pairs have an empty answer: {named(empty)}; repair their source and run 'align curate' again")
    if equal:
        problems.append(f"{len(equal)} pairs have chosen = rejected: {named(equal)}; decide them in the review queue")
    if problems:
        raise InputError(". ".join(problems))


def named(ids: Sequence[str]) -> str:
    """Return the first ids as text for a message.

    >>> named(["a", "b", "c", "d", "e", "f", "g"])
    "'a', 'b', 'c', 'd', 'e' and 2 more"
    """
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(repr(short(name)) for name in ids[:_NAMED]) + more


def write_job(folder: Path, base: Path, base_id: str, reference_cache: Path, pairs: Sequence[Pair], settings: Train) -> TrainJob:
    """Write the inputs of a run below `folder`; rewriting the same run changes nothing.

    Raises:
        InputError: see `check_pairs`.
    """
    check_pairs(pairs)
    run_id = job_id(base_id, pairs, settings)
    job = TrainJob(run_id, folder / run_id, base, base_id, reference_cache, settings)
    job.folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {
                "id": pair.id,
                "split": pair.split,
                "side": pair.side,
                "messages": [dict(message) for message in pair.messages],
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "judge_margin": pair.judge_margin,
            },
            ensure_ascii=False,
        )
        for pair in sorted(pairs, key=lambda pair: pair.id)
    ]
    _write(job.folder / PAIRS, "\n".join(lines) + "\n")
    plain = {**asdict(job), "settings": settings.model_dump()}
    _write(job.folder / JOB, json.dumps(plain, default=str, indent=1))
    return job


def _write(path: Path, text: str) -> None:
    scratch = path.with_suffix(path.suffix + ".part")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def read_job(path: Path) -> TrainJob:
    """Read a run file.

    Raises:
        InputError: it is missing or is not a run file.
    """
    try:
        raw: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return TrainJob(
            raw["run_id"],
            Path(raw["folder"]),
            Path(raw["base"]),
            raw["base_id"],
            Path(raw["reference_cache"]),
            Train.model_validate(raw["settings"]),
        )
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not a training run: {error}; 'align train' writes one") from error


def read_pairs(job: TrainJob) -> list[dict[str, Any]]:
    """Return the run's pairs as they were written."""
    # Not splitlines: chat text may hold other line separators, such as U+2028.
    return [json.loads(line) for line in (job.folder / PAIRS).read_text(encoding="utf-8").split("\n") if line]


def finished(folder: Path) -> bool:
    """Return whether the run in `folder` has a result."""
    return (folder / RESULT).exists()


def write_result(job: TrainJob, summary: Mapping[str, Any]) -> None:
    """Write the result as the last file, atomically."""
    _write(job.folder / RESULT, json.dumps(summary, indent=1))


def read_result(folder: Path) -> TrainResult:
    """Read the result of a finished run.

    Raises:
        TrainingError: there is no result.
    """
    try:
        raw = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"the training run {folder.name!r} has no result; see {str(folder / 'train.log')!r}") from None
    return TrainResult(
        run_id=folder.name,
        adapter=trained(folder),
        pairs=raw["pairs"],
        steps=raw["steps"],
        seconds=raw["seconds"],
        loss=raw["loss"],
        reward_margin=raw["reward_margin"],
        reward_accuracy=raw["reward_accuracy"],
        held_out=raw["held_out"],
        reference_computed=raw["reference_computed"],
        kl=raw.get("kl"),
        stopped_early=raw.get("stopped_early", False),
        kept_step=raw.get("kept_step"),
        fallback=raw.get("fallback"),
        measured_on=raw.get("measured_on"),
        strength=raw.get("strength"),
    )
