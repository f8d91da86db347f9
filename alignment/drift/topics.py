"""Tell last week's prompts from those of the weeks before, as a score that a later day is compared by. Pure functions.

The score is learnt from days that are already compared, so that neither today's prompts nor the baseline's are in it: a difference between
their scores is evidence like any other signal's. Other days of users who return may be in it, which biases the score a little
(docs/decisions/35-drift.md). Source: Podkopaev & Ramdas 2023 (arXiv:2305.00143), sequential two-sample tests with a
learnt classifier; here naive Bayes on words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.statistics.betting import Array

WIDTH, MOST_WORDS = 1 << 13, 60
_SMOOTHING, _RARE, _STRONGEST = 1.0, -3.0, 3.0
"""Prompts added to each word's count, the prior log odds of a new topic (one prompt in twenty), and the most that one word says."""
_WORD = re.compile(r"\w{3,40}")
_LEAST = 50


class Prompts(NamedTuple):
    """The distinct words of `number` prompts, below WIDTH: (W,), with the place of the prompt that each belongs to, (W,)."""

    words: NDArray[np.int64]
    owner: NDArray[np.int64]
    number: int

    @property
    def counts(self) -> Array:
        """In how many prompts each word occurs, (WIDTH,)."""
        return np.bincount(self.words, minlength=WIDTH).astype(np.float64)


def words(text: str) -> tuple[int, ...]:
    """Return the distinct words of a text's beginning, as numbers below WIDTH."""
    return tuple({zlib.crc32(word.encode()) % WIDTH for word in _WORD.findall(text.lower())[:MOST_WORDS]})


def gather(prompts: Sequence[tuple[int, ...]]) -> Prompts:
    """Return the words of several prompts in one record."""
    sizes = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    flat = np.array([word for prompt in prompts for word in prompt], dtype=np.int64)
    return Prompts(flat, np.repeat(np.arange(len(prompts)), sizes), len(prompts))


def learn(new: Array, old: Array, *, number: tuple[int, int]) -> Array | None:
    """Return the log odds of each word (WIDTH,) that a prompt with it is new; None if there are under 50 prompts of either kind.

    `new` and `old` count the prompts with each word, `number` all prompts of both.
    """
    if min(number) < _LEAST:
        return None
    # As if there were as many old as new prompts.
    scaled = old * (number[0] / number[1])
    return np.clip(np.log((new + _SMOOTHING) / (scaled + _SMOOTHING)), -_STRONGEST, _STRONGEST)


def score(odds: Array, prompts: Prompts) -> Array:
    """Return how new each prompt looks, in 0..1."""
    total = np.bincount(prompts.owner, odds[prompts.words], prompts.number)
    return np.asarray(1 / (1 + np.exp(-(total + _RARE))))
