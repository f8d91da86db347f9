"""Fit the heads: `python -m alignment.moderation.fit --data DIR` (or ALIGN_DATA_DIR). Deterministic; prints what it measured.

Takes minutes: MiniLM is tuned to requests and to refusals, for each fold and once for all.

Effects: writes `weights/heads.safetensors`, `weights/tuned.safetensors`, `weights/card.json` and `weights/card.md`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.models.embedder import Embedder
from alignment.moderation.corpora import (
    CATEGORIES,
    Answered,
    Request,
    composed,
    lengthened,
    own_answers,
    own_requests,
    public_answers,
    public_requests,
)
from alignment.moderation.heads import TUNED, TUNED_TOKENS, WEIGHTS, category_input, harm_input, read_untuned, refusal_input, request_input
from alignment.moderation.measure import FOLDS, TUNED_FOLDS, by_source, figures, fit_linear, out_of_fold
from alignment.moderation.sheet import write_card
from alignment.moderation.tuning import Tuned, tune

Matrix = npt.NDArray[np.float32]

REQUEST_WEIGHT = {
    "own-harm": 3.0,
    "own-lookalike": 3.0,
    "own-contrast-harm": 3.0,
    "own-contrast-safe": 3.0,
    "own-ordinary": 2.0,
    "advbench": 0.3,
    "openai-moderation": 0.1,
}
REFUSAL_WEIGHT = {
    "own-handwritten": 3.0,
    "own-smollm2": 3.0,
    "own-lengthened": 1.5,
    "own-composed": 2.0,
    "rbr": 0.5,
    "gptfuzz-even": 0.2,
    "hh-even": 0.15,
}
HARM_WEIGHT = {"own-lengthened": 0.3, "own-handwritten": 3.0, "own-smollm2": 3.0, "rbr": 0.3, "gptfuzz-even": 0.6}
CATEGORY_WEIGHT = {"own-harm": 3.0, "own-lookalike": 3.0, "own-contrast-harm": 3.0, "own-contrast-safe": 3.0}
C = {"harmful_request": 3.0, "category": 1.0, "refusal": 1.0, "harmful_answer": 1.0}
BLEND_C = 1.0
# The blend decides where 0.5 lies, so it is fitted on people's labels alone: weak ones flatter the phrase counts they were made by.
BLENDED = {"own-harm", "own-lookalike", "own-contrast-harm", "own-contrast-safe", "own-ordinary", "own-handwritten", "own-smollm2"}
PASSES = {"harmful_request": 3, "refusal": 2}
# Of large sets of easy rows the tuning reads every n-th; the linear heads read all.
EVERY = {"advbench": 3, "openai-moderation": 3, "own-lengthened": 2, "own-composed": 2, "gptfuzz-even": 12, "hh-even": 8}


def main() -> int:
    """Fit every head, print the figures and write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("ALIGN_DATA_DIR")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    folder = Path(parser.parse_args().data)
    embedder = Embedder()
    answers = own_answers()
    answers += lengthened(answers) + composed(answers) + public_answers(folder)
    fitted = fit_all(own_requests() + public_requests(folder), answers, embedder=embedder)
    from safetensors.numpy import save_file

    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file(fitted.heads, WEIGHTS)
    save_file(fitted.changes, TUNED)
    write_card(fitted.report, embedder=embedder)
    for line in figures(fitted.report):
        _say(line)
    return 0


class Fitted(NamedTuple):
    """The tensors of all heads, those of the tuned encoders, and cross-validated figures by head and source."""

    heads: dict[str, Matrix]
    changes: dict[str, Matrix]
    report: dict[str, Any]


class Task(NamedTuple):
    """One head's rows: what it sees, labels (None: unknown), weights by source, and the texts that a tuned encoder reads, if any."""

    head: str
    columns: Matrix
    labels: Sequence[int | None]
    rows: Sequence[Request] | Sequence[Answered]
    weights: dict[str, float]
    texts: Sequence[str] = ()


