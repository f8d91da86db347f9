"""Hashed words and word pairs of a request: phrasing that a sentence vector averages away."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from alignment.wording import plain

Matrix = npt.NDArray[np.float32]
BUCKETS = 2**12
SCALE = 1.5
_WORD = re.compile(r"[a-z']+")
_MAX_CHARS = 2000


def request_grams(prompts: Sequence[str]) -> Matrix:
    """Return a (len(prompts), BUCKETS) matrix: 1 per word, word pair and opening of three or four words, each row scaled to norm SCALE.

    The hash is CRC-32, the same on every machine. For an empty prompt only its empty opening counts.
    Source: feature hashing, Weinberger et al. 2009 (arXiv:0902.2206), without the sign.
    """
    found = np.zeros((len(prompts), BUCKETS), dtype=np.float32)
    for row, prompt in enumerate(prompts):
        buckets = sorted({zlib.crc32(name.encode()) % BUCKETS for name in _names(prompt)})
        found[row, buckets] = SCALE / len(buckets) ** 0.5
    return found


def _names(prompt: str) -> set[str]:
    words = _WORD.findall(plain(prompt[:_MAX_CHARS]))
    framed = ["^", *words, "$"]
    pairs = {f"{left} {right}" for left, right in zip(framed, framed[1:], strict=False)}
    return {*words, *pairs, " ".join(framed[:3]), " ".join(framed[:4])}
