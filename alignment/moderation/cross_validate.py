"""Fit one linear head and measure it on unseen rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
FOLDS, TUNED_FOLDS = 5, 2


def fit_linear(columns: Matrix, labels: Any, weight: Any, *, c: float) -> tuple[Matrix, Matrix]:
    """Return (kernel, bias) of an L2-regularised logistic regression; kernel is (columns, 1) for two classes, else (columns, classes)."""
    from sklearn.linear_model import LogisticRegression

    solver = "liblinear" if len(np.unique(labels)) == 2 else "lbfgs"
    model = LogisticRegression(C=c, max_iter=1000, solver=solver).fit(columns, labels, sample_weight=weight)
    return (
        np.ascontiguousarray(model.coef_.T, dtype=np.float32),
        np.ascontiguousarray(model.intercept_, dtype=np.float32),
    )


def out_of_fold(score: Callable[[Any, Any], Matrix], labels: Any, groups: Sequence[str], *, folds: int) -> Matrix:
    """Return out-of-fold raw outputs for every row, (rows, outputs), from `score(seen, unseen)`; folds never split a group."""
    from sklearn.model_selection import GroupKFold

    parts = list(GroupKFold(folds, shuffle=True, random_state=0).split(labels, labels, groups))
    found = np.vstack([score(seen, unseen) for seen, unseen in parts])
    raw: Matrix = found[np.argsort(np.concatenate([unseen for _, unseen in parts]))]
    return raw


def by_source(raw: Matrix, labels: Any, sources: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return accuracy, and AUC for two classes, per source and overall."""
    names = np.array(sources)
    parts = {name: names == name for name in sorted(set(sources))} | {"all": np.ones(len(names), bool)}
    return {name: quality(raw[part], labels[part]) for name, part in parts.items()}


def quality(raw: Any, labels: Any) -> dict[str, float]:
    """Return n, accuracy (at probability 0.5, or of the largest output) and, where both labels occur, recall, false alarms and AUC."""
    from sklearn.metrics import roc_auc_score

    binary = raw.shape[1] == 1
    guess = (raw[:, 0] >= 0).astype(int) if binary else raw.argmax(axis=1)
    found = {"n": float(len(labels)), "accuracy": round(float((guess == labels).mean()), 4)}
    if binary and 0 < labels.sum() < len(labels):
        found["recall"], found["false"] = (round(float(guess[labels == label].mean()), 4) for label in (1, 0))
        found["auc"] = round(float(roc_auc_score(labels, raw[:, 0])), 4)
    return found


def figures(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report as lines of text."""
    for head, sources in report.items():
        for source, values in sources.items():
            yield f"{head:16} {source:20} " + "  ".join(f"{name} {value:g}" for name, value in values.items())
