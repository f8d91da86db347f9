"""What a training process tells whoever started it: rows of JSON on stdout. Words stand on stderr as well, which is kept as `train.log`.

Of several processes the first one speaks.

Effects: writes to stdout and stderr.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any


def tell(**row: Any) -> None:
    """Write one row."""
    if _first():
        with suppress(BrokenPipeError):  # a killed parent reads no more, and the checkpoint is still to be saved
            print(json.dumps(row), flush=True)  # noqa: T201


def say(text: str) -> None:
    """Write words that a person should read."""
    if _first():
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    tell(said=text)


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"
