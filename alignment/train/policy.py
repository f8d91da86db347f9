"""The model to train: the base, loaded as [train] method needs it, and its trainable part.

Effects: loads weights.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM

from alignment.errors import InputError, ModelError
from alignment.ids import short
from alignment.models.identity import folder_id
from alignment.models.precision import best_dtype
from alignment.sections import Train
from alignment.train.job import TrainJob
from alignment.train.needs import check_needs


def check_base(job: TrainJob) -> None:
    """Refuse a base that is not the one this run was written for, whose context is too short, or that cannot be loaded.

    Raises:
        InputError: any of these holds.
        ModelError: there are no weights.
    """
    if (found := folder_id(job.base)) != job.base_id:
        raise InputError(
            f"the model in {str(job.base)!r} is {short(found)!r}, but this run and its reference are of {short(job.base_id)!r}; "
            "restore it, or run 'align train' again for a run of the new base"
        )
    config = json.loads((job.base / "config.json").read_text(encoding="utf-8"))
    check_needs(job.settings, config.get("max_position_embeddings"))


def load_policy(base: Path, settings: Train) -> Any:
    """Return the base in the dtype it trains in: full training keeps float32, an adapter's frozen base is 16-bit or 4-bit.

    Raises:
        ModelError: it cannot be loaded at all, or not in 4 bits.
    """
    # Adding an update of 1e-6 to a bfloat16 weight loses it.
    dtype = torch.float32 if settings.method == "full" else best_dtype()
    four = settings.method == "qlora"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=dtype, trust_remote_code=False, **({"quantization_config": _four_bits(dtype)} if four else {})
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the base model {str(base)!r}: {error}; run 'align doctor'") from error
    if four and not _keep_layout(model):
        raise ModelError(
            f"bitsandbytes, of the extra [qlora], finds no linear layer to keep in 4 bits in {str(base)!r}; set [train] method = 'lora'"
        )
    return model


def _four_bits(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def _keep_layout(model: Any) -> int:
    """Stop bitsandbytes from repacking 4-bit layers; return how many there are."""
    from bitsandbytes.nn import Linear4bit

    layers = [part for part in model.modules() if isinstance(part, Linear4bit)]
    for layer in layers:
        # On a CPU with AVX512-BF16, bitsandbytes 0.50 packs the weights for inference at the first evaluation (here the reference's).
        # Its kernel for packed weights has no backward pass: every later gradient would miss what flows through the base.
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def stored_dtype(base: Path) -> torch.dtype:
    """Return the dtype of a base model's weights on disk."""
    return AutoConfig.from_pretrained(base, trust_remote_code=False).dtype or torch.float32


def precision(model: Any) -> str:
    """Return the dtype of a model's weights: 4-bit weights are another reference than the 16-bit weights they were made from."""
    kind = str(model.dtype)
    return f"nf4 {kind}" if getattr(model, "is_loaded_in_4bit", False) else kind


def adapter_config(model: Any, settings: Train) -> LoraConfig | None:
    """Return the adapter's configuration; None where the base itself is trained."""
    if settings.method == "full":
        return None
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules=_adapted(model, settings.lora_layers),
        task_type="CAUSAL_LM",
    )


def _adapted(model: Any, share: float) -> str | list[str]:
    """Return the linear modules of the upper layers: layers below the lowest need no backward pass."""
    if share == 1:
        return "all-linear"
    layers = model.config.num_hidden_layers
    first = layers - max(round(layers * share), 1)
    numbered = ((re.search(r"\.(\d+)\.", name), name) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear))
    return [name for number, name in numbered if number and int(number[1]) >= first]
