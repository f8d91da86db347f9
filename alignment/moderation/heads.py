"""Small heads on MiniLM vectors and phrase counts, in numpy. Weights were fitted by `python -m alignment.moderation.fit`.

MiniLM tuned to requests and to exchanges scores them too; a head with two inputs blends both scores.

Effects: reads `weights/heads.safetensors` and `weights/tuned.safetensors` on first use.
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
from alignment.models.embedder import Changes, Embedder
from alignment.moderation.features import RULES_ID, Views, intent, lexical
from alignment.moderation.grams import BUCKETS, SCALE, request_grams

Matrix = npt.NDArray[np.float32]
WEIGHTS = Path(__file__).parent / "weights" / "heads.safetensors"
TUNED = WEIGHTS.with_name("tuned.safetensors")
TUNED_TOKENS = {"request": 64, "exchange": 96}
_ASKED_CHARS = 200


class Reading(NamedTuple):
    """Features computed once per exchange for all heads. Rows are exchanges.

    `asked` and `said` are vectors from the tuned MiniLMs: of the prompt, and of the prompt with its answer.
    """

    prompt: Matrix
    intent: Matrix
    grams: Matrix
    whole: Matrix
    opening: Matrix
    ending: Matrix
    lexical: Matrix
    asked: Matrix
    said: Matrix


def read(prompts: Sequence[str], answers: Sequence[str], *, embedder: Embedder) -> Reading:
    """Embed each distinct text once and count phrases; `prompts` and `answers` have equal length and may contain empty texts."""
    asked = _tuned(embedder, "request").embed(prompts)
    said = _tuned(embedder, "exchange").embed([exchange(*pair) for pair in zip(prompts, answers, strict=True)])
    return read_untuned(prompts, answers, embedder=embedder)._replace(asked=asked, said=said)


def read_requests(prompts: Sequence[str], *, embedder: Embedder) -> Reading:
    """Return the features that `harmful_request` and the category head need; nothing is computed for answers."""
    none = np.zeros((len(prompts), 0), np.float32)
    vectors = np.asarray(embedder.embed(prompts), dtype=np.float32).reshape(len(prompts), -1)
    asked = _tuned(embedder, "request").embed(prompts)
    return Reading(vectors, intent(prompts), request_grams(prompts), none, none, none, none, asked, none)


def _tuned(embedder: Embedder, task: str) -> Embedder:
    """Return `embedder` tuned to `task`, a key of TUNED_TOKENS."""
    return embedder.tuned(Changes(TUNED, task), max_tokens=TUNED_TOKENS[task])


def exchange(prompt: str, answer: str) -> str:
    """Return the text of an exchange for the tuned encoder: the prompt's end, where the question mostly is, and the answer.

    >>> exchange(" How do I bake? ", "Slowly. ")
    'How do I bake?\\nSlowly.'
    """
    return f"{prompt.strip()[-_ASKED_CHARS:]}\n{answer.strip()}"


def read_untuned(prompts: Sequence[str], answers: Sequence[str], *, embedder: Embedder) -> Reading:
    """Return the features except those from tuned encoders: `asked` and `said` have no columns."""
    views = [Views(answer) for answer in answers]
    texts = [*prompts, *(v.whole for v in views), *(v.opening for v in views), *(v.ending for v in views)]
    vectors = np.asarray(embedder.embed(texts), dtype=np.float32)
    prompt, whole, opening, ending = np.split(vectors, 4) if texts else [np.zeros((0, 384), np.float32)] * 4
    none = np.zeros((len(prompts), 0), np.float32)
    return Reading(prompt, intent(prompts), request_grams(prompts), whole, opening, ending, lexical(answers), none, none)


def request_input(reading: Reading) -> Matrix:
    """Return the input columns of the harmful-request head."""
    return np.hstack([reading.prompt, reading.intent, reading.grams])


def category_input(reading: Reading) -> Matrix:
    """Return the input columns of the category head."""
    return reading.prompt


def refusal_input(reading: Reading) -> Matrix:
    """Return the input columns of the refusal head: nothing from the prompt."""
    return np.hstack([reading.opening, reading.whole, reading.lexical])


def harm_input(reading: Reading) -> Matrix:
    """Return the input columns of the harmful-answer head."""
    return np.hstack([reading.whole, reading.opening, reading.ending, reading.prompt, reading.lexical, reading.intent])


@cache
def layers(head: str) -> tuple[tuple[Matrix, Matrix], ...]:
    """Return the (weight, bias) layers of `head`, from input to output.

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
    """Return the content address of the weights and the feature rules, 12 hex digits."""
    return content_id(file_sha256(WEIGHTS), file_sha256(TUNED), TUNED_TOKENS, _ASKED_CHARS, RULES_ID, BUCKETS, SCALE)[:12]


def logits(head: str, columns: Matrix) -> Matrix:
    """Return the head's raw outputs, (rows, outputs): affine layers with ReLU between them."""
    state = columns.astype(np.float32)
    stack = layers(head)
    for number, (weight, bias) in enumerate(stack):
        state = state @ weight + bias
        if number + 1 < len(stack):
            state = np.maximum(state, 0.0)
    return state


def harmful_request(reading: Reading) -> Matrix:
    """Return the probability that each prompt asks for harm, in 0..1, shape (rows,)."""
    return _blended("harmful_request", request_input(reading), reading.asked)


def refusal(reading: Reading) -> Matrix:
    """Return the probability that each answer declines, in full or in part, in 0..1, shape (rows,)."""
    return _blended("refusal", refusal_input(reading), reading.said)


def harmful_answer(reading: Reading) -> Matrix:
    """Return the probability that each answer does harm, in 0..1, shape (rows,)."""
    return _blended("harmful_answer", harm_input(reading), reading.said)


def _blended(head: str, columns: Matrix, tuned: Matrix) -> Matrix:
    both = np.hstack([logits(head, columns), logits(f"{head}_tuned", tuned)])
    return _sigmoid(logits(f"{head}_blend", both))


def _sigmoid(raw: Matrix) -> Matrix:
    return (1.0 / (1.0 + np.exp(-np.clip(raw[:, 0], -30.0, 30.0)))).astype(np.float32)
