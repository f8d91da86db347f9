"""Sentence embeddings by mean pooling, with plain transformers.

Effects: loads weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.errors import ModelError
from alignment.ids import file_sha256
from alignment.models.chat import Progress
from alignment.models.cores import side_by_side
from alignment.models.embedded import embedder_path

Matrix = npt.NDArray[np.float32]


class Changes(NamedTuple):
    """Low-rank changes of an encoder for one task: the tensors in `file` whose names start with `<task>.`."""

    file: Path
    task: str


class Embedder:
    """all-MiniLM-L6-v2 (or the encoder in `folder`): maps texts to unit vectors; `changes`, if given, are merged into its weights."""

    def __init__(self, folder: Path | None = None, *, max_tokens: int = 128, batch_size: int = 16, changes: Changes | None = None) -> None:
        self.folder = folder or embedder_path()
        self.max_tokens, self.batch_size, self.changes = max_tokens, batch_size, changes
        self._tuned: dict[Changes, Embedder] = {}

    @cached_property
    def version(self) -> str:
        """Content address of the weights and of how texts are truncated."""
        base = f"{file_sha256(self.folder / 'model.safetensors')[:12]}-{self.max_tokens}"
        return f"{base}-{file_sha256(self.changes.file)[:12]}-{self.changes.task}" if self.changes else base

    def tuned(self, changes: Changes, *, max_tokens: int) -> Embedder:
        """Return a copy of this embedder with `changes` in its weights; it is loaded once, and this embedder stays unchanged."""
        if changes not in self._tuned:
            self._tuned[changes] = Embedder(self.folder, max_tokens=max_tokens, batch_size=self.batch_size, changes=changes)
        return self._tuned[changes]

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from alignment.models.precision import best_dtype

        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        model = AutoModel.from_pretrained(self.folder, local_files_only=True, dtype=torch.float32)
        if self.changes:
            from alignment.models.lowrank import merge

            merge(model, _read_changes(self.changes))
        # bfloat16 is twice as fast with native support; cosines with float32 vectors stay above 0.9999.
        return tokenizer, model.to(best_dtype()).eval()

    def embed(self, texts: Sequence[str], *, progress: Progress | None = None) -> Matrix:
        """Return a unit vector of shape (384,) per text, as a (len(texts), 384) matrix; equal texts are computed once.

        Texts longer than `max_tokens` are truncated; an empty text has a vector like any other.
        Source: mean pooling over tokens, Reimers & Gurevych 2019 (arXiv:1908.10084), section 3.
        """
        import torch

        tokenizer, model = self._parts
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        chunks = [unique[start : start + self.batch_size] for start in range(0, len(unique), self.batch_size)]

        # Tokenizers keep the padding of a call as their state, so only the model runs side by side.
        def encoded(chunk: Sequence[str]) -> Any:
            return tokenizer(
                [_beginning(text, self.max_tokens) for text in chunk],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )

        def embedded(one: Any) -> Matrix:
            with torch.inference_mode():
                found: Matrix = unit_vectors(model, one).numpy()
            return found

        vectors = np.zeros((len(unique), model.config.hidden_size), dtype=np.float32)
        done = 0
        # A part at a time: the tokens of a million texts would fill the memory.
        for first in range(0, len(chunks), _CHUNKS):
            for found in side_by_side(embedded, list(map(encoded, chunks[first : first + _CHUNKS]))):
                vectors[done : done + len(found)] = found
                done += len(found)
                if progress:
                    progress(done, len(unique))
        row = {text: index for index, text in enumerate(unique)}
        return vectors[[row[text] for text in texts]] if texts else vectors


_CHARACTERS_A_TOKEN, _CHUNKS = 64, 64


def _beginning(text: str, tokens: int) -> str:
    """Return the part of a text that holds its first tokens, with single spaces: tokenizers read a whole text before they truncate it."""
    most = tokens * _CHARACTERS_A_TOKEN
    return text if len(text) <= most else " ".join(text.split())[:most]


def unit_vectors(model: Any, encoded: Any) -> Any:
    """Return the mean of each text's token states, scaled to length 1: a float32 tensor of shape (texts, hidden)."""
    import torch

    states = model(**encoded).last_hidden_state.float()
    mask = encoded["attention_mask"].unsqueeze(-1).to(states.dtype)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1), dim=1)


def _read_changes(changes: Changes) -> dict[str, Any]:
    from safetensors.numpy import load_file

    start = f"{changes.task}."
    found = {name.removeprefix(start): tensor for name, tensor in load_file(changes.file).items() if name.startswith(start)}
    if not found:
        raise ModelError(
            f"no changes for {changes.task!r} in {str(changes.file)!r}; fit them with 'python -m alignment.moderation.fit --data DIR'"
        )
    return found
