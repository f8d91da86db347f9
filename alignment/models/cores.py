"""Several batches at a time on a CPU, each on its own core.

Small models run thousands of short operations. When cores share each of them, they wait for one another after each, and for long where
other work holds a core. Batches side by side do not wait.

Effects: changes torch's number of threads while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
MOST = 4
"""Batches at a time; each holds its own activations and cache. With more cores, each batch gets several."""


_SMALL = 1 << 30


def is_small(model: Any) -> bool:
    """Return whether several batches at a time fit the memory: a model on a CPU with weights of up to a gibibyte."""
    return bool(model.device.type == "cpu" and sum(weight.numel() * weight.element_size() for weight in model.parameters()) <= _SMALL)


def side_by_side(run: Callable[[T], R], batches: Sequence[T]) -> Iterator[R]:
    """Yield `run(batch)` for each batch, in order. `run` is called on several threads at once, and must share no state between calls.

    >>> list(side_by_side(len, ["one", "two", "three"]))
    [3, 3, 5]
    """
    import torch

    cores = torch.get_num_threads()
    lanes = min(cores, len(batches), MOST)
    if lanes < 2:
        yield from map(run, batches)
        return
    # OpenMP counts per calling thread, and MKL for all of them.
    pool = ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(cores // lanes,))
    try:
        yield from pool.map(run, batches)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)
