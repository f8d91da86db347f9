"""FSDP: each process holds a part of each weight, as the configuration of 'accelerate launch' says.

Run a forward pass through the whole model, adapter included, and on all processes at once: hooks gather the weights.

Effects: moves a model's weights between processes.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from alignment.errors import InputError
from alignment.sections import Train
from alignment.train.processes import any_process, launched

# Environment variables of accelerate's launcher: the supported value, and how its configuration file writes it.
_SERVED = {
    "FSDP_VERSION": ("2", "fsdp_version: 2"),
    # Other policies may leave an adapter in the root, where it loses its gradients after a pass without the adapter.
    "FSDP_AUTO_WRAP_POLICY": ("transformer_based_wrap", "fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"),
    # TRL's head computes on the device that holds its weights, which would be another one.
    "FSDP_OFFLOAD_PARAMS": ("false", "fsdp_offload_params: false"),
    # It must be set before sharding, which happens earlier here than in accelerate.
    "FSDP_ACTIVATION_CHECKPOINTING": ("false", "fsdp_activation_checkpointing: false, and [train] gradient_checkpointing = true instead"),
    # The reference log-prob cache assumes the base's own dtype.
    "ACCELERATE_MIXED_PRECISION": ("no", "mixed_precision: 'no'"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("false", "no parallelism_config"),
}


def sharded() -> bool:
    """Return whether the launcher wants sharded weights."""
    return _told("ACCELERATE_USE_FSDP") == "true"


def check_launcher(settings: Train) -> None:
    """Refuse launcher options that training does not support.

    Raises:
        InputError: DeepSpeed or Megatron-LM, or FSDP with other options; the message names all of them.
    """
    for kind in ("DEEPSPEED", "MEGATRON_LM"):
        if _told(f"ACCELERATE_USE_{kind}") == "true":
            raise InputError(
                f"'accelerate launch' says {kind}, which is not served; set distributed_type in its file to MULTI_GPU, MULTI_CPU or NO or, "
                "where one device is too small, to FSDP"
            )
    if not sharded():
        return
    wrong = [f"{name} is {_told(name)!r}, set {words}" for name, (served, words) in _SERVED.items() if _told(name) != served]
    if settings.method == "qlora":
        wrong.append("[train] method is 'qlora', whose 4-bit weights cannot be shared out, set 'lora' or 'full'")
    if wrong:
        raise InputError(f"this way of FSDP is not served: {'; '.join(wrong)}; change the file that 'accelerate launch' reads")


def _told(name: str) -> str:
    return os.environ.get(name, "false").lower()


def let_cpus_shard() -> None:
    """Let processes without a GPU shard weights too.

    accelerate 1.15 shards only on devices that it counts as GPUs, and would silently give each process all weights; torch shards on any.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    if sharded() and PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def shard(accelerator: Any, model: Any) -> int:
    """Shard a model's weights in place, on each process's device; return how many of them this process holds.

    Raises:
        InputError: a process would hold no part of a trainable weight; accelerate's optimiser mixes such weights up.
    """
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    fsdp2_prepare_model(accelerator, model)
    learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if left := [name for name, weight in learning.items() if not isinstance(weight, DTensor)]:
        raise InputError(
            f"FSDP leaves weights that learn out, such as {left[0]!r}, and each process would learn its own; remove fsdp_ignored_modules"
        )
    small = [name for name, weight in learning.items() if not here(weight).numel()]
    if any_process(bool(small), accelerator.device):
        raise InputError(
            f"{launched()} processes cannot share out a weight so that each has rows of it{f', such as {small[0]!r}' if small else ''}; "
            f"start fewer processes or, for an adapter, set [train] lora_rank to a multiple of {launched()}"
        )
    return sum(here(weight).numel() for weight in model.parameters())


def here(weight: Any) -> Any:
    """Return this process's part of a weight."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def whole(weight: Any) -> Any:
    """Return the full weight; all processes must call this."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def gather(model: Any) -> dict[str, torch.Tensor] | None:
    """Return all trainable weights on the first process, an empty mapping on the others, and None for a model that is not sharded."""
    if not sharded():
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    found = get_model_state_dict(model, options=options)
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {name for name, _ in model.named_parameters()}
    return {name: weight for name, weight in found.items() if name not in tied}
