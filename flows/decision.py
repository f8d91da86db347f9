"""Decide on the stored answers of champion and challenger, and store the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
from prefect import task

from alignment.config import Settings, load_settings
from alignment.evals import decide
from alignment.evals.judge_qualification import NOBODY, Bench, seated
from alignment.evals.scorers import VERSION, scorer_of
from alignment.evals.statistics import Calibration
from alignment.evals.suites import weighed
from alignment.ids import content_id, unit_interval
from alignment.records import Answer, GateDecision
from alignment.release import withdraw
from alignment.store import append, audit, query, session, sql
from data_checks import check
from flows.anchors import AnchorAnswers
from flows.checks import conclude
from flows.evaluate import read_answers, suites, verdict_ids
from flows.night import now

ACTOR = "nightly gate"
AUDIT_WORDS = {"harm": ("safe", "unsafe"), "help": ("helpful", "refusal")}
"""People's words for outcomes 0 and 1, by scorer."""


@task
def decide_on_answers(
    night_id: str, champion: str, champion_model: str, challenger: str, challenger_model: str, besides: Sequence[AnchorAnswers] = ()
) -> GateDecision:
    """Decide on the stored answers of champion, challenger and the anchors in `besides`, and store the decision."""
    settings = load_settings()
    bench = seated(settings, now(), look=False)
    version = bench.version(VERSION)
    answers = {
        champion: read_answers(settings, champion, champion_model, version),
        challenger: read_answers(settings, challenger, challenger_model, version),
    }
    thoughts = _only_thought(settings, answers)
    _check_answers(settings, night_id, answers, thoughts)
    expected = {suite: len(prompts) for suite, prompts in suites(settings).items()}
    held = {one.anchor.release_id: read_answers(settings, one.anchor.release_id, one.model_id, version) for one in besides if one.model_id}
    decision = decide(
        champion,
        challenger,
        answers | held,
        expected,
        settings.gate,
        calibrations=calibrations(settings, bench),
        anchors=[one.anchor for one in besides],
    )
    decision = replace(
        decision,
        id=_decision_id(settings, night_id, decision),
        reasons=(*decision.reasons, *bench.notes, *thoughts),
    )
    models = (champion_model, challenger_model, *(one.model_id for one in besides if one.model_id))
    verdicts = [one for model in models for one in verdict_ids(settings, model, version)]
    save_decision(settings, night_id, decision, verdicts, model_id=challenger_model)
    with session(settings.home, write=True) as connection:
        append(connection, "review_items", _audit(answers[challenger], decision, settings.gate.audit_answers, now(), version))
    return decision


def _only_thought(settings: Settings, answers: Mapping[str, Sequence[Answer]]) -> list[str]:
    """Return at most one line: how many answers per model were only thinking (and so unscored), and which setting to change."""
    found = {name: sum(one.outcome is None and bool(one.scores.get("thinks")) for one in given) for name, given in answers.items()}
    counted = [f"{number} of {len(answers[name])} answers of {name}" for name, number in found.items() if number]
    tokens = settings.model.thinking_tokens
    remedy = f"raise [model] thinking_tokens = {tokens}" if tokens else "set [model] thinking_tokens"
    return [f"{' and '.join(counted)} were only thought: {remedy}"] if counted else []


def _decision_id(settings: Settings, night_id: str, decision: GateDecision) -> str:
    """Return the id of a decision on a night: the same evidence keeps its id, unless another decision was stored since."""
    rows = query(settings.home, "SELECT id FROM gate_decisions WHERE night_id = ? ORDER BY seq DESC LIMIT 2", [night_id])
    # Each id depends on the decision before it: night, evidence, and the previous id.
    last, before = (*([row["id"]] for row in rows), [], [])[:2]
    again = content_id(night_id, decision.id, *before)
    return again if [again] == last else content_id(night_id, decision.id, *last)


