"""The dtype that models compute in on this machine.

Effects: asks the CPU and the GPU what they can do.
"""

from __future__ import annotations

import torch


def best_dtype() -> torch.dtype:
    """Return bfloat16 if this machine supports it natively, else float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32
