"""Hashed word and character n-grams and linear models on them: no embedding, no vocabulary, numpy only.

The hash is CRC-32, which is the same on every machine. Weights were fitted by `python -m alignment.evals.fit`.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alignment.errors import ModelError
from alignment.wording import opening, plain

Vector = npt.NDArray[np.float32]
BUCKETS = 2**15
WEIGHTS = Path(__file__).parent / "weights" / "scorers.safetensors"
_TOKEN = re.compile(r"[a-z']+|\d+|[^\sa-z\d]")
_MAX_CHARS = 4000


def grams(answer: str) -> dict[int, float]:
    """Return bucket -> weight of an answer's n-grams: words and word pairs of the whole, words, pairs and 4-grams of its opening.

    Weights are 1 + log(count), scaled to unit Euclidean norm; an empty answer has no n-grams.
    Source: feature hashing, Weinberger et al. 2009 (arXiv:0902.2206).
    """
    whole, start = plain(answer[:_MAX_CHARS]), plain(opening(answer))
    words, first = _TOKEN.findall(whole), _TOKEN.findall(start)
    names = Counter([f"w {word}" for word in words])
    names.update(f"p {a} {b}" for a, b in zip(words, words[1:], strict=False))
    names.update(f"o {word}" for word in first)
    names.update(f"q {a} {b}" for a, b in zip(first, first[1:], strict=False))
    names.update(f"c {start[i : i + 4]}" for i in range(len(start) - 3))
    found: dict[int, float] = {}
    for name, count in names.items():
        bucket = zlib.crc32(name.encode("utf-8", "replace")) % BUCKETS
        found[bucket] = found.get(bucket, 0.0) + 1.0 + float(np.log(count))
    norm = float(np.sqrt(sum(value * value for value in found.values()))) or 1.0
    return {bucket: value / norm for bucket, value in found.items()}


@cache
def _tensors() -> dict[str, Vector]:
    from safetensors.numpy import load_file

    if not WEIGHTS.is_file():
        raise ModelError(f"{str(WEIGHTS)!r} is missing; fit it with 'python -m alignment.evals.fit --data DIR'")
    return {name: tensor.astype(np.float32) for name, tensor in load_file(WEIGHTS).items()}


def linear(model: str, found: dict[int, float], rules: list[float]) -> float:
    """Return the probability in 0..1 that `model` assigns to an answer with these n-grams and rule values."""
    tensors = _tensors()
    raw = float(tensors[f"{model}.bias"][0])
    if found:
        raw += float(tensors[f"{model}.grams"][list(found)] @ np.fromiter(found.values(), np.float32))
    raw += float(tensors[f"{model}.rules"] @ np.asarray(rules, np.float32))
    return float(1.0 / (1.0 + np.exp(-np.clip(raw, -30.0, 30.0))))
