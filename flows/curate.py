"""Choose prompts, let answers compete, judge them, and build the night's preference pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import pandas as pd
from prefect import flow, task

from alignment.candidates import (
    PoolRow,
    contrast_batches,
    contrast_ids,
    contrasts,
    critic,
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
from alignment.evals import SUITES, held_out_texts
from alignment.ids import content_id
from alignment.labels import Constitution, Principle, load_constitution
from alignment.pairs import (
    Built,
    Decision,
    HumanVerdict,
    Labelled,
    Standing,
    asked,
    build_pairs,
    contaminated_any,
    decided,
    mix,
    stand,
    superseded,
)
from alignment.records import Candidate, Pair, Selected, Side
from alignment.store import append, query, session, sql
from alignment.text import cap
from data_checks import check
from flows.checks import conclude
from flows.chosen import candidates_of, judgements_of, masked, save_candidates, selected
from flows.evaluate import suites
from flows.label import label
from flows.night import base_path, embedder, interaction, night_lock, now
from flows.redact import masking, redact_deeply
from flows.show import progress, say


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
    choices = select(pool, settings.candidates, refusal_threshold=settings.moderation.refusal, embedder=embedder())
    selections: list[dict[str, Any]] = []
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
    selections += _again(settings, constitution, night_id, after=len(selections), but={str(row["interaction_id"]) for row in selections})
    with session(settings.home, write=True) as connection:
        append(connection, "selections", selections)
    return len(selections)


def _again(settings: Settings, constitution: Constitution, night_id: str, *, after: int, but: set[str]) -> list[dict[str, Any]]:
    """Return selections of the exchanges whose pairs rest on a principle that was edited since."""
    stale = {pair.interaction_id: pair for pair in standing(settings).stale if pair.interaction_id not in but}
    return [
        {
            "id": content_id(night_id, pair.interaction_id),
            "night_id": night_id,
            "interaction_id": pair.interaction_id,
            "side": pair.side,
            "category": pair.category,
            "principle_id": constitution.main(pair.side, pair.category).id,
            "position": after + number,
        }
        for number, pair in enumerate(stale.values())
    ]


def standing(settings: Settings) -> Standing:
    """Return what people and the constitution of today say of all pairs whose logs may be trained on; overruled by people are none."""
    ruled = query(settings.home, sql("human_verdicts"))
    known, human = load_pairs(settings), _human(settings, ruled)
    gone = superseded(known, _labelled(settings, "", ruled), human)
    return _standing(settings, [pair for pair in known if pair.id not in gone])


def _standing(settings: Settings, pairs: Sequence[Pair], made: Sequence[Decision] = ()) -> Standing:
    rows = query(settings.home, "SELECT interaction_id, principle_id, principle_version, pair_id FROM principle_decisions")
    constitution = load_constitution(settings.labels.constitution)
    return stand(pairs, [*(Decision(**row) for row in rows), *made], constitution.versions)


@task
def generate(night_id: str) -> int:
    """Make the candidates of tonight's exchanges; what is there already is not generated again."""
    settings = load_settings()
    constitution = load_constitution(settings.labels.constitution)
    chosen = [one for one, _ in selected(settings, night_id)]
    known = {row["id"] for row in query(settings.home, "SELECT id FROM candidates")}
    fixed = [
        candidate for one in chosen for candidate in fixed_candidates(one, constitution.named(one.principle_id), constitution.refusals)
    ]
    save_candidates(settings, [candidate for candidate in fixed if candidate.id not in known])

    from alignment.models.local import LocalModel

    model = LocalModel(base_path(settings), batch_size=settings.model.batch_size)
    mask = masking(settings)
    size, budget = settings.model.batch_size, settings.candidates.revision_budget
    rounds = settings.candidates.revision_rounds

    def critics(batch: Sequence[Selected]) -> list[Principle]:
        return [critic(one, constitution.covering(one.side, one.category)) for one in batch]

    def revised_ids(name: str, batch: Sequence[Selected], guidance: Sequence[Principle]) -> set[str]:
        return revision_ids(name, batch, guidance, critics=critics(batch), rounds=rounds)

    def revise(model: Any, batch: Sequence[Selected], guidance: Sequence[Principle], *, max_new_tokens: int) -> list[Candidate]:
        return revisions(model, batch, guidance, max_new_tokens=max_new_tokens, critics=critics(batch), rounds=rounds)

    made = 0
    for title, batches, ids, write in (
        ("critique → revise", revision_batches(chosen, size, budget=budget), revised_ids, revise),
        ("contrast", contrast_batches(chosen, size, budget=settings.candidates.contrast_budget), contrast_ids, contrasts),
        ("ask again", sample_batches(chosen, size), sample_ids, samples),
    ):
        total, done = sum(map(len, batches)), 0
        with progress(title) as advance:
            for batch in batches:
                guidance = [constitution.named(one.principle_id) for one in batch]
                if not ids(model.model_id, batch, guidance) <= known:
                    written = write(model, batch, guidance, max_new_tokens=settings.candidates.max_new_tokens)
                    save_candidates(settings, [masked(candidate, mask) for candidate in written])
                    made += len(written)
                done += len(batch)
                advance(done, total)
    return made


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


