"""Find conversations that ask what an evaluation suite asks, so that they are not trained on.

Effects: `find_contaminated` reads and writes the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from alignment.ids import content_id
from alignment.models.embedder import Embedder
from alignment.models.vectors import kept_vectors
from alignment.records import Message
from alignment.store import append, query, session
from alignment.text import similar

SAME_TEXT, SAME_MEANING = 0.6, 0.8
"""Similarity to an evaluation prompt, by characters and by embedding, at which a turn counts as contaminated."""


def find_contaminated(
    home: Path, exchanges: Mapping[str, Sequence[Message]], suite_prompts: Sequence[str], embedder: Embedder, *, now: datetime
) -> frozenset[str]:
    """Return the ids of contaminated `exchanges`; earlier comparisons with the same prompts are reused."""
    prompts = sorted(set(suite_prompts))
    version = content_id(embedder.version, SAME_TEXT, SAME_MEANING, prompts)
    keys = {name: content_id(version, _asked(messages)) for name, messages in exchanges.items()}
    rows = query(home, "SELECT id, contaminated FROM contamination_checks WHERE version = ?", [version])
    known = {row["id"]: bool(row["contaminated"]) for row in rows}
    if new := [name for name, key in keys.items() if key not in known]:
        found = contaminated([exchanges[name] for name in new], prompts, embedder, folder=home / "vectors")
        verdicts = {name: at in found for at, name in enumerate(new)}
        checks = [
            {"id": keys[name], "interaction_id": name, "version": version, "contaminated": verdict, "checked_at": now}
            for name, verdict in verdicts.items()
        ]
        with session(home, write=True) as connection:
            append(connection, "contamination_checks", checks)
        known |= {keys[name]: verdict for name, verdict in verdicts.items()}
    return frozenset(name for name, key in keys.items() if known[key])


def contaminated(
    conversations: Sequence[Sequence[Message]], suite_prompts: Sequence[str], embedder: Embedder | None, *, folder: Path | None = None
) -> set[int]:
    """Return the positions of conversations in which any user turn asks what a suite asks, in the same or in other words.

    Without an embedder, only the wording is compared. `folder`, if given, caches the vectors of the suites' prompts.
    """
    said = [(at, text) for at, messages in enumerate(conversations) for text in _asked(messages)]
    turns = [text for _, text in said]
    found = {i for i, _, _ in similar(turns, suite_prompts, SAME_TEXT)}
    if embedder is not None and turns and suite_prompts:
        suite = kept_vectors("suites", suite_prompts, embedder=embedder, folder=folder) if folder else embedder.embed(suite_prompts)
        cosines = embedder.embed(turns) @ suite.T
        found |= {int(i) for i in np.flatnonzero(cosines.max(axis=1) >= SAME_MEANING)}
    return {said[i][0] for i in found}


def _asked(messages: Sequence[Message]) -> list[str]:
    return [turn["content"] for turn in messages if turn["role"] == "user"]
