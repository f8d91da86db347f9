"""Fit the heads: `python -m alignment.moderation.fit --data DIR` (or ALIGN_DATA_DIR). Deterministic; prints what it measured.

Effects: writes `weights/heads.safetensors`, `weights/card.json` and `weights/card.md`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alignment.models.embedder import Embedder
from alignment.moderation.corpora import CATEGORIES, Answered, Request, own_answers, own_requests, public_answers, public_requests
from alignment.moderation.heads import WEIGHTS, harm_input, read, refusal_input, request_input
from alignment.moderation.measure import cross_validated, fit_linear, figures
from alignment.moderation.sheet import write_card

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

REQUEST_WEIGHT = {"own-harm": 3.0, "own-lookalike": 3.0, "own-ordinary": 2.0, "openai-moderation": 0.3, "rbr": 0.5}
ANSWER_WEIGHT = {"gptfuzz-even": 0.3, "rbr": 1.0, "own-handwritten": 3.0, "own-smollm2": 3.0, "hh-even": 0.2}
C = {"harmful_request": 0.3, "category": 1.0, "refusal": 0.3, "harmful_answer": 1.0}


def main() -> int:
    """Fit every head, print the figures and write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("ALIGN_DATA_DIR"), required="ALIGN_DATA_DIR" not in os.environ)
    folder = Path(parser.parse_args().data)
    embedder = Embedder()
    tensors, report = fit_all(
        own_requests() + public_requests(folder), own_answers() + public_answers(folder), embedder=embedder
    )
    from safetensors.numpy import save_file

    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file(tensors, WEIGHTS)
    write_card(report, embedder=embedder)
    for line in figures(report):
        sys.stdout.write(line + "\n")
    return 0


def fit_all(
    requests: list[Request], answers: list[Answered], *, embedder: Embedder
) -> tuple[dict[str, Matrix], dict[str, Any]]:
    """Return the tensors of all heads and their cross-validated figures by head and source."""
    tensors: dict[str, Matrix] = {}
    report: dict[str, Any] = {}
    asked = read([row.text for row in requests], [""] * len(requests), embedder=embedder)
    columns = request_input(asked)
    weight = np.array([REQUEST_WEIGHT.get(row.source, 1.0) for row in requests])
    labels = np.array([row.harm for row in requests])
    _one(tensors, report, "harmful_request", columns, labels, weight, requests)
    chosen = [i for i, row in enumerate(requests) if row.category]
    tensors.update(_category(columns[chosen], [requests[i] for i in chosen], report))
    said = read([row.prompt for row in answers], [row.response for row in answers], embedder=embedder)
    for head, columns in (("refusal", refusal_input(said)), ("harmful_answer", harm_input(said))):
        field = "refusal" if head == "refusal" else "harmful"
        known = [i for i, row in enumerate(answers) if getattr(row, field) is not None]
        labels = np.array([getattr(answers[i], field) for i in known])
        weight = np.array([ANSWER_WEIGHT.get(answers[i].source, 1.0) for i in known])
        _one(tensors, report, head, columns[known], labels, weight, [answers[i] for i in known])
    return tensors, report


def _one(
    tensors: dict[str, Matrix], report: dict[str, Any], head: str, columns: Matrix, labels: Any, weight: Any, rows: Any
) -> None:
    tensors[f"{head}.0.weight"], tensors[f"{head}.0.bias"] = fit_linear(columns, labels, weight, c=C[head])
    report[head] = cross_validated(columns, labels, weight, c=C[head], sources=[r.source for r in rows], groups=[r.group for r in rows])


def _category(columns: Matrix, rows: list[Request], report: dict[str, Any]) -> dict[str, Matrix]:
    labels = np.array([CATEGORIES.index(row.category or "") for row in rows])
    weight = np.array([REQUEST_WEIGHT.get(row.source, 1.0) for row in rows])
    report["category"] = cross_validated(
        columns, labels, weight, c=C["category"], sources=[r.source for r in rows], groups=[r.group for r in rows]
    )
    kernel, bias = fit_linear(columns, labels, weight, c=C["category"])
    return {"category.0.weight": kernel, "category.0.bias": bias}


if __name__ == "__main__":
    raise SystemExit(main())
