"""Tune MiniLM to one or more tasks by low-rank changes of its layers.

Effects: loads weights; computes on one thread, so that equal data give equal weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.models.embedder import Embedder, unit_vectors

Matrix = npt.NDArray[np.float32]
BATCH, RATE, HEAD_RATE, SHARPNESS, WARM_UP = 16, 1e-3, 5e-3, 8.0, 0.1
_BUCKET = 16 * BATCH


class Tuned(NamedTuple):
    """The result of tuning: the layers' changes, the heads (384, tasks) on unit vectors and their biases, and a scorer of texts."""

    changes: dict[str, Any]
    kernel: Matrix
    bias: Matrix
    score: Callable[[Sequence[str]], Matrix]


def tune(texts: Sequence[str], labels: Any, weight: Any, *, passes: int, embedder: Embedder, say: Callable[[str], object]) -> Tuned:
    """Return MiniLM tuned to separate label 1 from 0 in each task, by weighted cross-entropy; `score` gives raw outputs, (rows, tasks).

    `labels` and `weight` are (rows, tasks); a weight of 0 marks an unknown label.
    Texts are cut to `embedder.max_tokens`. Training makes `passes` passes and reports each to `say`.
    Source: LoRA (arXiv:2106.09685), here with AdamW and linear decay of the learning rate.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    from alignment.models.lowrank import attach, deltas

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(embedder.folder, local_files_only=True)
    model = AutoModel.from_pretrained(embedder.folder, local_files_only=True, dtype=torch.float32).train()
    learned, head = attach(model), torch.nn.Linear(model.config.hidden_size, labels.shape[1])
    torch.nn.init.zeros_(head.weight)

    def raw(chunk: Sequence[str]) -> Any:
        encoded = tokenizer(list(chunk), padding=True, truncation=True, max_length=embedder.max_tokens, return_tensors="pt")
        return head(SHARPNESS * unit_vectors(model, encoded))

    _descend(raw, texts, labels, weight, parameters=(learned, list(head.parameters())), passes=passes, say=say)
    model.eval()
    kernel = (SHARPNESS * head.weight.detach().T).contiguous().numpy()
    return Tuned(deltas(model), kernel, head.bias.detach().numpy(), lambda unseen: _scored(raw, unseen, labels.shape[1]))


def _descend(
    raw: Callable[[Sequence[str]], Any],
    texts: Sequence[str],
    labels: Any,
    weight: Any,
    *,
    parameters: tuple[list[Any], list[Any]],
    passes: int,
    say: Callable[[str], object],
) -> None:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as loss_of

    layers, head = parameters
    groups = [{"params": layers, "lr": RATE}, {"params": head, "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = passes * -(-len(texts) // BATCH)
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / (WARM_UP * steps), 1 - step / steps))
    truth = torch.tensor(np.asarray(labels), dtype=torch.float32)
    known = np.maximum(1, np.count_nonzero(weight, axis=0))
    share = torch.tensor(weight / (weight.sum(axis=0) / known), dtype=torch.float32)
    for number in range(passes):
        total = 0.0
        for rows in _batches(texts, seed=number):
            loss = loss_of(raw([texts[row] for row in rows]), truth[rows], weight=share[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(layers, 1.0)
            optimizer.step()
            fall.step()
            total += float(loss.detach()) * len(rows)
        say(f"pass {number + 1} of {passes}: loss {total / len(texts):.4f}")


def _batches(texts: Sequence[str], *, seed: int) -> Iterator[list[int]]:
    """Yield all rows in random order, batching texts of similar length, which saves padding."""
    draw = np.random.default_rng(seed)
    order, length = draw.permutation(len(texts)), np.array([len(text) for text in texts])
    batches = []
    for start in range(0, len(order), _BUCKET):
        bucket = order[start : start + _BUCKET]
        bucket = bucket[np.argsort(length[bucket], kind="stable")]
        batches += [bucket[at : at + BATCH].tolist() for at in range(0, len(bucket), BATCH)]
    for number in draw.permutation(len(batches)):
        yield batches[number]


def _scored(raw: Callable[[Sequence[str]], Any], texts: Sequence[str], tasks: int) -> Matrix:
    import torch

    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = np.zeros((len(texts), tasks), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            found[rows] = raw([texts[row] for row in rows]).numpy()
    return found
