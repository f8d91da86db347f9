"""Judge the candidates: the constitution proposes a best and a worst answer, every labeler votes on that, and the votes decide.

Effects: reads and writes the store; loads models; calls a teacher where one is configured.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from prefect import task
from prefect.logging import get_logger

from alignment.candidates import current
from alignment.config import Settings, load_settings
from alignment.ids import content_id
from alignment.labels import judge, load_constitution
from alignment.labels.aggregate import aggregate, weight
from alignment.labels.calibration import Reliability
from alignment.labels.constitution import Constitution
from alignment.labels.decide import USER_EDIT, comparison, decide, edited, edits_of, own_vote, question
from alignment.labels.health import Release, check_health
from alignment.labels.implicit import NO_RELEASE, ImplicitReward
from alignment.labels.judge import LABELER
from alignment.labels.model_judge import ModelJudge, self_judge, teacher
from alignment.labels.rule import Absent, ConstitutionLabeler, SignalsLabeler
from alignment.labels.vote import Comparison, Labeler, Vote
from alignment.models.logprobs import CachedLogProbs
from alignment.records import Candidate, Judgement, Selected
from alignment.release import BASE
from alignment.release import current as current_release
from alignment.store import append, query, session, sql
from flows.chosen import candidates_of, masked, save_candidates, selected
from flows.evaluate import adapter_of, load_model
from flows.measure import fitness, measure_detectors
from flows.night import embedder, now
from flows.redact import masking

SELF_REWARDING = ("implicit_reward", "self_judge")
_BATCH = 128
Signals = dict[str, list[tuple[str, str]]]


class _Voter(NamedTuple):
    labeler: Labeler
    reliability: Reliability | None


class _Judged(NamedTuple):
    selected: Selected
    doubtful: bool
    judgement: Judgement
    candidates: dict[str, Candidate]
    comparison: Comparison
    ruled: bool
    """Whether a person has decided the exchange."""


def labelers(settings: Settings, signals: Signals) -> list[Labeler]:
    """Return every labeler; the constitution comes first. One that cannot vote tonight is `Absent`, with its reason."""
    from alignment.moderation import score_answers, versions

    constitution = load_constitution(settings.labels.constitution)
    version = content_id(versions(embedder=embedder()))[:12]

    def score(prompts: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
        return score_answers(prompts, answers, embedder=embedder())

    return [
        ConstitutionLabeler(constitution, score, version, settings.labels.min_margin, settings.moderation.refusal),
        SignalsLabeler(signals),
        teacher(settings.teacher, settings.home) or Absent("teacher", "no teacher is configured"),
        *_champions(settings),
    ]


def _champions(settings: Settings) -> list[Labeler]:
    """Return the labelers that the model in production itself is; none of them loads weights before it votes."""
    wanted = settings.self_reward.labelers
    adapter = adapter_of(settings, current_release(settings.home))
    if adapter is None:
        return [Absent(name, NO_RELEASE) for name in SELF_REWARDING]
    champion, base = load_model(settings, adapter), load_model(settings, None)
    kept = settings.home / "reference"
    made: dict[str, Labeler] = {
        "implicit_reward": ImplicitReward(CachedLogProbs(champion, kept), CachedLogProbs(base, kept), settings.self_reward),
        "self_judge": self_judge(champion),
    }
    return [made[name] if name in wanted else Absent(name, "not among [self_reward] labelers") for name in SELF_REWARDING]


@task
def label(night_id: str) -> dict[str, int]:
    """Judge the candidates; what is disputed or too close becomes a review item. Return how often each verdict was given.

    Of what a person has decided nothing is judged or asked again.
    """
    settings = load_settings()
    constitution = load_constitution(settings.labels.constitution)
    chosen = selected(settings, night_id)
    signals = _signals(settings, [one for one, _ in chosen])
    everybody = labelers(settings, signals)
    measure_detectors(settings)
    voters = _voters(settings, night_id, everybody, constitution)
    judged = _judge(settings, constitution, chosen)
    votes = _votes(settings, night_id, judged, voters)
    # A labeler that is halted goes on voting, so that it can be seen to recover; its votes do not count.
    voters = {name: voter for name, voter in voters.items() if not _halted(settings, night_id, voter.labeler)}
    judgements, items = [], []
    for one in [each for each in judged if not each.ruled]:
        given = {name: vote for name, vote in votes[one.comparison.id].items() if name in voters}
        side = one.selected.side
        weights = {name: weight(voter.reliability, side) for name, voter in voters.items()}
        outcome = aggregate(given, weights, settings.labels)
        judgement = decide(one.judgement, one.comparison, given, outcome)
        judgements.append(judgement)
        if item := question(one.selected, judgement, one.candidates, given, outcome, complained=one.doubtful):
            items.append(item)
    rewritten, items = _rewritten(settings, judged, signals, items)
    moment = now()
    with session(settings.home, write=True) as connection:
        append(connection, "judgements", [{**asdict(one), "created_at": moment} for one in [*judgements, *rewritten]])
        append(connection, "review_items", [{**item, "created_at": moment} for item in items])
    return dict(Counter(judgement.verdict for judgement in judgements))


def _signals(settings: Settings, chosen: Sequence[Selected]) -> Signals:
    found: Signals = defaultdict(list)
    for row in query(settings.home, sql("label_signals"), {"ids": [one.interaction.id for one in chosen]}):
        found[row["interaction_id"]].append((row["kind"], row["value"]))
    return dict(found)


def _voters(settings: Settings, night_id: str, everybody: Sequence[Labeler], constitution: Constitution) -> dict[str, _Voter]:
    """Return who may vote, by name; who may not is recorded with the reason."""
    states, voters, moment = [], {}, now()
    for labeler in everybody:
        reliability, reason = fitness(settings, labeler, constitution)
        if not reason:
            voters[labeler.name] = _Voter(labeler, reliability)
        elif not isinstance(labeler, Absent):
            get_logger().warning("the labeler %s abstains tonight: %s", labeler.name, reason)
        row = {"night_id": night_id, "labeler": labeler.name, "labeler_version": labeler.version, "active": not reason, "reason": reason}
        states.append({"id": content_id("state", night_id, labeler.name, labeler.version, reason), **row, "recorded_at": moment})
    with session(settings.home, write=True) as connection:
        append(connection, "labeler_states", states)
    return voters


def _halted(settings: Settings, night_id: str, labeler: Labeler) -> bool:
    """Say whether a labeler that is the model itself crossed a limit; why is stored and told."""
    if labeler.name not in SELF_REWARDING:
        return False
    here = current_release(settings.home)
    reasons = check_health(settings.home, labeler, Release(here, here, BASE), settings.self_reward, now=now())
    if reasons:
        reason = f"halted: {'; '.join(reasons)}"
        get_logger().warning("the votes of %s do not count tonight: %s", labeler.name, reason)
        row = {"night_id": night_id, "labeler": labeler.name, "labeler_version": labeler.version, "active": False, "reason": reason}
        with session(settings.home, write=True) as connection:
            append(connection, "labeler_states", [{"id": content_id("state", night_id, labeler.name, reason), **row, "recorded_at": now()}])
    return bool(reasons)


def _judge(settings: Settings, constitution: Constitution, chosen: Sequence[tuple[Selected, bool]]) -> list[_Judged]:
    from alignment.moderation import score_answers, versions

    known = candidates_of(settings, [one for one, _ in chosen])
    # What a user wrote is for people only.
    competing = {
        one.interaction.id: current(
            [each for each in known[one.interaction.id] if each.principle_id == one.principle_id and each.kind != USER_EDIT],
            one,
            constitution.named(one.principle_id),
            covering=constitution.covering(one.side, one.category),
            refusals=constitution.refusals,
        )
        for one, _ in chosen
    }
    pairs = [(one, candidate) for one, _ in chosen for candidate in competing[one.interaction.id]]
    scores = score_answers([one.interaction.prompt for one, _ in pairs], [c.text for _, c in pairs], embedder=embedder())
    ruled = {row["interaction_id"] for row in query(settings.home, sql("human_verdicts"))}
    by_candidate = {candidate.id: score for (_, candidate), score in zip(pairs, scores, strict=True)}
    version = content_id(versions(embedder=embedder()))[:12]
    judged = []
    for one, doubtful in chosen:
        answers = competing[one.interaction.id]
        principle = constitution.named(one.principle_id)
        judgement = judge(
            one,
            answers,
            [by_candidate[candidate.id] for candidate in answers],
            principle,
            scorer_version=version,
            min_margin=settings.labels.min_margin,
            declines_at=settings.moderation.refusal,
        )
        named = {candidate.id: candidate for candidate in answers}
        judged.append(_Judged(one, doubtful, judgement, named, comparison(one, principle, judgement, named), one.interaction.id in ruled))
    return judged


def _votes(settings: Settings, night_id: str, judged: Sequence[_Judged], voters: dict[str, _Voter]) -> dict[str, dict[str, Vote]]:
    """Return every voter's vote by comparison and name. A vote that was given and stored before is not asked for again."""
    votes: dict[str, dict[str, Vote]] = {one.comparison.id: {} for one in judged}
    for name, voter in voters.items():
        known = _known(settings, voter.labeler, judged)
        for one in judged:
            if one.comparison.id in known:
                votes[one.comparison.id][name] = known[one.comparison.id]
        open_ = [one for one in judged if one.comparison.id not in known and _asked(name, one)]
        # A model that judges is asked once: a canary that fails takes all its votes, and who does not answer is not tried again.
        size = max(len(open_), 1) if isinstance(voter.labeler, ModelJudge) else _BATCH
        for start in range(0, len(open_), size):
            batch = open_[start : start + size]
            asked = [one.comparison for one in batch]
            given = [own_vote(one.judgement) for one in batch] if name == LABELER else voter.labeler.vote(asked)
            _save_votes(settings, night_id, voter.labeler, batch, given)
            for one, vote in zip(batch, given, strict=True):
                votes[one.comparison.id][name] = vote
    return votes


