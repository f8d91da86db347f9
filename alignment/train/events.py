"""Progress events for the parent process: rows of JSON on stdout. Messages also go to stderr, which is kept as `train.log`.

Only the first process writes them. `keep_stdout` sends the output of libraries to stderr.

Effects: writes to stdout and stderr.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any

_STDOUT = 1
_rows = _STDOUT


def keep_stdout() -> None:
    """Reserve stdout for rows: all other output, C code's too, goes to stderr from now on.

    A stopped flow closes its end of the pipe, and a print into it would end the run before its checkpoint is saved.
    """
    global _rows
    sys.stdout.flush()
    _rows = os.dup(_STDOUT)
    os.dup2(sys.stderr.fileno(), _STDOUT)


def tell(**row: Any) -> None:
    """Write one row."""
    if _first():
        line = memoryview((json.dumps(row) + "\n").encode())
        with suppress(BrokenPipeError):  # a killed parent reads no more, but the checkpoint must still be saved
            while line:
                line = line[os.write(_rows, line) :]


def say(text: str) -> None:
    """Write a message for people."""
    if _first():
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    tell(said=text)


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"
