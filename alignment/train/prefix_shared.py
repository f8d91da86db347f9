"""Chosen and rejected share their prompt: one row `prompt | chosen | rejected` in place of two.

The rejected answer does not attend to the chosen one and its positions restart after the prompt, so that both see exactly what
they would see alone; the LM head runs on answer tokens only. The results come back in the layout of TRL's own forward, so that
TRL's losses and metrics stay as they are.

Source: prefix sharing for DPO, Wang & Hegde 2024 (arXiv:2410.20305).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Shared rows. `tokens`, `positions` (B, S); `mask` additive (B, 1, S, S); the rest index answer tokens, N in all.

    Answer token n is predicted from `tokens[row[n], source[n]]` and belongs at `[target_row[n], target[n]]` of a (2B, T-1) grid.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    row: Tensor
    source: Tensor
    labels: Tensor
    target_row: Tensor
    target: Tensor


def share(input_ids: Tensor, attention_mask: Tensor, labels: Tensor, *, pad: int, dtype: torch.dtype) -> Rows:
    """Lay out TRL's (2B, T) batch of chosen rows over rejected rows as B shared rows.

    `labels` is -100 outside the answers; an answer without tokens simply has none.
    """
    pairs = input_ids.shape[0] // 2
    lengths = attention_mask.sum(1).tolist()
    starts = [_start(labels[index], lengths[index]) for index in range(2 * pairs)]
    sizes = [lengths[index] + lengths[index + pairs] - starts[index + pairs] for index in range(pairs)]
    width = max(sizes)
    device = input_ids.device
    tokens = torch.full((pairs, width), pad, device=device, dtype=torch.long)
    positions = torch.zeros((pairs, width), device=device, dtype=torch.long)
    visible = torch.ones((width, width), device=device, dtype=torch.bool).tril().repeat(pairs, 1, 1)
    index: list[tuple[int, int, int, int]] = []
    for pair in range(pairs):
        other = pair + pairs
        start, end, tail = starts[pair], lengths[pair], lengths[other] - starts[other]
        tokens[pair, :end] = input_ids[pair, :end]
        tokens[pair, end : end + tail] = input_ids[other, starts[other] : lengths[other]]
        positions[pair, :end] = torch.arange(end, device=device)
        positions[pair, end : end + tail] = torch.arange(starts[other], lengths[other], device=device)
        visible[pair, end:, start:end] = False
        index += [(pair, at - 1, pair, at - 1) for at in range(start, end)]
        # The last prompt token predicts the first token of both answers.
        index += [(pair, start - 1 if at == 0 else end + at - 1, other, starts[other] + at - 1) for at in range(tail)]
    mask = torch.zeros((pairs, 1, width, width), device=device, dtype=dtype)
    mask.masked_fill_(~visible.unsqueeze(1), torch.finfo(dtype).min)
    row, source, target_row, target = (torch.tensor(column, device=device) for column in zip(*index, strict=True))
    return Rows(tokens, positions, mask, row, source, labels[target_row, target + 1], target_row, target)


def _start(labels: Tensor, length: int) -> int:
    answered = (labels != -100).nonzero()
    return int(answered[0]) if len(answered) else length


class PrefixShared:
    """Stands in for the model in TRL's `_compute_loss`: takes its arguments, returns its per-token outputs."""

    def __init__(self, model: Any, *, pad: int) -> None:
        self.model, self.pad = model, pad

    def __call__(self, *, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        """Return log_probs, entropy, mean_logits (float) and is_top1 (bool), each (2B, T-1), zero outside the answers."""
        causal = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        weight = causal.get_output_embeddings().weight
        rows = share(input_ids, attention_mask, labels, pad=self.pad, dtype=causal.dtype)
        hidden = causal.model(
            input_ids=rows.tokens, attention_mask=rows.mask, position_ids=rows.positions, use_cache=False
        ).last_hidden_state
        logits = (hidden[rows.row, rows.source] @ weight.T).float()
        normaliser = logits.logsumexp(-1)
        picked = logits.gather(-1, rows.labels.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            entropy = normaliser - (torch.softmax(logits, -1) * logits).sum(-1)
            is_top1 = logits.argmax(-1) == rows.labels
            mean_logits = logits.mean(-1)
        shape = (input_ids.shape[0], input_ids.shape[1] - 1)

        def grid(values: Tensor) -> Tensor:
            empty = torch.zeros(shape, dtype=values.dtype, device=values.device)
            return empty.index_put((rows.target_row, rows.target), values)

        return SimpleNamespace(
            log_probs=grid(picked - normaliser),
            entropy=grid(entropy),
            mean_logits=grid(mean_logits),
            is_top1=grid(is_top1),
        )
