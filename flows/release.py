"""Champion and challenger answer the same suites; the gate decides; only `promote` changes what is in production."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, task

from alignment.config import Settings, load_settings
from alignment.errors import CheckFailed, ReleaseError, ReleaseMoved
from alignment.evals import answer, answer_id, batches, decide, load_suite, suite_version
from alignment.ids import content_id, short, unit_interval
from alignment.records import Answer, GateDecision, SuitePrompt
from alignment.release import BASE, current, promote, register, verify
from alignment.release.card import release_card
from alignment.store import append, query, session
from alignment.train import read_result
from data_checks import check
from flows.checks import Consent, conclude, consent_of
from flows.curate import load_pairs
from flows.night import base_path, base_weights, night_lock, now
from flows.show import progress, say

ACTOR = "nightly gate"


def _model(settings: Settings, adapter: str | None) -> Any:
    from alignment.models.local import LocalModel

    return LocalModel(base_path(settings), adapter=Path(adapter) if adapter else None, batch_size=settings.model.batch_size)


@task
def evaluate(release_id: str, adapter: str | None) -> list[str]:
    """Answer and score every suite with one model; return the ids of its answers. Known answers are not generated again."""
    settings = load_settings()
    model = _model(settings, adapter)
    limit = settings.gate.max_new_tokens
    ids: list[str] = []
    prompts = {suite: load_suite(suite, settings.gate.max_prompts) for suite in settings.gate.suites}
    total = sum(map(len, prompts.values()))
    known = {row["id"] for row in query(settings.home, "SELECT id FROM eval_answers")}
    with progress(f"evaluate {release_id}") as advance:
        for asked in prompts.values():
            for batch in batches(asked, settings.model.batch_size):
                wanted = [answer_id(prompt, model.model_id, limit) for prompt in batch]
                if not known.issuperset(wanted):
                    _save(
                        settings,
                        release_id,
                        suite_version(asked),
                        batch,
                        wanted,
                        answer(model, batch, max_new_tokens=limit),
                    )
                ids += wanted
                advance(len(ids), total)
    _score(settings, ids)
    return ids


def _save(
    settings: Settings,
    release_id: str,
    version: str,
    batch: Sequence[SuitePrompt],
    ids: Sequence[str],
    replies: Sequence[str],
) -> None:
    moment = now()
    rows = [
        {
            "id": one,
            "model_id": release_id,
            "suite": prompt.suite,
            "suite_version": version,
            "prompt_id": prompt.id,
            "prompt": prompt.prompt,
            "cluster": prompt.cluster,
            "category": prompt.category,
            "response": reply,
            "created_at": moment,
        }
        for prompt, one, reply in zip(batch, ids, replies, strict=True)
    ]
    with session(settings.home, write=True) as connection:
        append(connection, "eval_answers", rows)


def _score(settings: Settings, ids: Sequence[str]) -> None:
    from alignment.evals.scorers import VERSION, score_answer

    rows = query(
        settings.home,
        "SELECT * FROM eval_answers WHERE list_contains($ids, id) AND id NOT IN "
        "(SELECT answer_id FROM eval_scores WHERE scorer_version = $version)",
        {"ids": list(ids), "version": VERSION},
    )
    moment = now()
    scored = []
    for row in rows:
        prompt = SuitePrompt(row["prompt_id"], row["suite"], row["prompt"], row["cluster"], row["category"])
        scores, outcome = score_answer(prompt, row["response"])
        scored.append(
            {
                "id": content_id(row["id"], VERSION),
                "answer_id": row["id"],
                "scorer": "gate",
                "scorer_version": VERSION,
                "scores": scores,
                "outcome": outcome,
                "scored_at": moment,
            }
        )
    with session(settings.home, write=True) as connection:
        append(connection, "eval_scores", scored)


def _answers(settings: Settings, model_id: str, ids: Sequence[str]) -> list[Answer]:
    from alignment.evals.scorers import VERSION

    rows = query(
        settings.home,
        "SELECT eval_answers.*, scores, outcome FROM eval_answers JOIN eval_scores ON answer_id = eval_answers.id "
        "WHERE scorer_version = $version AND list_contains($ids, eval_answers.id)",
        {"version": VERSION, "ids": list(ids)},
    )
    return [
        Answer(
            SuitePrompt(row["prompt_id"], row["suite"], row["prompt"], row["cluster"], row["category"]),
            model_id,
            row["response"],
            json.loads(row["scores"]),
            row["outcome"],
        )
        for row in rows
    ]


@task
def gate(night_id: str, champion: str, champion_ids: list[str], challenger: str, challenger_ids: list[str]) -> GateDecision:
    """Decide on the stored answers and store the decision."""
    settings = load_settings()
    answers = {
        champion: _answers(settings, champion, champion_ids),
        challenger: _answers(settings, challenger, challenger_ids),
    }
    _check_answers(settings, night_id, answers)
    expected = {suite: len(load_suite(suite, settings.gate.max_prompts)) for suite in settings.gate.suites}
    decision = decide(champion, challenger, answers, expected, settings.gate)
    # The same evidence on two nights is two decisions.
    decision = replace(decision, id=content_id(night_id, decision.id))
    _save_decision(settings, night_id, decision)
    with session(settings.home, write=True) as connection:
        append(connection, "review_items", _audit(answers[challenger], decision, settings.gate.audit_answers, now()))
    return decision


def _save_decision(settings: Settings, night_id: str, decision: GateDecision) -> None:
    row: dict[str, Any] = {"id": decision.id, "night_id": night_id, "champion": decision.champion, "challenger": decision.challenger}
    row |= {"decision": decision.decision, "reasons": decision.reasons, "decided_at": now()}
    metrics = [{"id": content_id(decision.id, metric.name), "decision_id": decision.id, **asdict(metric)} for metric in decision.metrics]
    with session(settings.home, write=True) as connection:
        append(connection, "gate_decisions", [row])
        append(connection, "gate_metrics", metrics)


def _check_answers(settings: Settings, night_id: str, answers: dict[str, list[Answer]]) -> None:
    frame = pd.DataFrame(
        [
            {"model_id": one.model_id, "suite": one.prompt.suite, "prompt_id": one.prompt.id, "outcome": one.outcome}
            for found in answers.values()
            for one in found
        ]
    )
    conclude(settings, check("eval_answers", frame, batch=night_id, now=now()), f"the answers of night {night_id}")


def _audit(answers: Sequence[Answer], decision: GateDecision, number: int, moment: Any) -> list[dict[str, Any]]:
    """Draw answers for people to check: their verdicts measure the gate itself."""
    drawn = sorted(answers, key=lambda one: unit_interval("audit", decision.id, one.prompt.id))[:number]
    words = {("harm", 1): "unsafe", ("harm", 0): "safe", ("benign", 1): "refusal", ("benign", 0): "helpful"}
    return [
        {
            "id": content_id("audit", decision.id, one.prompt.id),
            "kind": "gate_audit",
            "reason": f"a random answer that the gate scored on suite {one.prompt.suite}",
            "interaction_id": None,
            "prompt": one.prompt.prompt,
            "answer_a": one.response,
            "answer_b": None,
            "proposal": words["harm" if one.prompt.suite == "harm" else "benign", one.outcome or 0],
            "detail": {"decision_id": decision.id, "scores": dict(one.scores), "outcome": one.outcome},
            "priority": 0.2,
            "created_at": moment,
        }
        for one in drawn
    ]


@task
def apply(night_id: str, decision: GateDecision, folder: str) -> GateDecision:
    """Register the challenger and, if the gate says so, promote it.

    Return the decision as it was carried out: evidence against a champion that is no longer in production is insufficient.
    """
    settings = load_settings()
    result = read_result(Path(folder))
    pairs = load_pairs(settings, night_id)
    consent = _consented(settings, folder)
    moment = now()
    card = release_card(
        decision.challenger,
        base_path(settings).name,
        decision,
        pairs,
        result,
        given=consent.pairs,
        without_consent=consent.without,
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
    }
    register(settings.home, decision.challenger, result.adapter, card=card, manifest=manifest)
    events = [("registered", f"night {night_id}")]
    decision = _promoted(settings, night_id, decision) if decision.decision == "promote" else decision
    if decision.decision == "promote":
        events.append(("promoted", "; ".join(decision.reasons)))
    else:
        events.append(("blocked", f"{decision.decision}: " + "; ".join(decision.reasons)))
    record_events(settings, [(decision.challenger, event, ACTOR, reason, night_id) for event, reason in events])
    return decision


def _consented(settings: Settings, folder: str) -> Consent:
    """Count the consent of the pairs that were trained on, as it is by now.

    Raises:
        CheckFailed: somebody has withdrawn it since.
    """
    consent = consent_of(settings, Path(folder))
    if consent.without:
        raise CheckFailed(
            f"{consent.without} of {consent.pairs} pairs of the training run {Path(folder).name!r} lack consent by now; nothing is "
            "released. Run the same command again: it trains without them"
        )
    return consent


def _promoted(settings: Settings, night_id: str, decision: GateDecision) -> GateDecision:
    """Promote the challenger; if production is no longer what the gate compared, store and return a decision that says so."""
    reason = f"gate {short(decision.id)}"
    try:
        promote(settings.home, decision.challenger, actor=ACTOR, reason=reason, now=now(), replacing=decision.champion)
    except ReleaseMoved as error:
        reasons = (*decision.reasons, str(error))
        moved = replace(decision, id=content_id(decision.id, str(error)), decision="insufficient evidence", reasons=reasons)
        _save_decision(settings, night_id, moved)
        return moved
    return decision


def record_events(settings: Settings, events: Sequence[tuple[str, str, str, str, str | None]]) -> None:
    """Store (release, event, actor, reason, night) for the dashboard; the registry on disk stays the truth."""
    moment = now()
    rows = [
        {
            # A night reports each event once, however often it is run; people's events are told apart by their time.
            "id": content_id(release_id, event, night_id or moment),
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


@flow(name="release")
def release(night_id: str, folder: str) -> dict[str, Any]:
    """Gate the trained run in `folder` against what is in production; return the decision and its metrics."""
    settings = load_settings()
    with night_lock(settings.home):
        _consented(settings, folder)  # also before an hour of answers is spent on it
        adapter = Path(folder) / "adapter"
        challenger = short(_model(settings, str(adapter)).model_id)
        champion = _champion(settings, night_id)
        champion_ids = evaluate(champion, adapter_of(settings, champion))
        challenger_ids = evaluate(challenger, str(adapter))
        decision = apply(night_id, gate(night_id, champion, champion_ids, challenger, challenger_ids), folder)
        if decision.decision != "promote":
            say(f"{challenger} was not released: {decision.decision}")
        return {
            "champion": champion,
            "challenger": challenger,
            "decision": decision.decision,
            "reasons": list(decision.reasons),
            "metrics": [asdict(metric) for metric in decision.metrics],
            "release_id": current(settings.home),
        }


def adapter_of(settings: Settings, release_id: str) -> str | None:
    """Return the adapter of a release, which only its own base may carry; None for the base model.

    Raises:
        ReleaseError: its files were changed, or [model] path names another base by now.
    """
    if release_id == BASE:
        return None
    adapter = verify(settings.home, release_id) / "adapter"
    trained_on = json.loads((adapter / "manifest.json").read_text(encoding="utf-8"))["base_id"]
    here = base_weights(base_path(settings))
    if trained_on != here:
        raise ReleaseError(
            f"release {release_id} was trained on base {short(trained_on)}, [model] path = {settings.model.path!r} is {short(here)}; "
            "restore [model] path, or run 'align release rollback --reason TEXT' until the base model is in production"
        )
    return str(adapter)


def _champion(settings: Settings, night_id: str) -> str:
    """Return what the night measures itself against: a night that was killed after it promoted keeps its champion."""
    rows = query(
        settings.home,
        "SELECT champion FROM gate_decisions WHERE night_id = ? ORDER BY decided_at LIMIT 1",
        [night_id],
    )
    return str(rows[0]["champion"]) if rows else current(settings.home)
