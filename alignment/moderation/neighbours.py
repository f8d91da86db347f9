"""The untuned vectors of the project's labelled requests: neighbours of what people ask, for who reads requests without the heads.

Effects: reads `weights/requests.safetensors`, which `python -m alignment.moderation.fit` writes; keeps others in a folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alignment.ids import content_id
from alignment.models.embedder import Embedder

Matrix = npt.NDArray[np.float32]
VECTORS = Path(__file__).parent / "weights" / "requests.safetensors"
_STEPS = 127


def request_vectors(texts: Sequence[str], *, embedder: Embedder, kept: Path) -> Matrix:
    """Return one unit vector per text: the shipped ones if they are of these texts and this embedder, else computed once and kept."""
    from safetensors.numpy import load_file

    key = _key(texts, embedder)
    shipped = load_file(VECTORS) if VECTORS.is_file() else {}
    if key in shipped:
        return _unit(shipped[key].astype(np.float32))
    path = kept / f"{key}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".partial")
        with part.open("wb") as file:
            np.save(file, embedder.embed(texts), allow_pickle=False)
        os.replace(part, path)
    found: Matrix = np.load(path, allow_pickle=False)
    return found


def write_vectors(texts: Sequence[str], vectors: Matrix, *, embedder: Embedder, path: Path = VECTORS) -> None:
    """Store vectors in 8 bits each: a cosine changes by less than 0.005."""
    from safetensors.numpy import save_file

    scaled = vectors / np.abs(vectors).max(axis=1, keepdims=True)
    save_file({_key(texts, embedder): np.round(scaled * _STEPS).astype(np.int8)}, path)


def _key(texts: Sequence[str], embedder: Embedder) -> str:
    return content_id(embedder.version, list(texts))[:16]


def _unit(vectors: Matrix) -> Matrix:
    unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
