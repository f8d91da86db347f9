"""Fit the heads: `python -m alignment.moderation.fit --data DIR` (or ALIGN_DATA_DIR). Deterministic; prints its figures.

Takes half an hour on one core: MiniLM is tuned to requests and to exchanges, once per fold and once on all data.

Effects: writes `weights/heads.safetensors`, `weights/tuned.safetensors`, `weights/requests.safetensors`, `weights/card.json`
and `weights/card.md`.
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
from alignment.moderation.cross_validate import FOLDS, TUNED_FOLDS, by_source, figures, fit_linear, out_of_fold
from alignment.moderation.heads import (
    TUNED,
    TUNED_TOKENS,
    WEIGHTS,
    category_input,
    exchange,
    harm_input,
    read_untuned,
    refusal_input,
    request_input,
)
from alignment.moderation.model_card import write_card
from alignment.moderation.neighbours import write_vectors
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
    "hh-labelled": 2.0,
    "hh-even": 0.4,
}
HARM_WEIGHT = {
    "own-handwritten": 3.0,
    "own-smollm2": 3.0,
    "own-yielding": 1.0,
    "own-lengthened": 0.3,
    "rbr": 0.3,
    "gptfuzz-even": 0.7,
}
CATEGORY_WEIGHT = {"own-harm": 3.0, "own-lookalike": 3.0, "own-contrast-harm": 3.0, "own-contrast-safe": 3.0}
C = {"harmful_request": 3.0, "category": 1.0, "refusal": 1.0, "harmful_answer": 1.0}
BLEND_C = 1.0
# The blend decides which answers score 0.5, so it is fitted on human labels: weak labels flatter the phrase counts that produced them.
# HH's weak labels are included for refusals because without ordinary conversation 0.5 is too low there; they keep the scores' balance.
BLENDED = {
    "own-harm", "own-lookalike", "own-contrast-harm", "own-contrast-safe", "own-ordinary", "own-handwritten", "own-smollm2", "hh-labelled",
}  # fmt: skip
ALSO_BLENDED = {"refusal": {"hh-even"}, "harmful_answer": {"gptfuzz-even"}}
PASSES = {"request": 3, "exchange": 3}
# Tuning reads every n-th row of large sets of easy rows; the linear heads read all.
EVERY = {"advbench": 3, "openai-moderation": 3, "own-lengthened": 3, "own-composed": 3, "gptfuzz-even": 5, "hh-even": 4}


def main() -> int:
    """Fit every head, print the figures, and write the weights and the card."""
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
    texts = [row.text for row in own_requests()]
    write_vectors(texts, embedder.embed(texts), embedder=embedder)
    for line in figures(fitted.report):
        _say(line)
    return 0


class Fitted(NamedTuple):
    """The tensors of all heads, those of the tuned encoders, and cross-validated figures by head and source."""

    heads: dict[str, Matrix]
    changes: dict[str, Matrix]
    report: dict[str, Any]


class Task(NamedTuple):
    """One head's rows: its input columns, labels (None: unknown), and weights by source."""

    head: str
    columns: Matrix
    labels: Sequence[int | None]
    rows: Sequence[Request] | Sequence[Answered]
    weights: dict[str, float]


def fit_all(requests: list[Request], answers: list[Answered], *, embedder: Embedder) -> Fitted:
    """Return all weights that ship, and their figures on unseen rows."""
    asked = read_untuned([row.text for row in requests], [""] * len(requests), embedder=embedder)
    said = read_untuned([row.prompt for row in answers], [row.response for row in answers], embedder=embedder)
    themes = [CATEGORIES.index(row.category) if row.category else None for row in requests]
    harm = Task("harmful_request", request_input(asked), [row.harm for row in requests], requests, REQUEST_WEIGHT)
    category = Task("category", category_input(asked), themes, requests, CATEGORY_WEIGHT)
    refusal = Task("refusal", refusal_input(said), [row.refusal for row in answers], answers, REFUSAL_WEIGHT)
    harmful = Task("harmful_answer", harm_input(said), [row.harmful for row in answers], answers, HARM_WEIGHT)
    parts = (
        fit_tuned("request", [harm], [row.text for row in requests]),
        fit_untuned(category),
        fit_tuned("exchange", [refusal, harmful], [exchange(row.prompt, row.response) for row in answers], taught=_partly_unasked(answers)),
    )
    fitted = Fitted({}, {}, {})
    for one in parts:
        fitted = Fitted(fitted.heads | one.heads, fitted.changes | one.changes, fitted.report | one.report)
    return fitted


def fit_untuned(task: Task) -> Fitted:
    """Return a linear head without a tuned encoder, and its figures."""
    rows = _rows_of(task)
    return Fitted(_linear_head(task.head, rows), {}, {task.head: by_source(_crossed(task.head, rows), rows.truth, rows.sources)})


