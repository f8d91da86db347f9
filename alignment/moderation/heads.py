"""Small heads on MiniLM vectors and phrase counts, in numpy. Weights were fitted by `python -m alignment.moderation.fit`.

Effects: reads `weights/heads.safetensors` on first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.errors import ModelError
from alignment.ids import content_id, file_sha256
from alignment.models.embedder import Embedder
from alignment.moderation.features import RULES_ID, Views, intent, lexical
from alignment.moderation.grams import BUCKETS, SCALE, request_grams

Matrix = npt.NDArray[np.float32]
WEIGHTS = Path(__file__).parent / "weights" / "heads.safetensors"


class Reading(NamedTuple):
    """What was computed once per exchange; every head reads from it. Rows are exchanges."""

    prompt: Matrix
    intent: Matrix
    grams: Matrix
    whole: Matrix
    opening: Matrix
    ending: Matrix
    lexical: Matrix


def read(prompts: Sequence[str], answers: Sequence[str], *, embedder: Embedder) -> Reading:
    """Embed each distinct text once and count phrases; `prompts` and `answers` have equal length and may hold empty texts."""
    views = [Views(answer) for answer in answers]
    texts = [*prompts, *(v.whole for v in views), *(v.opening for v in views), *(v.ending for v in views)]
    vectors = np.asarray(embedder.embed(texts), dtype=np.float32)
    prompt, whole, opening, ending = np.split(vectors, 4) if texts else [np.zeros((0, 384), np.float32)] * 4
    return Reading(prompt, intent(prompts), request_grams(prompts), whole, opening, ending, lexical(answers))


def request_input(reading: Reading) -> Matrix:
    """Return the columns that the harmful-request head sees."""
    return np.hstack([reading.prompt, reading.intent, reading.grams])


def category_input(reading: Reading) -> Matrix:
    """Return the columns that the category head sees."""
    return reading.prompt


def refusal_input(reading: Reading) -> Matrix:
    """Return the columns that the refusal head sees: nothing of the prompt."""
    return np.hstack([reading.opening, reading.whole, reading.lexical])


def harm_input(reading: Reading) -> Matrix:
    """Return the columns that the harmful-answer head sees."""
    return np.hstack([reading.whole, reading.opening, reading.ending, reading.prompt, reading.lexical, reading.intent])


@cache
def layers(head: str) -> tuple[tuple[Matrix, Matrix], ...]:
    """Return the (weight, bias) layers of `head`, first one first.

    Raises:
        ModelError: the shipped weights are missing or lack this head.
    """
    tensors = _tensors()
    found: list[tuple[Matrix, Matrix]] = []
    while (name := f"{head}.{len(found)}.weight") in tensors:
        found.append((tensors[name], tensors[f"{head}.{len(found)}.bias"]))
    if not found:
        raise ModelError(f"no head {head!r} in {str(WEIGHTS)!r}; fit it with 'python -m alignment.moderation.fit --data DIR'")
    return tuple(found)


@cache
def _tensors() -> dict[str, Matrix]:
    from safetensors.numpy import load_file

    if not WEIGHTS.is_file():
        raise ModelError(f"{str(WEIGHTS)!r} is missing; fit it with 'python -m alignment.moderation.fit --data DIR'")
    return dict(load_file(WEIGHTS))


@cache
def heads_version() -> str:
    """Return the content address of the weights and of the features' rules, 12 hex digits."""
    return content_id(file_sha256(WEIGHTS), RULES_ID, BUCKETS, SCALE)[:12]


def logits(head: str, columns: Matrix) -> Matrix:
    """Return the head's raw outputs, (rows, outputs): affine layers with ReLU between them."""
    state = columns.astype(np.float32)
    stack = layers(head)
    for number, (weight, bias) in enumerate(stack):
        state = state @ weight + bias
        if number + 1 < len(stack):
            state = np.maximum(state, 0.0)
    return state


def probability(head: str, columns: Matrix) -> Matrix:
    """Return the probability of a binary head for each row, in 0..1, shape (rows,)."""
    raw = np.clip(logits(head, columns)[:, 0], -30.0, 30.0)
    return (1.0 / (1.0 + np.exp(-raw))).astype(np.float32)
