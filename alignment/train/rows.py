"""Turn the pairs of a run into rows of tokens; refuse or leave out pairs before any compute.

Effects: reads the run folder; reports what is left out.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from datasets import Dataset

from alignment.errors import InputError
from alignment.ids import short
from alignment.train.events import say
from alignment.train.job import TrainJob, check_answers, named, read_pairs
from alignment.train.tokens import REFUSES, tokenise

_LEAST_MARGIN = 0.05


def read_rows(job: TrainJob, tokenizer: Any) -> dict[str, Dataset]:
    """Return the run's pairs as `train` and `eval`: prompt_ids, chosen_ids, rejected_ids and, with [train] weigh_pairs, weight.

    Raises:
        InputError: a pair cannot be trained on or is too long (with [train] long_pairs = "stop"), or none is left.
    """
    pairs, limit = read_pairs(job), job.settings.max_tokens
    check_answers((pair["id"], pair["chosen"], pair["rejected"]) for pair in pairs)
    split: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
    long: list[str] = []
    for pair in pairs:
        ids = tokenise(pair, tokenizer, max_completion_tokens=job.settings.max_completion_tokens)
        if len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"])) <= limit:
            split[pair["split"]].append({**ids, "margin": pair.get("judge_margin", 1.0)})
        else:
            long.append(pair["id"])
    if long:
        _too_long(long, job)
    if not split["train"]:
        raise InputError(f"no training pair fits [train] max_tokens = {limit}; raise it")
    for rows in split.values():
        weigh(rows, by_margin=job.settings.weigh_pairs)
    empty: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    return {name: Dataset.from_list(rows) if rows else Dataset.from_dict(empty) for name, rows in split.items()}


def refusals(job: TrainJob, tokenizer: Any) -> list[dict[str, Any]]:
    """Return the requests of held-out pairs, ordered by id: prompt_ids, `harm`, and the commonest refusal as chosen_ids.

    All rows have the same refusal, so that requests are compared and not wordings.
    """
    found, said = [], Counter[tuple[int, ...]]()
    for pair in sorted(read_pairs(job), key=lambda pair: str(pair["id"])):
        if pair["split"] == "eval" and pair["side"] in REFUSES:
            ids = tokenise(pair, tokenizer, max_completion_tokens=job.settings.max_completion_tokens)
            if len(ids["prompt_ids"]) + job.settings.max_completion_tokens <= job.settings.max_tokens:
                said[tuple(ids[f"{REFUSES[pair['side']]}_ids"])] += 1
                found.append({"prompt_ids": ids["prompt_ids"], "harm": pair["side"] == "harm"})
    [(refusal, _)] = said.most_common(1) or [((), 0)]
    return [{**row, "chosen_ids": list(refusal)} for row in found]


def _too_long(long: list[str], job: TrainJob) -> None:
    said = f"{len(long)} pairs are longer than [train] max_tokens = {job.settings.max_tokens}"
    if job.settings.long_pairs == "stop":
        raise InputError(f"{said}: {named(long)}; raise it, at most to the model's context, or set long_pairs = 'leave_out'")
    say(f"{said} and left out, first {short(long[0])!r}")


def weigh(rows: list[dict[str, Any]], *, by_margin: bool) -> None:
    """Turn each row's `margin` into a `weight` with mean 1; without `by_margin`, drop the margin."""
    margins = [max(float(row.pop("margin")), _LEAST_MARGIN) for row in rows]
    if by_margin and margins:
        mean = sum(margins) / len(margins)
        for row, margin in zip(rows, margins, strict=True):
            row["weight"] = margin / mean
