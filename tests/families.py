"""Tiny random models of any family that transformers knows."""

from __future__ import annotations

from typing import Any


def make(family: str, settings: dict[str, Any]) -> Any:
    """Return a model in float32; its weights are large, because random models hardly tell tokens apart."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return model
