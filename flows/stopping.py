"""Make a process that is told to stop end in time, whatever it is still waiting for.

SIGTERM and Ctrl-C become exceptions, so that a stage can record what stopped it and a training process is told to save its checkpoint. On
the way out a client may ask a dead server for minutes, or a library compute on without returning to Python. Neither may hold the night's
lock for longer than `SECONDS`: the store and the run folders are safe if the process ends at any moment. The wait is longer,
`MOST_SECONDS`, only for a training process that saves its checkpoint: a step of a large model takes its time.

Effects: starts a thread; may end this process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait

SECONDS, MOST_SECONDS = 8.0, 100.0
_SAVING: list[subprocess.Popen[str]] = []


@contextmanager
def saves(process: subprocess.Popen[str]) -> Iterator[None]:
    """Make the end of this process wait for `process`, which saves its work when told to stop."""
    _SAVING.append(process)
    try:
        yield
    finally:
        _SAVING.remove(process)


def still_saves() -> bool:
    """Return whether a process that saves its work is still running."""
    return any(process.poll() is None for process in _SAVING)


@contextmanager
def ends_in_time(
    at_once: Callable[[], None] = lambda: None, *, busy: Callable[[], bool] = still_saves, seconds: float = SECONDS
) -> Iterator[None]:
    """End this process at most `seconds` after SIGTERM or SIGINT arrives in the block, or later once it is no longer `busy`.

    `at_once` is called when the signal arrives.
    A process that multiprocessing started is told to stop when its parent is gone. Outside the main thread, which receives the signals,
    this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    # The interpreter's C-level handler writes to this pipe, so the watcher sees a signal even while the main thread is inside a library.
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(read, at_once, busy, seconds), name="stop watch", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        os.close(write)  # ends the watcher, which closes its end; a process that is due to end still does


def _watch(read: int, at_once: Callable[[], None], busy: Callable[[], bool], seconds: float) -> None:
    starter = multiprocessing.parent_process()
    watched = [read, starter.sentinel] if starter else [read]
    try:
        while True:
            ready = wait(watched)
            if starter and starter.sentinel in ready:
                watched = [read]
                os.kill(os.getpid(), signal.SIGTERM)
                continue
            if not (numbers := os.read(read, 100)):
                return
            for number in numbers:
                if number in (signal.SIGTERM, signal.SIGINT):
                    _end_after(seconds, number, busy)
                    at_once()
    finally:
        os.close(read)


def _end_after(seconds: float, number: int, busy: Callable[[], bool]) -> None:
    def end() -> None:
        begun = time.monotonic()
        time.sleep(seconds)
        while busy() and time.monotonic() - begun < MOST_SECONDS:
            time.sleep(0.1)
        os._exit(128 + number)

    threading.Thread(target=end, name="end in time", daemon=True).start()
