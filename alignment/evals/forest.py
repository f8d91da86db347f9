"""A random forest over features of an answer: how likely is it that the answer serves a harmful request?

Trees are stored as arrays, so a release gets the same score on every machine; scikit-learn is only needed to fit them.
Source: random forests, Breiman 2001. Weights were fitted by `python -m alignment.evals.fit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alignment.errors import ModelError

FOREST = Path(__file__).parent / "weights" / "forest.safetensors"
LEAF = -1
Tensors = dict[str, npt.NDArray[Any]]


@cache
def _tensors() -> Tensors:
    from safetensors.numpy import load_file

    if not FOREST.is_file():
        raise ModelError(f"{str(FOREST)!r} is missing; fit it with 'python -m alignment.evals.fit --data DIR'")
    return dict(load_file(FOREST))


def serves(numbers: Sequence[float], tensors: Tensors | None = None) -> float:
    """Return the probability that an answer with these `numbers` serves harm, in 0..1: the mean over all trees.

    Raises:
        ModelError: the weights are missing.
    """
    trees = tensors or _tensors()
    values = np.asarray(numbers, np.float32)
    feature, threshold, left, right = (trees[name] for name in ("feature", "threshold", "left", "right"))
    at = trees["roots"].astype(np.int64)
    while (inner := feature[at] != LEAF).any():
        here = at[inner]
        at[inner] = np.where(values[feature[here]] <= threshold[here], left[here], right[here])
    return float(trees["value"][at].mean())


def arrays(trees: Sequence[Any]) -> Tensors:
    """Return scikit-learn's fitted trees as node arrays, concatenated tree by tree; the feature of a leaf is LEAF."""
    parts: dict[str, list[Any]] = {name: [] for name in ("feature", "threshold", "left", "right", "value", "roots")}
    start = 0
    for one in (estimator.tree_ for estimator in trees):
        leaf = one.children_left < 0
        share = one.value[:, 0, :]
        parts["feature"].append(np.where(leaf, LEAF, one.feature).astype(np.int16))
        parts["threshold"].append(one.threshold.astype(np.float32))
        parts["left"].append(np.where(leaf, 0, one.children_left + start).astype(np.int32))
        parts["right"].append(np.where(leaf, 0, one.children_right + start).astype(np.int32))
        parts["value"].append((share[:, 1] / share.sum(axis=1)).astype(np.float32))
        parts["roots"].append(np.array([start], np.int32))
        start += one.node_count
    return {name: np.concatenate(found) for name, found in parts.items()}
