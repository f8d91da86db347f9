"""`python -m tests.remembering …`: the `align` command, whose embedder's vectors stay in the folder TESTS_VECTORS for other tests' nights.

Nights of tests read the same logs, seeds and suites; reading them again is most of a small night's time.

Effects: reads and writes that folder, and whatever the command does.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignment.models.embedder import Embedder, Matrix

_computed = Embedder.embed


def remember(known: dict[tuple[str, str], Any]) -> None:
    """Let every embedder look in `known` first, by its version and the text, and put there what it computes."""

    def embed(self: Embedder, texts: Sequence[str], *, progress: Any = None) -> Matrix:
        new = sorted({text for text in texts if (self.version, text) not in known})
        if new or not texts:
            known.update(zip(((self.version, text) for text in new), computed := _computed(self, new, progress=progress), strict=True))
        return np.stack([known[self.version, text] for text in texts]) if texts else computed

    Embedder.embed = embed  # type: ignore[method-assign]


def main() -> None:
    """Run the command with what is known, and keep what it added."""
    kept = Path(os.environ["TESTS_VECTORS"]) / "vectors.pickle"
    known = pickle.loads(kept.read_bytes()) if kept.exists() else {}
    before = len(known)
    remember(known)
    from flows import cli

    sys.argv[0] = "align"
    try:
        cli.main()
    finally:
        if len(known) > before:
            part = kept.with_suffix(f".{os.getpid()}")
            part.write_bytes(pickle.dumps(known))
            os.replace(part, kept)


if __name__ == "__main__":
    main()
