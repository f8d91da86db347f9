"""What the stages of labelling read and write: the chosen exchanges, their candidates and judgements.

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
    """Return what is labelled tonight, with whether a complaint leaves it to people."""
    rows = query(settings.home, sql("flows", "selected"), {"night_id": night_id, "refusal": settings.moderation.refusal})
    constitution = load_constitution(settings.labels.constitution)
    known = constitution.versions
    found = []
    for row in rows:
        side = Side(row["side"])
        # A principle that was renamed or removed since, or is not in force, leaves its exchanges to the one that covers them now.
        principle = row["principle_id"] if row["principle_id"] in known else constitution.main(side, row["category"]).id
        one = Selected(interaction(row), side, row["category"], principle, row["declined"])
        # A complaint about a needless refusal says what the judge says; about any other helpful answer a person decides.
        found.append((one, row["complained"] and side is Side.HELPFUL and not one.declined))
    return found


def masked(candidate: Candidate, mask: Mask) -> Candidate:
    """Return what a model wrote without the personal data that it may have made up or learned."""
    return replace(candidate, text=mask(candidate.text)[0], detail={name: mask(text)[0] for name, text in candidate.detail.items()})


def save_candidates(settings: Settings, candidates: Sequence[Candidate]) -> None:
    """Store candidates that are not there yet."""
    moment = now()
    with session(settings.home, write=True) as connection:
        append(connection, "candidates", [{**asdict(one), "created_at": moment} for one in candidates])


def save_judgements(settings: Settings, judgements: Sequence[Judgement], items: Sequence[Mapping[str, Any]] = ()) -> None:
    """Store judgements that are not there yet, and the review items that ask people about some of them."""
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
    """Return each exchange's judgement: the one that a person decided on (`decided`), else the latest."""
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
    """Return what people decided, a row for each exchange."""
    return query(settings.home, sql("flows", "human_verdicts"))


def verdicts(settings: Settings, ruled: Sequence[dict[str, Any]]) -> dict[str, HumanVerdict]:
    """Return what people decided by exchange; an answer that they wrote is masked like one that a model gave."""
    mask = masking(settings)
    written = {row["interaction_id"]: mask(row["edited_answer"])[0] for row in ruled if row["edited_answer"]}
    return {row["interaction_id"]: HumanVerdict(row["verdict"], written.get(row["interaction_id"])) for row in ruled}


def rulings(settings: Settings) -> list[Ruling]:
    """Return what people said of pairs that are there; an answer that they wrote is masked like one that a model gave."""
    found = load_rulings(settings.home)
    if not any(one.edited_answer for one in found):
        return found
    mask = masking(settings)
    return [one._replace(edited_answer=mask(one.edited_answer)[0]) if one.edited_answer else one for one in found]


def labelled(settings: Settings, night_id: str, ruled: Sequence[dict[str, Any]]) -> list[Labelled]:
    """Return what tonight's labels and people's decisions are about; an empty night has people's alone."""
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
