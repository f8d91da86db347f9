"""The LM head on answer tokens only. It computes the gradient during the forward pass, so no logits are kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

_CHUNK = 256


class Scores(NamedTuple):
    """Per token, each (M,): log-probability, entropy (nats), mean logit, and whether the label is the likeliest token."""

    log_probs: Tensor
    entropy: Tensor
    mean_logits: Tensor
    is_top1: Tensor


def can_score(causal: Any) -> bool:
    """Return whether the head is a plain frozen matrix; any other head goes through TRL's own code."""
    head, config = causal.get_output_embeddings(), causal.config.get_text_config()
    # FSDP replaces a module's class by a subclass of it.
    kind = next(kind for kind in type(head).__mro__ if not issubclass(kind, FSDPModule))
    plain = kind is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    names = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling", "output_router_logits")
    return plain and not any(getattr(config, name, None) for name in names)


class _Score(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        wanted = ctx.needs_input_grad[0]
        slopes: list[Tensor] = []
        parts: list[tuple[Tensor, ...]] = []
        for start in range(0, len(hidden), _CHUNK):
            label = labels[start : start + _CHUNK]
            logits = (hidden[start : start + _CHUNK] @ weight.T).float()
            mean, top = logits.mean(-1), logits.argmax(-1) == label
            picked = logits.gather(-1, label.unsqueeze(-1)).squeeze(-1)
            normaliser = logits.logsumexp(-1)
            likely = (logits - normaliser.unsqueeze(-1)).exp_()
            entropy = normaliser - torch.linalg.vecdot(likely, logits)
            if wanted:
                # d log p(label) / d hidden = W[label] - sum_v p_v W[v]
                slope = likely.neg_()
                slope.scatter_add_(-1, label.unsqueeze(-1), torch.ones_like(slope[:, :1]))
                slopes.append(slope.to(weight.dtype) @ weight)
            parts.append((picked - normaliser, entropy, mean, top))
        found = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        ctx.mark_non_differentiable(*found[1:])
        if wanted:
            ctx.save_for_backward(torch.cat(slopes))
        return found

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *_: Any) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (direction,) = ctx.saved_tensors
        return slope.unsqueeze(-1).to(direction.dtype) * direction, None, None


def score(hidden: Tensor, weight: Tensor, labels: Tensor) -> Scores:
    """Score M labels (M,) from hidden states (M, D) under a frozen head (V, D); `hidden` gets gradients from the log-probs only."""
    return Scores(*_Score.apply(hidden, weight, labels))
