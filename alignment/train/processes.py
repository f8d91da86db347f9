"""Collectives: every process must make the same calls, or the job deadlocks.

Effects: joins the process group that 'accelerate launch' started.
"""

from __future__ import annotations

import os
from typing import Any

import torch


def launched() -> int:
    """Return how many processes 'accelerate launch' started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def any_process(said: bool, device: Any) -> bool:
    """Return whether `said` is true in any process: all must stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return said
    told = torch.tensor(float(said), device=device)
    torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
    return bool(told.item())


def as_the_first(said: bool) -> bool:
    """Return the first process's value; only that process waits for the run's lock."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.cuda.is_available())
    return bool(broadcast_object_list([said], from_process=0)[0])


def leave() -> None:
    """Leave the process group: exiting inside it may abort while threads still run, and a finished run would count as failed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
