"""Load and store the inputs and outputs of labelling: selected exchanges, their candidates and judgements.

Effects: reads and writes the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from alignment.config import Settings
from alignment.labels import load_constitution
from alignment.pairs import HumanVerdict, Labelled, Ruling, load_rulings
from alignment.records import Candidate, Judgement, Selected, Side
from alignment.store import append, query, session, sql
from flows.night import interaction, now
from flows.redact import Mask, masking


def selected(settings: Settings, night_id: str) -> list[tuple[Selected, bool]]:
    """Return the exchanges to label tonight, each with whether a complaint leaves its verdict to people."""
    rows = query(settings.home, sql("flows", "selected"), {"night_id": night_id, "refusal": settings.moderation.refusal})
    constitution = load_constitution(settings.labels.constitution)
    known = constitution.versions
    found = []
    for row in rows:
        side = Side(row["side"])
        # If the principle was renamed, removed or disabled since, use the principle that now covers the category.
        principle = row["principle_id"] if row["principle_id"] in known else constitution.main(side, row["category"]).id
        one = Selected(interaction(row), side, row["category"], principle, row["declined"])
        # A complaint about a needless refusal agrees with the judge; a complaint about any other helpful answer goes to a person.
        found.append((one, row["complained"] and side is Side.HELPFUL and not one.declined))
    return found


def masked(candidate: Candidate, mask: Mask) -> Candidate:
    """Return a model's candidate with personal data masked, whether the model invented or learned it."""
    return replace(candidate, text=mask(candidate.text)[0], detail={name: mask(text)[0] for name, text in candidate.detail.items()})


def save_candidates(settings: Settings, candidates: Sequence[Candidate]) -> None:
    """Store the candidates that are not stored yet."""
    moment = now()
    with session(settings.home, write=True) as connection:
        append(connection, "candidates", [{**asdict(one), "created_at": moment} for one in candidates])


def save_judgements(settings: Settings, judgements: Sequence[Judgement], items: Sequence[Mapping[str, Any]] = ()) -> None:
    """Store the judgements that are not stored yet, with the review items that ask people about some of them."""
    moment = now()
    with session(settings.home, write=True) as connection:
        append(connection, "judgements", [{**asdict(one), "created_at": moment} for one in judgements])
        append(connection, "review_items", [{**item, "created_at": moment} for item in items])


def candidates_of(settings: Settings, chosen: Sequence[Selected]) -> dict[str, list[Candidate]]:
    """Return the candidates of each exchange."""
    wanted = [one.interaction.id for one in chosen]
    rows = query(
        settings.home,
        "SELECT * EXCLUDE (created_at) FROM candidates WHERE list_contains(?, interaction_id) ORDER BY id",
        [wanted],
    )
    found: dict[str, list[Candidate]] = {}
    for row in rows:
        found.setdefault(row["interaction_id"], []).append(Candidate(**{**row, "detail": json.loads(row["detail"])}))
    return found


def judgements_of(settings: Settings, chosen: Sequence[Selected], decided: Sequence[str]) -> dict[str, Judgement]:
    """Return each exchange's judgement: the judgement that a person decided on (`decided`), else the latest."""
    rows = query(
        settings.home,
        sql("flows", "label_judgements"),
        {"ids": [one.interaction.id for one in chosen], "decided": list(decided)},
    )
    return {
        row["interaction_id"]: Judgement(
            **{**row, "principle_ids": tuple(json.loads(row["principle_ids"])), "scores": json.loads(row["scores"])}
        )
        for row in rows
    }


def ruled(settings: Settings) -> list[dict[str, Any]]:
    """Return people's decisions, one row per exchange."""
    return query(settings.home, sql("flows", "human_verdicts"))


def verdicts(settings: Settings, ruled: Sequence[dict[str, Any]]) -> dict[str, HumanVerdict]:
    """Return people's decisions by exchange; answers that people wrote are masked like a model's answers."""
    mask = masking(settings)
    written = {row["interaction_id"]: mask(row["edited_answer"])[0] for row in ruled if row["edited_answer"]}
    return {row["interaction_id"]: HumanVerdict(row["verdict"], written.get(row["interaction_id"])) for row in ruled}


def rulings(settings: Settings) -> list[Ruling]:
    """Return people's rulings on stored pairs; answers that people wrote are masked like a model's answers."""
    found = load_rulings(settings.home)
    if not any(one.edited_answer for one in found):
        return found
    mask = masking(settings)
    return [one._replace(edited_answer=mask(one.edited_answer)[0]) if one.edited_answer else one for one in found]


def labelled(settings: Settings, night_id: str, ruled: Sequence[dict[str, Any]]) -> list[Labelled]:
    """Return the items that tonight's labels and people's decisions are about; an empty `night_id` returns people's items only."""
    chosen = selected(settings, night_id)
    judgements = judgements_of(settings, [one for one, _ in chosen], [row["judgement_id"] for row in ruled])
    candidates = candidates_of(settings, [one for one, _ in chosen])
    return [
        Labelled(
            one,
            judgements[one.interaction.id],
            {candidate.id: candidate for candidate in candidates[one.interaction.id]},
            doubtful,
        )
        for one, doubtful in chosen
        if one.interaction.id in judgements
    ]
