"""Cache vectors of texts that every night needs: the seeds' and the suite prompts'.

Effects: writes one file per name in a folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from alignment.ids import content_id
from alignment.models.embedder import Embedder, Matrix


def kept_vectors(name: str, texts: Sequence[str], *, embedder: Embedder, folder: Path) -> Matrix:
    """Return one unit vector per text, shape (len(texts), 384), from `<folder>/<name>.safetensors` if it was made from these texts.

    Otherwise compute them and replace the file, which never holds more than one list of texts.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    path, key = folder / f"{name}.safetensors", vectors_key(texts, embedder)
    try:
        kept: Matrix = load_file(path)[key]
    except (OSError, SafetensorError, KeyError):
        pass
    else:
        # The format has no checksum, and NaN vectors would be similar to nothing.
        if kept.shape[0] == len(texts) and np.allclose(np.linalg.norm(kept, axis=1), 1, atol=1e-3):
            return kept
    vectors = embedder.embed(texts)
    part = path.with_suffix(f".{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: vectors}, part)
        os.replace(part, path)
    except (OSError, SafetensorError):
        # For instance on a full disk: the next call computes them again.
        with suppress(OSError):
            part.unlink()
    return vectors


def vectors_key(texts: Sequence[str], embedder: Embedder) -> str:
    """Return the cache key of the vectors of these texts by this embedder: 16 hex digits."""
    return content_id(embedder.version, list(texts))[:16]
