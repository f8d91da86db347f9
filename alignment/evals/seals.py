"""Seals: each row carries a content address of its own values, so that edits show. Pure functions.

A seal is not a signature: whoever can write to the state folder and knows this file can create a new seal. Seals catch edits and mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from alignment.ids import content_id

DIGEST = "digest"


def seal(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a results row with the content address of all its other values added.

    >>> fits(seal({"id": "1", "outcome": 0})), fits({**seal({"id": "1", "outcome": 1}), "outcome": 0}), fits({"id": "1"})
    (True, False, True)
    """
    bare = {key: value for key, value in row.items() if key != DIGEST}
    return {**bare, DIGEST: content_id(bare)}


def fits(row: Mapping[str, Any]) -> bool:
    """Say whether a row still matches its seal; a row without a seal always does."""
    return DIGEST not in row or seal(row)[DIGEST] == row[DIGEST]


def answer_digest(answer_id: str, prompt: str, response: str) -> str:
    """Return the seal of a stored answer, as gate_evidence.sql computes it."""
    return _of(answer_id, prompt, response)


def score_digest(answer_id: str, scorer: str, version: str, scores: str, outcome: int | None) -> str:
    """Return the seal of a stored verdict, as gate_evidence.sql computes it; `scores` is the JSON text as stored."""
    return _of(answer_id, scorer, version, scores, "null" if outcome is None else str(outcome))


def _of(*values: str) -> str:
    return sha256("\x1f".join(values).encode("utf-8", "surrogatepass")).hexdigest()
