"""Judge the candidates: the constitution proposes a best and a worst answer, every labeler votes on the proposal, and the votes decide.

Effects: reads and writes the store; loads models; calls a teacher where one is configured.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import islice

from prefect import task
from prefect.logging import get_logger

from alignment.candidates import current
from alignment.config import Settings, load_settings
from alignment.conversation import asked
from alignment.ids import content_id
from alignment.labels import load_constitution
from alignment.labels.constitution import Constitution
from alignment.labels.decide import USER_EDIT, Edited
from alignment.labels.health import Champion, check_health
from alignment.labels.implicit import NO_RELEASE, ImplicitReward
from alignment.labels.labeler import Labeler, Vote
from alignment.labels.llm_judge import self_judge, teacher
from alignment.labels.panel import SELF_REWARDING, Conclusion, Proposal, Voter, Votes, conclude, poll, propose, rewritten
from alignment.labels.rule import Absent, ConstitutionLabeler, SignalsLabeler
from alignment.labels.vote_store import known_votes, save_votes
from alignment.models.logprobs import CachedLogProbs
from alignment.records import Selected
from alignment.release import BASE
from alignment.release import champion as in_production
from alignment.store import append, query, session, sql
from flows.authoring import author_of
from flows.calibrate import fitness, measure_detectors
from flows.evaluate import adapter_of
from flows.labelled import candidates_of, masked, save_candidates, save_judgements, selected
from flows.night import embedder, now
from flows.policy import load_model
from flows.redact import masking

Signals = dict[str, list[tuple[str, str]]]


def labelers(settings: Settings, signals: Signals) -> list[Labeler]:
    """Return every labeler, the constitution first. A labeler that cannot vote tonight is `Absent`, with its reason."""
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
    """Return the labelers built on the model in production; they load weights only when they vote."""
    wanted = settings.self_reward.labelers
    adapter = adapter_of(settings, in_production(settings.home))
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
    """Judge the candidates; disputed or close calls become review items. Return the count of each verdict.

    Exchanges that a person has decided are not judged or asked again.
    """
    settings = load_settings()
    constitution = load_constitution(settings.labels.constitution)
    chosen = selected(settings, night_id)
    signals = _signals(settings, [one for one, _ in chosen])
    everybody = labelers(settings, signals)
    measure_detectors(settings)
    voters = _voters(settings, night_id, everybody, constitution)
    proposals = _propose(settings, constitution, chosen)
    votes = _poll(settings, night_id, proposals, voters)
    # A halted labeler goes on voting, so that its recovery shows; its votes do not count.
    voters = {name: voter for name, voter in voters.items() if not _halted(settings, night_id, voter.labeler)}
    concluded = conclude(proposals, votes, voters, settings.labels)
    _save(settings, concluded, _rewritten(settings, proposals, signals))
    return dict(Counter(one.judgement.verdict for one in concluded))


def _signals(settings: Settings, chosen: Sequence[Selected]) -> Signals:
    found: Signals = defaultdict(list)
    for row in query(settings.home, sql("flows", "label_signals"), {"ids": [one.interaction.id for one in chosen]}):
        found[row["interaction_id"]].append((row["kind"], row["value"]))
    return dict(found)


def _voters(settings: Settings, night_id: str, everybody: Sequence[Labeler], constitution: Constitution) -> dict[str, Voter]:
    """Return the labelers that may vote, by name; record the reason for those that may not."""
    states, voters, moment = [], {}, now()
    for labeler in everybody:
        reliability, reason = fitness(settings, labeler, constitution)
        if not reason:
            voters[labeler.name] = Voter(labeler, reliability)
        elif not isinstance(labeler, Absent):
            get_logger().warning("the labeler %s abstains tonight: %s", labeler.name, reason)
        row = {"night_id": night_id, "labeler": labeler.name, "labeler_version": labeler.version, "active": not reason, "reason": reason}
        states.append({"id": content_id("state", night_id, labeler.name, labeler.version, reason), **row, "recorded_at": moment})
    with session(settings.home, write=True) as connection:
        append(connection, "labeler_states", states)
    return voters


def _halted(settings: Settings, night_id: str, labeler: Labeler) -> bool:
    """Return whether a labeler built on the production model crossed a limit; store and log why."""
    if labeler.name not in SELF_REWARDING:
        return False
    here = in_production(settings.home)
    reasons = check_health(settings.home, labeler, Champion(here, here, BASE), settings.self_reward, now=now())
    if reasons:
        reason = f"halted: {'; '.join(reasons)}"
        get_logger().warning("the votes of %s do not count tonight: %s", labeler.name, reason)
        row = {"night_id": night_id, "labeler": labeler.name, "labeler_version": labeler.version, "active": False, "reason": reason}
        with session(settings.home, write=True) as connection:
            append(connection, "labeler_states", [{"id": content_id("state", night_id, labeler.name, reason), **row, "recorded_at": now()}])
    return bool(reasons)


def _propose(settings: Settings, constitution: Constitution, chosen: Sequence[tuple[Selected, bool]]) -> list[Proposal]:
    from alignment.moderation import score_answers, versions

    known, author = candidates_of(settings, [one for one, _ in chosen]), author_of(settings)
    # Users' edits are for people only.
    competing = [
        current(
            [each for each in known[one.interaction.id] if each.principle_id == one.principle_id and each.kind != USER_EDIT],
            one,
            constitution.named(one.principle_id),
            covering=constitution.covering(one.side, one.category),
            refusals=constitution.refusals,
            author=author.version if author else "",
        )
        for one, _ in chosen
    ]
    texts = [
        (asked(one.interaction.messages), answer.text) for (one, _), answers in zip(chosen, competing, strict=True) for answer in answers
    ]
    scores = iter(score_answers([prompt for prompt, _ in texts], [text for _, text in texts], embedder=embedder()))
    ruled = {row["interaction_id"] for row in query(settings.home, sql("flows", "human_verdicts"))}
    version = content_id(versions(embedder=embedder()))[:12]
    return [
        propose(
            one,
            answers,
            list(islice(scores, len(answers))),
            constitution.named(one.principle_id),
            scorer_version=version,
            settings=settings.labels,
            declines_at=settings.moderation.refusal,
            doubtful=doubtful,
            ruled=one.interaction.id in ruled,
        )
        for (one, doubtful), answers in zip(chosen, competing, strict=True)
    ]


def _poll(settings: Settings, night_id: str, proposals: Sequence[Proposal], voters: dict[str, Voter]) -> Votes:
    def keep(labeler: Labeler, batch: Sequence[Proposal], given: Sequence[Vote]) -> None:
        mask = masking(settings)
        save_votes(settings.home, night_id, labeler, batch, given, mask=lambda text: mask(text)[0], moment=now())

    return poll(proposals, voters, known=partial(known_votes, settings.home), keep=keep)


def _rewritten(settings: Settings, proposals: Sequence[Proposal], signals: Signals) -> list[Edited]:
    """Return users' edits of answers, for people to review; they are stored as candidates."""
    mask = masking(settings)
    made = rewritten(proposals, signals, lambda text: mask(text)[0], version=SignalsLabeler({}).version)
    save_candidates(settings, [masked(one.candidate, mask) for one in made])
    return made


def _save(settings: Settings, concluded: Sequence[Conclusion], made: Sequence[Edited]) -> None:
    replaced = {one.candidate.interaction_id for one in made}
    items = [one.question for one in concluded if one.question and one.question["interaction_id"] not in replaced]
    items += [one.item for one in made]
    save_judgements(settings, [*(one.judgement for one in concluded), *(one.judgement for one in made)], items)