def calibrations(settings: Settings, bench: Bench = NOBODY) -> dict[str, Calibration]:
    """Return people's checks of the scorers in use, by suite: on the gate's own answers, and on the answers that qualified a judge."""
    found = _audited(settings, bench.version(VERSION))
    # A judge replaces only some scorers: people's checks of the others still count.
    before = _audited(settings, VERSION) if bench.judge else {}
    for suite, prompts in suites(settings).items() if bench.judge else ():
        if counts := bench.calibrations.get(scorer_of(prompts[0]) or "help", before.get(suite)):
            found[suite] = Calibration(*map(sum, zip(counts, found.get(suite, Calibration(0, 0, 0, 0)), strict=True)))
    return found


def _audited(settings: Settings, version: str) -> dict[str, Calibration]:
    rows = query(settings.home, sql("flows", "gate_calibration"), {"version": version})
    return {row["suite"]: Calibration(*(int(row[name]) for name in Calibration._fields)) for row in rows}


def save_decision(settings: Settings, night_id: str, decision: GateDecision, verdicts: Sequence[str], *, model_id: str | None) -> None:
    """Store a decision, which replaces every earlier decision on its challenger; a challenger held back is taken out of use first."""
    approval = settings.gate.approval == "required"
    if query(settings.home, "SELECT 1 FROM gate_decisions WHERE id = ?", [decision.id]):
        return
    row: dict[str, Any] = {"id": decision.id, "night_id": night_id, "champion": decision.champion, "challenger": decision.challenger}
    row |= {"decision": decision.decision, "reasons": decision.reasons, "decided_at": now(), "verdicts": verdicts}
    row |= {"weakened": {"reason": decision.unsafe, "settings": decision.weakened} if decision.weakened else None}
    row |= {"model_id": model_id, "approval": approval}
    if decision.weakened:
        details = {"settings": list(decision.weakened), "decision": decision.decision}
        audit.append(settings.home, "gate_unsafe", decision.challenger, actor=ACTOR, reason=decision.unsafe, details=details)
    metrics = [{"id": content_id(decision.id, metric.name), "decision_id": decision.id, **asdict(metric)} for metric in decision.metrics]

    def record() -> None:
        with session(settings.home, write=True) as connection:
            append(connection, "gate_decisions", [row])
            append(connection, "gate_metrics", metrics)

    if decision.decision == "promote" and not approval:
        record()
        return
    why = "decided anew, and a person has to approve" if decision.decision == "promote" else f"the gate says {decision.decision}"
    withdraw(settings.home, decision.challenger, record=record, actor=ACTOR, reason=why, now=now())


def _check_answers(settings: Settings, night_id: str, answers: dict[str, list[Answer]], thoughts: Sequence[str]) -> None:
    frame = pd.DataFrame(
        [
            {"model_id": one.model_id, "suite": one.prompt.suite, "prompt_id": one.prompt.id, "outcome": one.outcome}
            for found in answers.values()
            for one in found
            if not weighed([one.prompt])
        ]
    )
    remedy = f"{thoughts[0]}, and run again" if thoughts else "Repair it and run again"
    conclude(settings, check("eval_answers", frame, batch=night_id, now=now()), f"the answers of night {night_id}", remedy=remedy)


def _audit(answers: Sequence[Answer], decision: GateDecision, number: int, moment: Any, version: str = "") -> list[dict[str, Any]]:
    """Draw answers for people to check: their verdicts measure the gate itself."""
    asked = [one for one in answers if not weighed([one.prompt])]
    drawn = sorted(asked, key=lambda one: unit_interval("audit", decision.id, one.prompt.id))[:number]
    return [
        {
            "id": content_id("audit", decision.id, one.prompt.id),
            "kind": "gate_audit",
            "reason": f"a random answer that the gate scored on suite {one.prompt.suite}",
            "interaction_id": None,
            "prompt": one.prompt.transcript,
            "answer_a": one.response,
            "answer_b": None,
            "proposal": AUDIT_WORDS.get(scorer_of(one.prompt), ("no failure", "failure"))[one.outcome or 0],
            "detail": {
                "decision_id": decision.id,
                "scores": dict(one.scores),
                "outcome": one.outcome,
                "suite": one.prompt.suite,
                "scorer_version": version or VERSION,
            },
            "priority": 0.2,
            "created_at": moment,
        }
        for one in drawn
    ]
