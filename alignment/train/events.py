"""What a training process tells whoever started it: rows of JSON on stdout. Words stand on stderr as well, which is kept as `train.log`.

Of several processes the first one speaks. What libraries print is no row: `keep_stdout` sends it to stderr.

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
    """Keep stdout for rows: whatever else is printed from now on, by C code too, goes to stderr.

    A flow that is stopped closes its end of the pipe. A print into it would end the run before its checkpoint is saved.
    """
    global _rows
    sys.stdout.flush()
    _rows = os.dup(_STDOUT)
    os.dup2(sys.stderr.fileno(), _STDOUT)


def tell(**row: Any) -> None:
    """Write one row."""
    if _first():
        line = memoryview((json.dumps(row) + "\n").encode())
        with suppress(BrokenPipeError):  # a killed parent reads no more, and the checkpoint is still to be saved
            while line:
                line = line[os.write(_rows, line) :]


def say(text: str) -> None:
    """Write words that a person should read."""
    if _first():
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    tell(said=text)


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"
