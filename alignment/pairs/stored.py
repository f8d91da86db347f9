"""Load and save pairs, and what is stored with them.

Effects: reads and writes the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from alignment.ids import content_id
from alignment.pairs.build import Built
from alignment.pairs.constitution_versions import Decision
from alignment.records import Pair, Side
from alignment.store import append, query, session, sql


class Origin(NamedTuple):
    """The log source and the conversation of an exchange; empty if unknown."""

    source: str
    conversation: str


def load_pairs(home: Path, night_id: str | None = None) -> list[Pair]:
    """Return all pairs whose logs may be trained on, or those in one night's training set."""
    rows = query(home, sql("alignment.pairs", "trainable_pairs"), {"night_id": night_id})
    return [
        Pair(
            **{
                **row,
                "side": Side(row["side"]),
                "messages": tuple(json.loads(row["messages"])),
                "labelers": tuple(json.loads(row["labelers"])),
                "principle_ids": tuple(json.loads(row["principle_ids"])),
            }
        )
        for row in rows
    ]


def load_decisions(home: Path) -> list[Decision]:
    """Return the decisions by principles of all versions."""
    return [
        Decision(**row) for row in query(home, "SELECT interaction_id, principle_id, principle_version, pair_id FROM principle_decisions")
    ]


def origins(home: Path, exchanges: Iterable[str]) -> dict[str, Origin]:
    """Return the origins of exchanges, by their ids."""
    rows = query(home, sql("alignment.pairs", "origins"), {"ids": list(exchanges)})
    return {row["id"]: Origin(row["source"], row["conversation"]) for row in rows}


def save_night(
    home: Path, night_id: str, built: Built, training_set: Sequence[Pair], decisions: Sequence[Decision], *, now: datetime
) -> None:
    """Store a night's new pairs, training set, decisions and exclusions in one transaction."""
    decided = [{"id": content_id(night_id, *one), **one._asdict(), "night_id": night_id, "decided_at": now} for one in decisions]
    sets = [{"id": content_id(night_id, pair.id), "night_id": night_id, "pair_id": pair.id, "split": pair.split} for pair in training_set]
    exclusions = [
        {"id": content_id(night_id, one, why), "night_id": night_id, "interaction_id": one, "reason": why, "detail": ""}
        for one, why in built.excluded
    ]
    with session(home, write=True) as connection:
        append(connection, "pairs", [{**asdict(pair), "built_at": now} for pair in built.pairs])
        append(connection, "principle_decisions", decided)
        append(connection, "pair_sets", sets)
        append(connection, "pair_exclusions", exclusions)
