"""Sentence embeddings by mean pooling, with plain transformers.

Effects: loads weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alignment.ids import file_sha256
from alignment.models.chat import Progress
from alignment.models.embedded import embedder_path

Matrix = npt.NDArray[np.float32]


class Embedder:
    """all-MiniLM-L6-v2 (or another encoder in `folder`): texts to unit vectors."""

    def __init__(self, folder: Path | None = None, *, max_tokens: int = 128, batch_size: int = 16) -> None:
        self.folder = folder or embedder_path()
        self.max_tokens, self.batch_size = max_tokens, batch_size

    @cached_property
    def version(self) -> str:
        """Content address of the weights and of how texts are cut."""
        return f"{file_sha256(self.folder / 'model.safetensors')[:12]}-{self.max_tokens}"

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        from alignment.models.local import best_dtype

        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        # bfloat16 is twice as fast where the machine has it; cosines with float32 vectors stay above 0.9999.
        return tokenizer, AutoModel.from_pretrained(self.folder, local_files_only=True, dtype=best_dtype()).eval()

    def embed(self, texts: Sequence[str], *, progress: Progress | None = None) -> Matrix:
        """Return one unit vector of shape (384,) per text, as a (len(texts), 384) matrix; equal texts are computed once.

        Texts longer than `max_tokens` are cut; an empty text has a vector like any other.
        Source: mean pooling over tokens, Reimers & Gurevych 2019 (arXiv:1908.10084), section 3.
        """
        import torch

        tokenizer, model = self._parts
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        vectors = np.zeros((len(unique), model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(unique), self.batch_size):
            chunk = unique[start : start + self.batch_size]
            encoded = tokenizer(chunk, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
            with torch.inference_mode():
                states = model(**encoded).last_hidden_state.float()
            mask = encoded["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            vectors[start : start + len(chunk)] = torch.nn.functional.normalize(pooled, dim=1).numpy()
            if progress:
                progress(start + len(chunk), len(unique))
        row = {text: index for index, text in enumerate(unique)}
        return vectors[[row[text] for text in texts]] if texts else vectors
