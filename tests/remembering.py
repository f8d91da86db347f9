"""`python -m tests.remembering …`: the `align` command, whose embedder's vectors stay in the folder TESTS_VECTORS for other tests' nights.

Nights of tests read the same logs, seeds and suites; reading them again is most of a small night's time.

Effects: reads and writes that folder, and whatever the command does.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alignment.models.embedder import Embedder, Matrix

_known: dict[tuple[str, str], Any] = {}


@contextmanager
def remembering() -> Iterator[None]:
    """Let every embedder look first, by its version and the text, among the vectors that are kept; keep at the end what it computed."""
    kept = Path(os.environ["TESTS_VECTORS"]) / "vectors.pickle"
    if kept.exists():
        _known.update(pickle.loads(kept.read_bytes()))
    before, computed = len(_known), Embedder.embed
    Embedder.embed = _looking_first(computed)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Embedder.embed = computed  # type: ignore[method-assign]
        if len(_known) > before:
            part = kept.with_suffix(f".{os.getpid()}")
            part.write_bytes(pickle.dumps(_known))
            os.replace(part, kept)


def _looking_first(compute: Any) -> Any:
    def embed(self: Embedder, texts: Sequence[str], *, progress: Any = None) -> Matrix:
        new = sorted({text for text in texts if (self.version, text) not in _known})
        if new or not texts:
            computed = compute(self, new, progress=progress)
            _known.update(zip(((self.version, text) for text in new), computed, strict=True))
        return np.stack([_known[self.version, text] for text in texts]) if texts else computed

    return embed


def main() -> None:
    """Run the command."""
    sys.argv[0] = "align"
    with remembering():
        from flows import cli

        cli.main()


if __name__ == "__main__":
    main()
