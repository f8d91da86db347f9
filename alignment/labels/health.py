"""Measure a self-rewarding labeler's health at a release from the store, and record it, so that its trend can be shown.

Effects: reads and appends to the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from alignment.ids import content_id
from alignment.labels.collapse import Agreement, Answers, Health, agreement, describe, halting
from alignment.labels.judge import LABELER as ANCHOR
from alignment.labels.labeler import Labeler
from alignment.sections import SelfReward
from alignment.store import append, query, session, sql

_PARTS = ("distinct_1", "distinct_2", "distinct_3")


class Champion(NamedTuple):
    """The release in production: its id, its weights, and the base's weights."""

    id: str
    model_id: str
    base_id: str


def measure(home: Path, labeler: Labeler, release: Champion) -> tuple[Health, Answers]:
    """Return the labeler's health, and the statistics of the base's answers to the same prompts, from the store."""
    votes = query(home, sql("alignment.labels", "health_votes"), {"labeler": labeler.name, "version": labeler.version, "anchor": ANCHOR})
    answered = query(home, sql("alignment.labels", "health_answers"), {"champion": release.model_id, "base": release.base_id})
    return _health(votes, [row["champion"] for row in answered]), describe([row["base"] for row in answered])


def _health(votes: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> Health:
    preferred = {row["comparison"]: row["chosen_id"] for row in votes}
    anchor, human = (
        agreement(preferred, {row["comparison"]: row[name] for row in votes if row[name] is not None}) for name in ("anchor_id", "human_id")
    )
    margins = [row["margin"] for row in votes]
    return Health(anchor, human, describe(answers), sum(margins) / len(margins) if margins else None, len(margins))


def check_health(home: Path, labeler: Labeler, release: Champion, settings: SelfReward, *, now: datetime) -> tuple[str, ...]:
    """Measure the labeler, store the measurement, and return why it must be silent (see `halting`)."""
    health, base = measure(home, labeler, release)
    before = [
        _stored(row)
        for row in query(home, sql("alignment.labels", "health_history"), {"labeler": labeler.name})
        if row["release_id"] != release.id
    ]
    reasons = halting(health, settings, base=base, first=before[0] if before else None)
    with session(home, write=True) as connection:
        append(connection, "labeler_health", [_row(labeler, release, health, reasons, now)])
    return reasons


def _row(labeler: Labeler, release: Champion, health: Health, reasons: Sequence[str], now: datetime) -> dict[str, Any]:
    values = {
        "release_id": release.id,
        "model_id": release.model_id,
        "labeler": labeler.name,
        "labeler_version": labeler.version,
        "anchor_agreement": health.anchor.share,
        "anchor_n": health.anchor.n,
        "human_agreement": health.human.share,
        "human_n": health.human.n,
        **dict(zip(_PARTS, health.answers.distinct, strict=True)),
        "mean_length": health.answers.mean_length,
        "answers": health.answers.n,
        "mean_margin": health.margin,
        "votes": health.votes,
        "halted": bool(reasons),
        "reasons": list(reasons),
    }
    return {"id": content_id(values), **values, "measured_at": now}


def _stored(row: Mapping[str, Any]) -> Health:
    return Health(
        Agreement(row["anchor_agreement"], row["anchor_n"]),
        Agreement(row["human_agreement"], row["human_n"]),
        Answers(tuple(row[name] for name in _PARTS), row["mean_length"], row["answers"]),
        row["mean_margin"],
        row["votes"],
    )
