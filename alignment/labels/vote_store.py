"""Store votes, so that no labeler is asked again about a comparison that it voted on.

Effects: reads and appends to the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from alignment.ids import content_id
from alignment.labels.labeler import Comparison, Labeler, Vote
from alignment.labels.panel import Proposal
from alignment.labels.rule import SignalsLabeler
from alignment.store import append, query, session


def known_votes(home: Path, labeler: Labeler, proposals: Sequence[Proposal]) -> dict[str, Vote]:
    """Return the labeler's stored votes on these proposals, by comparison; it is asked again where it could not tell."""
    ids = {content_id(*_key(labeler, one.comparison), True): one.comparison.id for one in proposals}
    rows = query(home, "SELECT id, verdict, margin, detail FROM votes WHERE list_contains(?, id)", [list(ids)])
    return {ids[row["id"]]: Vote(row["verdict"], row["margin"], json.loads(row["detail"])) for row in rows}


def save_votes(
    home: Path,
    night_id: str,
    labeler: Labeler,
    proposals: Sequence[Proposal],
    votes: Sequence[Vote],
    *,
    mask: Callable[[str], str],
    moment: datetime,
) -> None:
    """Store one vote per proposal; texts in the votes' details are masked."""
    rows: list[dict[str, Any]] = [
        {
            "id": _address(labeler, one.comparison, vote), "night_id": night_id,
            "interaction_id": one.selected.interaction.id, "judgement_id": one.judgement.id, "labeler": labeler.name,
            "labeler_version": labeler.version, "first_id": one.comparison.first.id, "second_id": one.comparison.second.id,
            "verdict": vote.verdict, "margin": vote.margin, "created_at": moment,
            "detail": {key: mask(value) if isinstance(value, str) else value for key, value in vote.detail.items()},
        }
        for one, vote in zip(proposals, votes, strict=True)
    ]  # fmt: skip
    with session(home, write=True) as connection:
        append(connection, "votes", rows)


def _key(labeler: Labeler, one: Comparison) -> tuple[str, ...]:
    return "vote", one.id, labeler.name, labeler.version


def _address(labeler: Labeler, one: Comparison, vote: Vote) -> str:
    # Signals change without a version change, so the vote itself is part of the address.
    said = [vote.verdict, vote.margin, dict(vote.detail)] if isinstance(labeler, SignalsLabeler) else vote.verdict != "unscored"
    return content_id(*_key(labeler, one), said)