def fit_tuned(name: str, tasks: Sequence[Task], texts: Sequence[str], *, taught: Sequence[str] = ()) -> Fitted:
    """Return MiniLM tuned to all `tasks`, a linear head for each, the blends of both, and their figures.

    `texts` are scored; `taught`, if given, are trained on instead.
    """
    labels = np.array([[float(label or 0) for label in task.labels] for task in tasks]).T
    weight = np.array([_weights(task) for task in tasks]).T
    sources, groups = [row.source for row in tasks[0].rows], [row.group for row in tasks[0].rows]
    learn = partial(_learn, name, taught or texts, labels, weight, _every(sources))
    crossed = out_of_fold(lambda seen, unseen: learn(seen).score([texts[row] for row in unseen]), labels, groups, folds=TUNED_FOLDS)
    tuned = learn(np.arange(len(texts)))
    fitted = Fitted({}, {f"{name}.{tensor}": values for tensor, values in tuned.changes.items()}, {})
    for column, task in enumerate(tasks):
        rows, one = _rows_of(task), slice(column, column + 1)
        both = np.hstack([_crossed(task.head, rows), crossed[rows.known, one]])
        sure = np.array([source in BLENDED | ALSO_BLENDED.get(task.head, set()) for source in rows.sources])
        blend = fit_linear(both[sure], rows.truth[sure], rows.weight[sure], c=BLEND_C)
        parts = {"tuned": (np.ascontiguousarray(tuned.kernel[:, one]), tuned.bias[one]), "blend": blend}
        fitted.heads.update(_linear_head(task.head, rows))
        for part, (kernel, bias) in parts.items():
            fitted.heads.update({f"{task.head}_{part}.0.weight": kernel, f"{task.head}_{part}.0.bias": bias})
        fitted.report[task.head] = by_source(both @ blend[0] + blend[1], rows.truth, rows.sources)
    return fitted


class _Rows(NamedTuple):
    known: list[int]
    columns: Matrix
    truth: Any
    weight: Any
    sources: list[str]
    groups: list[str]


def _rows_of(task: Task) -> _Rows:
    """Return the rows of `task` with a known label."""
    known = [row for row, label in enumerate(task.labels) if label is not None]
    truth, weight = np.array([task.labels[row] for row in known]), _weights(task)[known]
    rows = [task.rows[row] for row in known]
    return _Rows(known, task.columns[known], truth, weight, [row.source for row in rows], [row.group for row in rows])


def _weights(task: Task) -> Any:
    known = [label is not None for label in task.labels]
    return np.array([task.weights.get(row.source, 1.0) for row in task.rows]) * known


def _linear_head(head: str, rows: _Rows) -> dict[str, Matrix]:
    kernel, bias = fit_linear(rows.columns, rows.truth, rows.weight, c=C[head])
    return {f"{head}.0.weight": kernel, f"{head}.0.bias": bias}


def _crossed(head: str, rows: _Rows) -> Matrix:
    """Return the linear head's raw outputs for rows that it was not fitted on."""
    return out_of_fold(
        lambda seen, unseen: _linear(rows.columns, rows.truth, rows.weight, seen, unseen, C[head]), rows.truth, rows.groups, folds=FOLDS
    )


def _linear(columns: Matrix, truth: Any, weight: Any, seen: Any, unseen: Any, c: float) -> Matrix:
    kernel, bias = fit_linear(columns[seen], truth[seen], weight[seen], c=c)
    raw: Matrix = columns[unseen] @ kernel + bias
    return raw


def _partly_unasked(answers: Sequence[Answered]) -> list[str]:
    """Return the exchanges, every fifth without its prompt, since answers are also scored without a prompt."""
    return [exchange(row.prompt if number % 5 else "", row.response) for number, row in enumerate(answers)]


def _every(sources: Sequence[str]) -> Any:
    """Return a mask of the rows that tuning reads: every n-th of each source."""
    counts: dict[str, int] = {}
    chosen = []
    for source in sources:
        counts[source] = counts.get(source, -1) + 1
        chosen.append(counts[source] % EVERY.get(source, 1) == 0)
    return np.array(chosen)


def _learn(name: str, texts: Sequence[str], labels: Any, weight: Any, chosen: Any, seen: Any) -> Tuned:
    rows = [row for row in seen if chosen[row]]
    return tune(
        [texts[row] for row in rows], labels[rows], weight[rows], passes=PASSES[name], embedder=Embedder(max_tokens=TUNED_TOKENS[name]),
        say=lambda line: _say(f"{name:10} {len(rows)} texts  {line}"),
    )  # fmt: skip


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
