"""Choose prompts, let answers compete, judge them, and build the night's preference pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
from prefect import flow, task

from alignment.candidates import (
    PoolRow,
    fixed_candidates,
    revision_batches,
    revision_ids,
    revisions,
    sample_batches,
    sample_ids,
    samples,
    select,
)
from alignment.config import Settings, load_settings
from alignment.errors import InputError
from alignment.evals import held_out_texts
from alignment.ids import content_id
from alignment.labels import judge, load_constitution, review_item
from alignment.pairs import HumanVerdict, Labelled, build_pairs, mix
from alignment.records import Candidate, Judgement, Pair, Selected, Side
from alignment.store import append, query, session, sql
from data_checks import check
from flows.checks import conclude
from flows.night import base_path, embedder, interaction, night_lock, now
from flows.redact import Mask, masking, redact_deeply
from flows.show import progress


@task
def choose(night_id: str) -> int:
    """Choose tonight's exchanges once; a repeated night keeps its choice."""
    settings = load_settings()
    constitution = load_constitution(settings.labels.constitution)
    if query(settings.home, "SELECT 1 FROM selections WHERE night_id = ? LIMIT 1", [night_id]):
        return 0
    rows = query(settings.home, sql("selection_pool"), {"max_chars": settings.candidates.max_prompt_chars})
    pool = [
        PoolRow(
            interaction(row),
            row["harmful_request"],
            row["category"] or "",
            row["toxicity"],
            row["refusal"],
            row["complained"],
        )
        for row in rows
    ]
    choices = select(pool, settings.candidates, refusal_threshold=settings.moderation.refusal)
    selections = []
    for position, choice in enumerate(choices):
        side = Side.HELPFUL if choice.category in ("lookalike", "ordinary") else Side.HARM
        selections.append(
            {
                "id": content_id(night_id, choice.interaction.id),
                "night_id": night_id,
                "interaction_id": choice.interaction.id,
                "side": side,
                "category": choice.category,
                "principle_id": constitution.main(side, choice.category).id,
                "position": position,
            }
        )
    with session(settings.home, write=True) as connection:
        append(connection, "selections", selections)
    return len(selections)


def _selected(settings: Settings, night_id: str) -> list[tuple[Selected, bool]]:
    """Return what is labelled tonight, with whether a complaint leaves it to people."""
    rows = query(settings.home, sql("selected"), {"night_id": night_id, "refusal": settings.moderation.refusal})
    constitution = load_constitution(settings.labels.constitution)
    known = {principle.id for principle in constitution.principles}
    found = []
    for row in rows:
        side = Side(row["side"])
        # A principle that was renamed or removed since leaves its exchanges to the one that covers them now.
        principle = row["principle_id"] if row["principle_id"] in known else constitution.main(side, row["category"]).id
        one = Selected(interaction(row), side, row["category"], principle, row["declined"])
        # A complaint about a needless refusal says what the judge says; about any other helpful answer a person decides.
        found.append((one, row["complained"] and side is Side.HELPFUL and not one.declined))
    return found


def _masked(candidate: Candidate, mask: Mask) -> Candidate:
    """Return what a model wrote without the personal data that it may have made up or learned."""
    return replace(candidate, text=mask(candidate.text)[0], detail={name: mask(text)[0] for name, text in candidate.detail.items()})


def _save_candidates(settings: Settings, candidates: Sequence[Candidate]) -> None:
    moment = now()
    with session(settings.home, write=True) as connection:
        append(connection, "candidates", [{**asdict(one), "created_at": moment} for one in candidates])


