"""Which conversations ask what an evaluation suite asks, so that they must not be trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignment.models.embedder import Embedder
from alignment.records import Message
from alignment.text import similar

SAME_TEXT, SAME_MEANING = 0.6, 0.8
"""Similarity to an evaluation prompt, by characters and by embedding, from which a turn is contaminated."""


def contaminated(conversations: Sequence[Sequence[Message]], suite_prompts: Sequence[str], embedder: Embedder | None) -> set[int]:
    """Return the positions of conversations in which the user says, in any turn, what a suite asks, in the same or in other words.

    Without an embedder only the wording is compared.
    """
    said = [(at, turn["content"]) for at, messages in enumerate(conversations) for turn in messages if turn["role"] == "user"]
    turns = [text for _, text in said]
    found = {i for i, _, _ in similar(turns, suite_prompts, SAME_TEXT)}
    if embedder is not None and turns and suite_prompts:
        cosines = embedder.embed(turns) @ embedder.embed(suite_prompts).T
        found |= {int(i) for i in np.flatnonzero(cosines.max(axis=1) >= SAME_MEANING)}
    return {said[i][0] for i in found}
