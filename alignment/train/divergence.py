"""How far the policy has moved from its reference, on answers that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

MOST_ROWS = 32
"""Held-out pairs that are read: two forward passes each, a few seconds in all on a CPU."""


@torch.no_grad()  # type: ignore[untyped-decorator]
def reference_kl(model: Any, rows: Sequence[Mapping[str, Any]], *, device: Any = "cpu") -> float:
    """Return KL(policy || reference) in nats a token, the mean over the tokens of the chosen answers of the first 32 rows.

    NaN without rows.

    The sum over the vocabulary is exact at each position. The answers are the data's, not the policy's, so this is how much the two
    differ where the data lead, not the divergence of whole answers. `model` is a PEFT model, the reference is it without its adapter.

    Source: the token-level form of eq. 3 of Rafailov et al. 2023 (arXiv:2305.18290), on given answers.
    """
    total, tokens = 0.0, 0
    for row in list(rows)[:MOST_ROWS]:
        size = len(row["chosen_ids"])
        ids = torch.tensor([[*row["prompt_ids"], *row["chosen_ids"]]], device=device)
        policy = _log_probs(model, ids, size)
        with model.disable_adapter():
            reference = _log_probs(model, ids, size)
        total += float((policy.exp() * (policy - reference)).sum())
        tokens += size
    return total / tokens if tokens else float("nan")


def _log_probs(model: Any, ids: torch.Tensor, size: int) -> torch.Tensor:
    # The logits before each token of the answer, and not those after its last one.
    return model(input_ids=ids, logits_to_keep=size + 1).logits[0, :-1].float().log_softmax(-1)
