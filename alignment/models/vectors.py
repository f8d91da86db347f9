"""Vectors of texts that every night asks about: the seeds', and those of the suites' prompts.

Effects: keeps one file per name in a folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from alignment.ids import content_id
from alignment.models.embedder import Embedder, Matrix


def kept_vectors(name: str, texts: Sequence[str], *, embedder: Embedder, folder: Path) -> Matrix:
    """Return one unit vector per text, shape (len(texts), 384), from `<folder>/<name>.safetensors` if that is of these texts.

    Else they are computed, and the file is replaced: it never holds more than one list of texts.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    path, key = folder / f"{name}.safetensors", vectors_key(texts, embedder)
    try:
        vectors: Matrix = load_file(path)[key]
    except (OSError, SafetensorError, KeyError):
        vectors = embedder.embed(texts)
    else:
        return vectors
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.partial")
    save_file({key: vectors}, part)
    os.replace(part, path)
    return vectors


def vectors_key(texts: Sequence[str], embedder: Embedder) -> str:
    """Return what names the vectors of these texts by this embedder, 16 hex digits."""
    return content_id(embedder.version, list(texts))[:16]