def _human(settings: Settings, ruled: Sequence[dict[str, Any]]) -> dict[str, HumanVerdict]:
    """Return what people decided; an answer that they wrote is masked like one that a model gave."""
    mask = masking(settings)
    written = {row["interaction_id"]: mask(row["edited_answer"])[0] for row in ruled if row["edited_answer"]}
    return {row["interaction_id"]: HumanVerdict(row["verdict"], written.get(row["interaction_id"])) for row in ruled}


def _labelled(settings: Settings, night_id: str, ruled: Sequence[dict[str, Any]]) -> list[Labelled]:
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


@task
def build(night_id: str) -> dict[str, Any]:
    """Build the new pairs and tonight's training set, check both, and store them; return counts."""
    settings = load_settings()
    ruled = query(settings.home, sql("human_verdicts"))
    known, human = load_pairs(settings), _human(settings, ruled)
    labelled = _labelled(settings, night_id, ruled)
    asked_by_suites = _held_out(settings)
    built = build_pairs(
        labelled,
        known,
        human,
        asked_by_suites,
        settings.pairs,
        near_duplicate=settings.candidates.near_duplicate,
        conversations=_origins(settings, known, "conversation"),
        embedder=embedder(),
    )
    for name in sorted(built.placeholders):
        say(
            f"warning: too many exchanges have the conversation id {cap(name, 40)!r} for one conversation: they are split by their prompts "
            "alone, so that turns of one conversation may be both trained on and held out; give each conversation an id of its own"
        )
    made = decided(labelled, human, load_constitution(settings.labels.constitution).versions)
    gone = superseded(known, labelled, human)
    current = _standing(settings, [pair for pair in known if pair.id not in gone], made).current
    # A suite that was added or changed since they were built may ask what earlier pairs teach.
    dirty = contaminated_any([asked(pair.messages) for pair in current], asked_by_suites, embedder())
    usable = [*(pair for at, pair in enumerate(current) if at not in dirty), *built.pairs]
    training_set = mix(usable, settings.pairs, sources=_origins(settings, usable, "source"))
    _check_pairs(settings, night_id, training_set)
    _save(settings, night_id, built, training_set, made)
    return {"new_pairs": len(built.pairs), "excluded": dict(Counter(why for _, why in built.excluded))}


def _held_out(settings: Settings) -> list[str]:
    """Return all that the bundled suites, and those that the gate's rules name by a file, ask."""
    own = [prompt.prompt for name, prompts in suites(settings).items() if name not in SUITES for prompt in prompts]
    return [*held_out_texts(), *own]


def _origins(settings: Settings, pairs: Sequence[Pair], what: Literal["source", "conversation"]) -> dict[str, str]:
    """Return the log source or the conversation of each pair's exchange, by the exchange's id."""
    rows = query(settings.home, sql("pair_origins"), {"ids": [pair.interaction_id for pair in pairs]})
    return {row["id"]: row[what] for row in rows}


def _save(settings: Settings, night_id: str, built: Built, training_set: Sequence[Pair], made: Sequence[Decision]) -> None:
    moment = now()
    decisions = [{"id": content_id(night_id, *one), **one._asdict(), "night_id": night_id, "decided_at": moment} for one in made]
    sets = [{"id": content_id(night_id, pair.id), "night_id": night_id, "pair_id": pair.id, "split": pair.split} for pair in training_set]
    exclusions = [
        {"id": content_id(night_id, one, why), "night_id": night_id, "interaction_id": one, "reason": why, "detail": ""}
        for one, why in built.excluded
    ]
    with session(settings.home, write=True) as connection:
        append(connection, "pairs", [{**asdict(pair), "built_at": moment} for pair in built.pairs])
        append(connection, "principle_decisions", decisions)
        append(connection, "pair_sets", sets)
        append(connection, "pair_exclusions", exclusions)


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
            if not selected(settings, night_id) and not load_pairs(settings):
                raise InputError(
                    "nothing to label: no exchange is new, consents to training, is clearly harmful or harmless, and has at most "
                    f"{settings.candidates.max_prompt_chars} characters ([candidates] max_prompt_chars); add logs: 'align ingest --logs …'"
                )
            generate(night_id)
            label(night_id)
            build(night_id)
        [row] = query(settings.home, "SELECT count(*) AS n FROM selections WHERE night_id = ?", [night_id])
        return {"selected": row["n"], **pair_counts(settings, night_id)}