def _asked(name: str, one: _Judged) -> bool:
    """Say whether a labeler is asked. Of what a person decided, only those are that people's verdicts can halt."""
    if one.ruled:
        return name in SELF_REWARDING and one.judgement.verdict != "unscored"
    # Of what may not be taught whatever anybody says, nobody is asked.
    return name == LABELER or one.judgement.verdict != "unscored"


def _known(settings: Settings, labeler: Labeler, judged: Sequence[_Judged]) -> dict[str, Vote]:
    # What costs nothing is said anew: it may have changed with the signals.
    if isinstance(labeler, ConstitutionLabeler | SignalsLabeler):
        return {}
    ids = {content_id(*_vote_key(labeler, one.comparison), True): one.comparison.id for one in judged}
    rows = query(settings.home, "SELECT id, verdict, margin, detail FROM votes WHERE list_contains(?, id)", [list(ids)])
    return {ids[row["id"]]: Vote(row["verdict"], row["margin"], json.loads(row["detail"])) for row in rows}


def _vote_key(labeler: Labeler, one: Comparison) -> tuple[str, ...]:
    return "vote", one.id, labeler.name, labeler.version


def _vote_id(labeler: Labeler, one: Comparison, vote: Vote) -> str:
    """Return a vote's address. Signals change without a change of version: what they said is part of it."""
    said = [vote.verdict, vote.margin, dict(vote.detail)] if isinstance(labeler, SignalsLabeler) else vote.verdict != "unscored"
    return content_id(*_vote_key(labeler, one), said)