@task
def generate(night_id: str) -> int:
    """Make the candidates of tonight's exchanges; what is there already is not generated again."""
    settings = load_settings()
    constitution = load_constitution(settings.labels.constitution)
    chosen = [one for one, _ in _selected(settings, night_id)]
    known = {row["id"] for row in query(settings.home, "SELECT id FROM candidates")}
    fixed = [
        candidate for one in chosen for candidate in fixed_candidates(one, constitution.named(one.principle_id), constitution.refusals)
    ]
    _save_candidates(settings, [candidate for candidate in fixed if candidate.id not in known])

    from alignment.models.local import LocalModel

    model = LocalModel(base_path(settings), batch_size=settings.model.batch_size)
    mask = masking(settings)
    size, budget = settings.model.batch_size, settings.candidates.revision_budget
    made = 0
    for title, batches, ids, write in (
        ("critique → revise", revision_batches(chosen, size, budget=budget), revision_ids, revisions),
        ("ask again", sample_batches(chosen, size), sample_ids, samples),
    ):
        total, done = sum(map(len, batches)), 0
        with progress(title) as advance:
            for batch in batches:
                guidance = [constitution.named(one.principle_id) for one in batch]
                if not ids(model.model_id, batch, guidance) <= known:
                    written = write(model, batch, guidance, max_new_tokens=settings.candidates.max_new_tokens)
                    _save_candidates(settings, [_masked(candidate, mask) for candidate in written])
                    made += len(written)
                done += len(batch)
                advance(done, total)
    return made


def _candidates(settings: Settings, chosen: Sequence[Selected]) -> dict[str, list[Candidate]]:
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


@task
def label(night_id: str) -> dict[str, int]:
    """Judge the candidates; what the judge is not sure of becomes a review item. Return how often each verdict was given."""
    from alignment.moderation import score_answers, versions

    settings = load_settings()
    constitution = load_constitution(settings.labels.constitution)
    chosen = _selected(settings, night_id)
    known = _candidates(settings, [one for one, _ in chosen])
    candidates = {
        one.interaction.id: [each for each in known[one.interaction.id] if each.principle_id == one.principle_id] for one, _ in chosen
    }
    pairs = [(one, candidate) for one, _ in chosen for candidate in candidates[one.interaction.id]]
    scores = score_answers([one.interaction.prompt for one, _ in pairs], [c.text for _, c in pairs], embedder=embedder())
    by_candidate = {candidate.id: score for (_, candidate), score in zip(pairs, scores, strict=True)}
    version = content_id(versions(embedder=embedder()))[:12]
    judgements, items = [], []
    for one, doubtful in chosen:
        competing = candidates[one.interaction.id]
        judgement = judge(
            one,
            competing,
            [by_candidate[candidate.id] for candidate in competing],
            constitution.named(one.principle_id),
            scorer_version=version,
            min_margin=settings.labels.min_margin,
            declines_at=settings.moderation.refusal,
        )
        judgements.append(judgement)
        if item := review_item(one, judgement, {c.id: c for c in competing}, complained=doubtful):
            items.append(item)
    moment = now()
    with session(settings.home, write=True) as connection:
        append(connection, "judgements", [{**asdict(one), "created_at": moment} for one in judgements])
        append(connection, "review_items", [{**item, "created_at": moment} for item in items])
    return dict(Counter(judgement.verdict for judgement in judgements))


def load_pairs(settings: Settings, night_id: str | None = None) -> list[Pair]:
    """Return all pairs whose logs may be trained on, or those of one night's set."""
    only = "SEMI JOIN pair_sets ON pair_sets.pair_id = pairs.id AND pair_sets.night_id = $night_id" if night_id else ""
    rows = query(
        settings.home,
        f"SELECT pairs.* EXCLUDE (built_at) FROM pairs SEMI JOIN trainable ON trainable.id = pairs.interaction_id {only} "  # noqa: S608
        "ORDER BY pairs.id",
        {"night_id": night_id} if night_id else {},
    )
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


def _judgements(settings: Settings, chosen: Sequence[Selected], decided: Sequence[str]) -> dict[str, Judgement]:
    """Return each exchange's judgement: the one that a person decided on (`decided`), else the latest."""
    rows = query(
        settings.home,
        "SELECT * EXCLUDE (created_at) FROM judgements WHERE list_contains(?, interaction_id) "
        "QUALIFY row_number() OVER (PARTITION BY interaction_id ORDER BY list_contains(?, id) DESC, created_at DESC, id) = 1",
        [[one.interaction.id for one in chosen], list(decided)],
    )
    return {
        row["interaction_id"]: Judgement(
            **{**row, "principle_ids": tuple(json.loads(row["principle_ids"])), "scores": json.loads(row["scores"])}
        )
        for row in rows
    }