def fit_all(requests: list[Request], answers: list[Answered], *, embedder: Embedder) -> Fitted:
    """Return all that ships, and how good it is on rows it has not seen."""
    asked = read_untuned([row.text for row in requests], [""] * len(requests), embedder=embedder)
    said = read_untuned([row.prompt for row in answers], [row.response for row in answers], embedder=embedder)
    themes = [CATEGORIES.index(row.category) if row.category else None for row in requests]
    texts, responses = [row.text for row in requests], [row.response.strip() for row in answers]
    tasks = (
        Task("harmful_request", request_input(asked), [row.harm for row in requests], requests, REQUEST_WEIGHT, texts),
        Task("category", category_input(asked), themes, requests, CATEGORY_WEIGHT),
        Task("refusal", refusal_input(said), [row.refusal for row in answers], answers, REFUSAL_WEIGHT, responses),
        Task("harmful_answer", harm_input(said), [row.harmful for row in answers], answers, HARM_WEIGHT),
    )
    fitted = Fitted({}, {}, {})
    for task in tasks:
        one = fit_task(task)
        fitted = Fitted(fitted.heads | one.heads, fitted.changes | one.changes, fitted.report | one.report)
    return fitted


def fit_task(task: Task) -> Fitted:
    """Return one head, with its tuned encoder and blend if it has texts, and its figures."""
    known = [row for row, label in enumerate(task.labels) if label is not None]
    truth = np.array([task.labels[row] for row in known])
    sources, groups = [task.rows[row].source for row in known], [task.rows[row].group for row in known]
    weight = np.array([task.weights.get(source, 1.0) for source in sources])
    columns, head, c = task.columns[known], task.head, C[task.head]
    kernel, bias = fit_linear(columns, truth, weight, c=c)
    heads = {f"{head}.0.weight": kernel, f"{head}.0.bias": bias}
    raw = out_of_fold(lambda seen, unseen: _linear(columns, truth, weight, seen, unseen, c), truth, groups, folds=FOLDS)
    if not task.texts:
        return Fitted(heads, {}, {head: by_source(raw, truth, sources)})
    texts, taught = [task.texts[row] for row in known], _taught(sources)
    learn = partial(_learn, task.head, texts, truth, weight, taught)
    tuned_raw = out_of_fold(lambda seen, unseen: learn(seen).score([texts[row] for row in unseen]), truth, groups, folds=TUNED_FOLDS)
    both = np.hstack([raw, tuned_raw])
    sure = np.array([source in BLENDED for source in sources])
    tuned, blend = learn(np.arange(len(truth))), fit_linear(both[sure], truth[sure], weight[sure], c=BLEND_C)
    heads |= {f"{head}_tuned.0.weight": tuned.kernel, f"{head}_tuned.0.bias": tuned.bias}
    heads |= {f"{head}_blend.0.weight": blend[0], f"{head}_blend.0.bias": blend[1]}
    changes = {f"{head}.{name}": tensor for name, tensor in tuned.changes.items()}
    return Fitted(heads, changes, {head: by_source(both @ blend[0] + blend[1], truth, sources)})


def _linear(columns: Matrix, truth: Any, weight: Any, seen: Any, unseen: Any, c: float) -> Matrix:
    kernel, bias = fit_linear(columns[seen], truth[seen], weight[seen], c=c)
    raw: Matrix = columns[unseen] @ kernel + bias
    return raw


def _taught(sources: Sequence[str]) -> Any:
    """Return which rows the tuning reads: of each source every n-th."""
    counts: dict[str, int] = {}
    taught = []
    for source in sources:
        counts[source] = counts.get(source, -1) + 1
        taught.append(counts[source] % EVERY.get(source, 1) == 0)
    return np.array(taught)


def _learn(head: str, texts: Sequence[str], truth: Any, weight: Any, taught: Any, seen: Any) -> Tuned:
    rows = [row for row in seen if taught[row]]
    return tune(
        [texts[row] for row in rows], truth[rows], weight[rows], passes=PASSES[head], embedder=Embedder(max_tokens=TUNED_TOKENS),
        say=lambda line: _say(f"{head:16} {len(rows)} texts  {line}"),
    )  # fmt: skip


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