def _save_votes(settings: Settings, night_id: str, labeler: Labeler, batch: Sequence[_Judged], given: Sequence[Vote]) -> None:
    moment, mask = now(), masking(settings)
    rows: list[dict[str, Any]] = [
        {
            "id": _vote_id(labeler, one.comparison, vote), "night_id": night_id,
            "interaction_id": one.selected.interaction.id, "judgement_id": one.judgement.id, "labeler": labeler.name,
            "labeler_version": labeler.version, "first_id": one.comparison.first.id, "second_id": one.comparison.second.id,
            "verdict": vote.verdict, "margin": vote.margin, "created_at": moment,
            "detail": {key: mask(value)[0] if isinstance(value, str) else value for key, value in vote.detail.items()},
        }
        for one, vote in zip(batch, given, strict=True)
    ]  # fmt: skip
    with session(settings.home, write=True) as connection:
        append(connection, "votes", rows)


def _rewritten(
    settings: Settings, judged: Sequence[_Judged], signals: Signals, items: list[dict[str, Any]]
) -> tuple[list[Judgement], list[dict[str, Any]]]:
    """Offer to people what users wrote instead of an answer; it stands in for the other question about the same exchange."""
    mask, made = masking(settings), []
    for one in judged:
        logged = next((each for each in one.candidates.values() if each.kind == "logged"), None)
        text = edits_of(signals.get(one.selected.interaction.id, ()))
        if logged is not None and (found := edited(one.selected, logged, mask(text)[0], version=SignalsLabeler({}).version)):
            made.append(found)
    save_candidates(settings, [masked(one.candidate, mask) for one in made])
    replaced = {one.candidate.interaction_id for one in made}
    return [one.judgement for one in made], [item for item in items if item["interaction_id"] not in replaced] + [one.item for one in made]
