"""The gate decides on the answers of champion and challenger; only `promote`, or a person, changes production."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from prefect import flow, task

from alignment.config import Settings, load_settings
from alignment.errors import CheckFailed, InputError, ReleaseMoved
from alignment.evals.fairness import Gap, gaps
from alignment.evals.gate import power_statement
from alignment.evals.judge_qualification import seated
from alignment.evals.scorers import VERSION
from alignment.ids import content_id, short
from alignment.pairs import load_pairs
from alignment.records import GateDecision
from alignment.release import champion as in_production
from alignment.release import current, promote, register, verify
from alignment.release.approval import WAITS
from alignment.release.card import release_card
from alignment.store import append, query, session, sql
from alignment.train import read_result
from flows.anchors import answered
from flows.checks import Consent, consent_of
from flows.decision import ACTOR, decide_on_answers, save_decision
from flows.evaluate import adapter_of, evaluate, read_answers, suites
from flows.night import now, only_night
from flows.policy import base_path, load_model
from flows.show import say

RELEASED, WAITING, HELD = "released", "waits for approval", "not released"
NOTHING_NEW = "nothing new"


def _labelers(settings: Settings, night_id: str) -> dict[str, str]:
    """Return how often each labeler of a night was right where the better answer is known."""
    return {
        row["labeler"]: f"right on {row['sensitivity']:.0%} of harmful and {row['specificity']:.0%} of harmless requests, of {row['n']}"
        for row in query(settings.home, sql("flows", "card_labelers"), {"night_id": night_id})
    }


@task
def apply(night_id: str, decision: GateDecision, folder: str, compared: dict[str, dict[str, Gap]] | None = None) -> GateDecision:
    """Register the challenger; promote it if the gate says so and no approval is required. `compared` are gaps for its card.

    Return the decision as carried out: evidence against a champion that is no longer in production is insufficient.
    """
    settings = load_settings()
    result = read_result(Path(folder))
    pairs = load_pairs(settings.home, night_id)
    consent = _consented(settings, night_id, folder)
    moment = now()
    card = release_card(
        decision.challenger,
        base_path(settings).name,
        decision,
        pairs,
        result,
        given=consent.pairs,
        without_consent=consent.without,
        calibration=_labelers(settings, night_id),
        power=[f"{metric.name}: {power_statement(metric)}" for metric in decision.metrics],
        gaps=compared,
    )
    manifest = {
        "night_id": night_id,
        "run_id": result.run_id,
        "base": str(base_path(settings)),
        "champion": decision.champion,
        "decision": decision.decision,
        "decision_id": decision.id,
        "consent": consent._asdict(),
        "created_at": moment.isoformat(),
        **_identity(settings, result.adapter),
    }
    register(settings.home, decision.challenger, result.adapter, card=card, manifest=manifest)
    waits = decision.decision == "promote" and settings.gate.approval == "required"
    if decision.decision == "promote" and not waits:
        decision = _promoted(settings, night_id, decision)
    said = "; ".join(decision.reasons)
    # The registry reports promotions itself.
    outcome = (WAITS, said) if waits else ("blocked", f"{decision.decision}: {said}")
    events = [
        (night_id, ("registered", f"night {night_id}")),
        *([(decision.id, outcome)] if waits or decision.decision != "promote" else []),
    ]
    for key, (name, reason) in events:
        record_events(settings, [(decision.challenger, name, ACTOR, reason, night_id)], key=key)
    return decision


def _identity(settings: Settings, adapter: Path) -> dict[str, Any]:
    """Return the parts of the release's id, so that the registry can recompute it from the files."""
    model = load_model(settings, str(adapter))
    return {"model_id": str(model.model_id), "dtype": str(model.precision), "batch_size": int(model.batch_size)}


def _gaps(settings: Settings, models: Mapping[str, str]) -> dict[str, dict[str, Gap]]:
    """Return the widest gaps between groups, by release; empty if no rule names the suite that compares groups."""
    if "counterfactual" not in suites(settings):
        return {}
    version = seated(settings, now(), look=False).version(VERSION)
    found = {name: read_answers(settings, name, model_id, version) for name, model_id in models.items()}
    return {name: gaps([one for one in answers if one.prompt.suite == "counterfactual"]) for name, answers in found.items()}


def _consented(settings: Settings, night_id: str, folder: str) -> Consent:
    """Count the current consent for the pairs that were trained on.

    Raises:
        CheckFailed: consent was withdrawn since, or a person was erased.
    """
    consent = consent_of(settings, Path(folder))
    run = content_id(night_id, Path(folder).name)
    for row in query(settings.home, "SELECT (summary ->> '$.pairs_given')::BIGINT AS given FROM training_runs WHERE id = ?", [run]):
        # An erasure removes pairs from the run's file, but the weights have learnt from them.
        if (row["given"] or 0) > consent.pairs:
            raise CheckFailed(
                f"{row['given'] - consent.pairs} of {row['given']} pairs of the training run {Path(folder).name!r} were erased since; "
                "nothing is released. Run 'align nightly', or 'align train' and then 'align gate': it trains without them"
            )
    if consent.without:
        raise CheckFailed(
            f"{consent.without} of {consent.pairs} pairs of the training run {Path(folder).name!r} lack consent by now; nothing is "
            "released. Run 'align nightly', or 'align train' and then 'align gate': it trains without them"
        )
    return consent


