"""Read a store that may be damaged in a separate process: a damaged block can end DuckDB's process, not only raise.

Effects: starts a process for each call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from alignment.errors import StoreCrashed

_T = TypeVar("_T")
_P = ParamSpec("_P")


def apart(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Run `function` in a new process and return its result; function, arguments and result are pickled, and its exceptions raised here.

    Raises:
        StoreCrashed: the process ended before the function returned.
    """
    # Spawned: a fork would inherit the locks of this process's threads.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        # A process that cannot be started says nothing about the store: that is no StoreCrashed.
        pool.submit(os.getpid).result()
        try:
            return pool.submit(function, *arguments, **options).result()
        except BrokenProcessPool:
            raise StoreCrashed("reading the store ended the process that read it; run 'align doctor'") from None


def here(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Run `function` in this process and return its result: the counterpart of `apart`."""
    return function(*arguments, **options)
