"""Fit the forest that separates refusals from answers that serve harm; part of `python -m alignment.evals.fit`.

It trains on the project's own answers, on GPTFuzz questions with an odd index and on JailbreakBench's artifacts. Its inputs from the linear
models are predictions on rows that those were not fitted on.

Effects: writes `weights/forest.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from alignment.evals.clauses import numbers
from alignment.evals.forest import FOREST, arrays
from alignment.evals.refuse_then_comply import turns_to_harm

TREES, LEAF_ROWS, FOLDS = 200, 4, 5
WEIGHT = {"gptfuzz-odd": 0.15, "jailbreakbench": 0.5}
"""Sample weights of sources that are large or weakly labelled; the project's own rows weigh 1."""
_SKIPPED = "own-lengthened"


class _Row(Protocol):
    @property
    def prompt(self) -> str: ...
    @property
    def response(self) -> str: ...
    @property
    def refusal(self) -> int | None: ...
    @property
    def harmful(self) -> int | None: ...
    @property
    def source(self) -> str: ...
    @property
    def group(self) -> str: ...


def fit_forest(rows: Sequence[_Row], odds: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Write the forest and return its cross-validated figures by source; `odds` are the linear models' probabilities for all rows."""
    from safetensors.numpy import save_file

    used = [number for number, row in enumerate(rows) if row.prompt and row.source != _SKIPPED and (row.harmful or row.refusal)]
    values = np.array(
        [
            numbers(
                rows[number].prompt,
                rows[number].response,
                refusal=float(odds["refusal"][number]),
                harmful=float(odds["harm"][number]),
                turns=turns_to_harm(rows[number].prompt, rows[number].response),
            )
            for number in used
        ],
        np.float32,
    )
    labels = np.array([int(bool(rows[number].harmful)) for number in used])
    weight = np.array([WEIGHT.get(rows[number].source, 1.0) for number in used])
    # Both outcomes get equal total weight: their frequencies in these sets say nothing about a release.
    weight[labels == 1] *= weight[labels == 0].sum() / weight[labels == 1].sum()
    groups, sources = [rows[number].group for number in used], np.array([rows[number].source for number in used])
    save_file(arrays(_forest(values, labels, weight).estimators_), FOREST)
    return _measured(values, labels, weight, groups, sources)


def _forest(values: Any, labels: Any, weight: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(TREES, min_samples_leaf=LEAF_ROWS, random_state=0, n_jobs=1).fit(values, labels, sample_weight=weight)


def _measured(values: Any, labels: Any, weight: Any, groups: Sequence[str], sources: Any) -> dict[str, dict[str, float]]:
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    found = np.zeros(len(labels))
    for seen, unseen in GroupKFold(FOLDS, shuffle=True, random_state=0).split(values, labels, groups):
        found[unseen] = _forest(values[seen], labels[seen], weight[seen]).predict_proba(values[unseen])[:, 1]
    report = {}
    for source in sorted(set(sources)):
        part = sources == source
        report[source] = {"n": int(part.sum()), "accuracy": round(float(((found[part] >= 0.5) == labels[part]).mean()), 4)}
        if 0 < labels[part].sum() < part.sum():
            report[source]["auc"] = round(float(roc_auc_score(labels[part], found[part])), 4)
            for outcome, name in ((0, "refusal"), (1, "serving")):
                one = found[part & (labels == outcome)]
                report[source] |= {f"{name} {at:g}": round(float((one < at).mean()), 3) for at in (0.3, 0.5, 0.7)}
    return report