def _promoted(settings: Settings, night_id: str, decision: GateDecision) -> GateDecision:
    """Promote the challenger; if production is no longer what the gate compared against, store and return a decision that says so."""
    reason = f"gate {short(decision.id)}: {'; '.join(decision.reasons)}"
    try:
        promote(settings.home, decision.challenger, actor=ACTOR, reason=reason, now=now(), replacing=decision.champion, night_id=night_id)
    except ReleaseMoved as error:
        reasons = (*decision.reasons, str(error))
        moved = replace(decision, id=content_id(decision.id, str(error)), decision="insufficient evidence", reasons=reasons)
        [before] = query(settings.home, "SELECT verdicts, model_id FROM gate_decisions WHERE id = ?", [decision.id])
        save_decision(settings, night_id, moved, json.loads(before["verdicts"] or "[]"), model_id=before["model_id"])
        return moved
    return decision


def record_events(settings: Settings, events: Sequence[tuple[str, str, str, str, str | None]], *, key: str | None = None) -> None:
    """Store (release, event, actor, reason, night) for the dashboard; the registry on disk is the source of truth.

    An event with a `key` is stored only once; people's events are told apart by their time.
    """
    moment = now()
    rows = [
        {
            "id": content_id(release_id, event, key or moment),
            "release_id": release_id,
            "event": event,
            "actor": actor,
            "reason": reason,
            "night_id": night_id,
            "recorded_at": moment,
        }
        for release_id, event, actor, reason, night_id in events
    ]
    with session(settings.home, write=True) as connection:
        append(connection, "release_events", rows)


class Challenger(NamedTuple):
    """The last trained challenger: its night, and the folder of the training run."""

    night_id: str
    folder: str


def trained_challenger(home: Path, night_id: str | None = None) -> Challenger:
    """Return the challenger that a night trained; the newest of all nights if no night is named.

    Raises:
        InputError: no challenger was trained.
    """
    rows = query(
        home,
        "SELECT id, night_id FROM training_runs WHERE coalesce(night_id = $night, true) ORDER BY finished_at DESC, rowid DESC LIMIT 1",
        {"night": night_id},
    )
    for row in rows:
        for folder in (home / "training").glob("*/"):
            if content_id(row["night_id"], folder.name) == row["id"]:
                return Challenger(row["night_id"], str(folder))
    if night_id:
        raise InputError(f"night {night_id!r} has no trained challenger; run 'align train --night {night_id}' and then the gate again")
    raise InputError("there is no trained challenger; run 'align ingest', 'curate' and 'train' first, or 'align nightly' for all of it")


@flow(name="gate")
def gate(night_id: str) -> dict[str, Any]:
    """Gate the night's challenger against production, unless it is in production; return the decision and its metrics.

    Raises:
        InputError: the night has no trained challenger.
    """
    settings = load_settings()
    with only_night(settings):
        folder = trained_challenger(settings.home, night_id).folder
        _consented(settings, night_id, folder)  # also before spending an hour on answers
        adapter = read_result(Path(folder)).adapter
        challenger = short(load_model(settings, str(adapter)).model_id)
        champion = _champion(settings, night_id)
        if challenger == champion:
            return _nothing_new(settings, champion)
        champion_model = evaluate(champion, adapter_of(settings, champion))
        challenger_model = evaluate(challenger, str(adapter))
        besides = answered(settings, champion, challenger)
        decision = decide_on_answers(night_id, champion, champion_model, challenger, challenger_model, besides)
        decision = apply(night_id, decision, folder, _gaps(settings, {champion: champion_model, challenger: challenger_model}))
        state = _state(settings, night_id, decision)
        if state != RELEASED:
            say(f"{challenger} was not released: {decision.decision}{'; it ' + state if state == WAITING else ''}")
        return {
            "champion": champion,
            "challenger": challenger,
            "decision": decision.decision,
            "decision_id": decision.id,
            "state": state,
            "reasons": list(decision.reasons),
            "weakened": list(decision.weakened),
            "metrics": [asdict(metric) for metric in decision.metrics],
            "release_id": current(settings.home),
        }


def _nothing_new(settings: Settings, release_id: str) -> dict[str, Any]:
    """Return the result of a night whose release is already in production: no decision, because there was nothing to decide.

    Raises:
        ReleaseError: the files of that release were changed.
    """
    verify(settings.home, release_id)
    reason = f"the trained release {release_id} is the one in production"
    say(f"{NOTHING_NEW}: {reason}")
    return {
        "champion": release_id,
        "challenger": release_id,
        "decision": NOTHING_NEW,
        "decision_id": "",
        "state": RELEASED,
        "reasons": [reason],
        "metrics": [],
        "release_id": current(settings.home),
    }


def _state(settings: Settings, night_id: str, decision: GateDecision) -> str:
    """Return the challenger's state: a night that is rerun after a person answered does not wait again."""
    if current(settings.home) == decision.challenger:
        return RELEASED
    waiting = query(
        settings.home,
        "SELECT 1 FROM waiting_approvals WHERE night_id = ? AND release_id = ? LIMIT 1",
        [night_id, decision.challenger],
    )
    return WAITING if waiting and decision.decision == "promote" else HELD


def _champion(settings: Settings, night_id: str) -> str:
    """Return the night's champion: a night that was killed after its promotion keeps the champion it compared with."""
    rows = query(
        settings.home,
        "SELECT champion FROM gate_decisions WHERE night_id = ? ORDER BY seq LIMIT 1",
        [night_id],
    )
    return str(rows[0]["champion"]) if rows else in_production(settings.home)
