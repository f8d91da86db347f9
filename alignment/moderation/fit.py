"""Fit the heads: `python -m alignment.moderation.fit --data DIR` (or ALIGN_DATA_DIR). Deterministic; prints what it measured.

Effects: writes `weights/heads.safetensors`, `weights/card.json` and `weights/card.md`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from alignment.moderation.heads import WEIGHTS, category_input, harm_input, read, refusal_input, request_input
from alignment.moderation.measure import cross_validated, figures, fit_linear
from alignment.moderation.sheet import write_card

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


def main() -> int:
    """Fit every head, print the figures and write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("ALIGN_DATA_DIR")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    folder = Path(parser.parse_args().data)
    embedder = Embedder()
    answers = own_answers()
    answers += lengthened(answers) + composed(answers) + public_answers(folder)
    tensors, report = fit_all(own_requests() + public_requests(folder), answers, embedder=embedder)
    from safetensors.numpy import save_file

    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file(tensors, WEIGHTS)
    write_card(report, embedder=embedder)
    for line in figures(report):
        sys.stdout.write(line + "\n")
    return 0


def fit_all(requests: list[Request], answers: list[Answered], *, embedder: Embedder) -> tuple[dict[str, Matrix], dict[str, Any]]:
    """Return the tensors of all heads and their cross-validated figures by head and source."""
    asked = read([row.text for row in requests], [""] * len(requests), embedder=embedder)
    said = read([row.prompt for row in answers], [row.response for row in answers], embedder=embedder)
    themes = [CATEGORIES.index(row.category) if row.category else None for row in requests]
    tasks = (
        ("harmful_request", request_input(asked), [row.harm for row in requests], requests, REQUEST_WEIGHT),
        ("category", category_input(asked), themes, requests, CATEGORY_WEIGHT),
        ("refusal", refusal_input(said), [row.refusal for row in answers], answers, REFUSAL_WEIGHT),
        ("harmful_answer", harm_input(said), [row.harmful for row in answers], answers, HARM_WEIGHT),
    )
    tensors: dict[str, Matrix] = {}
    report: dict[str, Any] = {}
    for head, columns, labels, rows, weights in tasks:
        kernel, bias, report[head] = _one(head, columns, labels, rows, weights)
        tensors |= {f"{head}.0.weight": kernel, f"{head}.0.bias": bias}
    return tensors, report


def _one(
    head: str,
    columns: Matrix,
    labels: Sequence[int | None],
    rows: Sequence[Request] | Sequence[Answered],
    weights: dict[str, float],
) -> tuple[Matrix, Matrix, dict[str, dict[str, float]]]:
    known = [row for row, label in enumerate(labels) if label is not None]
    truth = np.array([labels[row] for row in known])
    weight = np.array([weights.get(rows[row].source, 1.0) for row in known])
    sources, groups = [rows[row].source for row in known], [rows[row].group for row in known]
    kernel, bias = fit_linear(columns[known], truth, weight, c=C[head])
    measured = cross_validated(columns[known], truth, weight, c=C[head], sources=sources, groups=groups)
    return kernel, bias, measured


if __name__ == "__main__":
    raise SystemExit(main())
