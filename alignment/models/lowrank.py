"""Low-rank changes of an encoder's linear layers: `attach` makes them trainable, `deltas` extracts them, `merge` adds them to weights.

Source: LoRA, Hu et al. 2021 (arXiv:2106.09685), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

RANK = 8
_SCALE = 2.0


class LowRank(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A frozen linear layer plus `_SCALE` times the product of two thin matrices, which starts at zero."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = torch.nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.up = torch.nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's outputs, (..., out_features)."""
        changed: torch.Tensor = self.base(inputs) + _SCALE * (inputs @ self.down.T @ self.up.T)
        return changed


def attach(model: Any) -> list[torch.nn.Parameter]:
    """Freeze `model`, give each linear layer of its encoder a low-rank change, and return the parameters to train."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, layer in _linear_layers(model):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LowRank(layer))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def deltas(model: Any) -> dict[str, Any]:
    """Return the learned changes as float16 arrays, `<layer>.down` and `<layer>.up` (scale included)."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LowRank):
            found[f"{name}.down"] = layer.down.detach().half().numpy()
            found[f"{name}.up"] = (_SCALE * layer.up.detach()).half().numpy()
    return found


def merge(model: Any, changes: Mapping[str, Any]) -> None:
    """Add `changes` to the weights of `model`; inference costs the same as before.

    Raises:
        KeyError: a layer of the encoder has no change.
    """
    with torch.no_grad():
        for name, layer in _linear_layers(model):
            up, down = (torch.from_numpy(changes[f"{name}.{side}"]).float() for side in ("up", "down"))
            layer.weight += up @ down


def _linear_layers(model: Any) -> Iterator[tuple[str, torch.nn.Linear]]:
    for name, layer in list(model.named_modules()):
        if name.startswith("encoder.") and isinstance(layer, torch.nn.Linear):
            yield name, layer
