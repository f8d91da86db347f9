"""Untuned vectors of the project's labelled requests, for finding a request's nearest neighbours without the heads.

Effects: reads `weights/requests.safetensors`, which `python -m alignment.moderation.fit` writes; caches other vectors in a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alignment.models.embedder import Embedder
from alignment.models.vectors import kept_vectors, vectors_key

Matrix = npt.NDArray[np.float32]
VECTORS = Path(__file__).parent / "weights" / "requests.safetensors"
_STEPS = 127


def request_vectors(texts: Sequence[str], *, embedder: Embedder, folder: Path) -> Matrix:
    """Return one unit vector per text: the shipped vectors if they match these texts and this embedder, else computed once and cached."""
    from safetensors.numpy import load_file

    key = vectors_key(texts, embedder)
    shipped = load_file(VECTORS) if VECTORS.is_file() else {}
    return _unit(shipped[key].astype(np.float32)) if key in shipped else kept_vectors("requests", texts, embedder=embedder, folder=folder)


def write_vectors(texts: Sequence[str], vectors: Matrix, *, embedder: Embedder, path: Path = VECTORS) -> None:
    """Store vectors with 8 bits per value: a cosine changes by less than 0.005."""
    from safetensors.numpy import save_file

    scaled = vectors / np.abs(vectors).max(axis=1, keepdims=True)
    save_file({vectors_key(texts, embedder): np.round(scaled * _STEPS).astype(np.int8)}, path)


def _unit(vectors: Matrix) -> Matrix:
    unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