def _human(settings: Settings, ruled: Sequence[dict[str, Any]]) -> dict[str, HumanVerdict]:
    """Return what people decided; an answer that they wrote is masked like one that a model gave."""
    mask = masking(settings)
    written = {row["interaction_id"]: mask(row["edited_answer"])[0] for row in ruled if row["edited_answer"]}
    return {row["interaction_id"]: HumanVerdict(row["verdict"], written.get(row["interaction_id"])) for row in ruled}


@task
def build(night_id: str) -> dict[str, Any]:
    """Build the new pairs and tonight's training set, check both, and store them; return counts."""
    settings = load_settings()
    chosen = _selected(settings, night_id)
    ruled = query(settings.home, sql("human_verdicts"))
    judgements = _judgements(settings, [one for one, _ in chosen], [row["judgement_id"] for row in ruled])
    candidates = _candidates(settings, [one for one, _ in chosen])
    labelled = [
        Labelled(
            one,
            judgements[one.interaction.id],
            {candidate.id: candidate for candidate in candidates[one.interaction.id]},
            doubtful,
        )
        for one, doubtful in chosen
        if one.interaction.id in judgements
    ]
    human = _human(settings, ruled)
    known = load_pairs(settings)
    built = build_pairs(
        labelled,
        known,
        human,
        held_out_texts(),
        settings.pairs,
        near_duplicate=settings.candidates.near_duplicate,
        embedder=embedder(),
    )
    standing = [pair for pair in known if pair.id not in built.superseded]
    training_set = mix([*standing, *built.pairs], settings.pairs)
    _check_pairs(settings, night_id, training_set)
    moment = now()
    with session(settings.home, write=True) as connection:
        append(connection, "pairs", [{**asdict(pair), "built_at": moment} for pair in built.pairs])
        append(
            connection,
            "pair_sets",
            [{"id": content_id(night_id, pair.id), "night_id": night_id, "pair_id": pair.id, "split": pair.split} for pair in training_set],
        )
        append(
            connection,
            "pair_exclusions",
            [
                {
                    "id": content_id(night_id, one, why),
                    "night_id": night_id,
                    "interaction_id": one,
                    "reason": why,
                    "detail": "",
                }
                for one, why in built.excluded
            ],
        )
    return {"new_pairs": len(built.pairs), "excluded": dict(Counter(why for _, why in built.excluded))}


def _check_pairs(settings: Settings, night_id: str, pairs: Sequence[Pair]) -> None:
    frame = pd.DataFrame(
        {
            "id": [pair.id for pair in pairs],
            "chosen": [pair.chosen for pair in pairs],
            "rejected": [pair.rejected for pair in pairs],
            "side": [pair.side.value for pair in pairs],
            "split": [pair.split for pair in pairs],
            "judge_margin": [pair.judge_margin for pair in pairs],
            "differs": [int(pair.chosen.strip() != pair.rejected.strip()) for pair in pairs],
            "zero": 0,
        }
    )
    conclude(settings, check("pairs", frame, batch=night_id, now=now()), f"the pairs of night {night_id}")


def pair_counts(settings: Settings, night_id: str) -> dict[str, Any]:
    """Return how many pairs the night's set has, by labeler and by side."""
    pairs = load_pairs(settings, night_id)
    return {
        "pairs": len(pairs),
        "pairs_by_labeler": dict(Counter(name for pair in pairs for name in pair.labelers)),
        "pairs_by_side": dict(Counter(pair.side.value for pair in pairs)),
    }


@flow(name="curate")
def curate(night_id: str) -> dict[str, Any]:
    """Build the training set of a night; return counts. A night that was built before is not built again."""
    settings = load_settings()
    with night_lock(settings.home):
        if not query(settings.home, "SELECT 1 FROM pair_sets WHERE night_id = ? LIMIT 1", [night_id]):
            choose(night_id)
            redact_deeply()
            if not _selected(settings, night_id) and not load_pairs(settings):
                raise InputError(
                    "nothing to label: no exchange is new, consents to training, is clearly harmful or harmless, and has at most "
                    f"{settings.candidates.max_prompt_chars} characters ([candidates] max_prompt_chars); add logs: 'align ingest --logs …'"
                )
            generate(night_id)
            label(night_id)
            build(night_id)
        [row] = query(settings.home, "SELECT count(*) AS n FROM selections WHERE night_id = ?", [night_id])
        return {"selected": row["n"], **pair_counts(settings, night_id)}
