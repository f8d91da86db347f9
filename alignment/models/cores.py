"""Several batches at a time on a CPU, each on its own core.

A small model runs thousands of short operations. Cores that share one wait for the slowest at its end; separate batches do not wait.

Effects: lowers torch's number of threads while it runs; a thread that first uses torch meanwhile keeps that, unless it began with
`keep_cores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
MOST_LANES = 4
"""Batches at a time; each holds its own activations and cache. With more cores, each batch gets several."""


_SMALL = 1 << 30


_usual: list[int] = []


def keep_cores() -> None:
    """Give the calling thread torch's usual number of threads, also while others run batches side by side."""
    import torch

    if _usual:
        torch.set_num_threads(_usual[0])


def fits_side_by_side(model: Any) -> bool:
    """Return whether several batches at a time fit the memory: a model on a CPU with weights of up to a gibibyte."""
    return bool(model.device.type == "cpu" and sum(weight.numel() * weight.element_size() for weight in model.parameters()) <= _SMALL)


def side_by_side(run: Callable[[T], R], batches: Sequence[T]) -> Iterator[R]:
    """Yield `run(batch)` for each batch, in order. `run` is called on several threads at once, and must share no state between calls.

    >>> list(side_by_side(len, ["one", "two", "three"]))
    [3, 3, 5]
    """
    import torch

    cores = torch.get_num_threads()
    lanes = min(cores, len(batches), MOST_LANES)
    if lanes < 2:
        yield from map(run, batches)
        return
    # OpenMP counts per calling thread, and MKL for all of them.
    _usual.append(cores)
    pool = ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(cores // lanes,))
    try:
        yield from pool.map(run, batches)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)
        _usual.remove(cores)
