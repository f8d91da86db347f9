"""Cache of reference log-probs: the frozen base always gives a pair the same two numbers.

Effects: reads and writes one Parquet file per base.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.ids import content_id

SAVE_SECONDS = 30.0
_SCHEMA = pa.schema([("key", pa.string()), ("chosen", pa.float64()), ("rejected", pa.float64())])


def key(base_id: str, precision: str, prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> str:
    """Return the cache key of a pair: the base's weights, their precision, and the exact tokens."""
    return content_id(base_id, precision, list(prompt), list(chosen), list(rejected))


def load(path: Path) -> dict[str, tuple[float, float]]:
    """Return all cached log-probs (chosen, rejected) by key; an unreadable cache counts as empty."""
    if not path.exists():
        return {}
    try:
        rows = pq.read_table(path, schema=_SCHEMA).to_pylist()
    except (OSError, pa.ArrowInvalid):
        return {}
    return {row["key"]: (row["chosen"], row["rejected"]) for row in rows}


def save(path: Path, known: Mapping[str, tuple[float, float]]) -> None:
    """Replace the cache atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"key": name, "chosen": chosen, "rejected": rejected} for name, (chosen, rejected) in sorted(known.items())]
    scratch = path.with_suffix(f".{os.getpid()}.part")
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), scratch)
    os.replace(scratch, path)


class Cache:
    """Log-probs (chosen, rejected) by key. Saves new ones at least every `SAVE_SECONDS` and calls `saved` with their number."""

    def __init__(self, path: Path, saved: Callable[[int], None], *, writes: bool) -> None:
        self.known = load(path)
        self._path, self._saved, self._writes = path, saved, writes
        self._new, self._at = 0, time.monotonic()

    def add(self, found: Mapping[str, tuple[float, float]]) -> None:
        """Add new log-probs."""
        self.known |= found
        self._new += len(found)
        if time.monotonic() - self._at >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Save what is new; only the process that `writes` does so."""
        if self._new and self._writes:
            save(self._path, self.known)
            self._saved(self._new)
        self._new, self._at = 0, time.monotonic()
