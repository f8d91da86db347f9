"""`python -m tests.remembering FOLDER …`: the `align` command, whose embedder's vectors stay in FOLDER for the next night of a test.

Nights of one module read the same logs, seeds and suites; reading them again is most of a small night's time.

Effects: reads and writes FOLDER, and whatever the command does.
"""

from __future__ import annotations

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
    kept = Path(sys.argv[1]) / "vectors.pickle"
    known = pickle.loads(kept.read_bytes()) if kept.exists() else {}
    remember(known)
    from flows import cli

    sys.argv = ["align", *sys.argv[2:]]
    try:
        cli.main()
    finally:
        kept.write_bytes(pickle.dumps(known))


if __name__ == "__main__":
    main()
