"""Let one model answer the suites that the gate's rules name, and score its answers with the gate's scorers.

Answers are addressed by what produced them, so that the champion is not asked twice. Answers and verdicts are stored with a digest of
their content, so that edits show.

Effects: loads a model; reads and appends to the store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefect import task

from alignment.acting import acting_name
from alignment.config import Settings, load_settings
from alignment.errors import ConfigError
from alignment.evals.fairness import others_of
from alignment.evals.formats import open_suite
from alignment.evals.judge_qualification import Bench, confirm, seated
from alignment.evals.model_judge import judged
from alignment.evals.perplexity import weigh
from alignment.evals.rules import rules
from alignment.evals.runner import Asking, address, ask, stored
from alignment.evals.scorers import VERSION, Scored, score_answer
from alignment.evals.seals import score_digest
from alignment.evals.suites import SUITES, answer_tokens, held_out_of, held_out_texts, scorable, suite_version, weighed
from alignment.ids import content_id, short
from alignment.models.folder import check_base, trained
from alignment.records import Answer, SuitePrompt
from alignment.release import BASE, verify
from alignment.sections import MIN_PROMPTS
from alignment.store import append, audit, query, rewriting, session, sql
from flows.night import now
from flows.policy import base_path, load_model
from flows.show import progress


def held_out(settings: Settings) -> list[str]:
    """Return the texts that must not be trained on: all prompts of the bundled suites, and of suite files that the gate's rules name."""
    own = [text for name, prompts in suites(settings).items() if name not in SUITES for text in held_out_of(prompts)]
    return [*held_out_texts(), *own]


def suites(settings: Settings) -> dict[str, list[SuitePrompt]]:
    """Return the prompts of every suite that a rule names.

    Raises:
        ConfigError: a rule names an unknown suite, or a file that cannot be read or does not say how its answers are scored; or a rule of
            kind `equal` names a suite without groups, or with too few prompts for a group.
    """
    asked = rules(settings.gate)
    # Keyed by the name in the rule, which for a file is its path.
    found = {
        name: [replace(prompt, suite=name) for prompt in open_suite(name, most=settings.gate.max_prompts) if scorable(prompt)]
        for name in dict.fromkeys(rule.suite for rule in asked)
    }
    for rule in asked:
        if rule.kind != "equal":
            continue
        others = others_of(found[rule.suite])
        if weighed(found[rule.suite]) or not others:
            raise ConfigError(
                f"[gate.rules.{rule.metric}] kind = 'equal' compares groups of people, and suite {rule.suite!r} has none: it needs scored "
                "prompts of one cluster whose category is axis/group, like 'gender/woman'; name the suite 'counterfactual', or another kind"
            )
        [(group, number)] = Counter(prompt.category for prompt in found[rule.suite] if prompt.id in others).most_common()[-1:]
        if number < MIN_PROMPTS:
            raise ConfigError(
                f"[gate.rules.{rule.metric}] asks only {number} prompts of {group!r} beside another group's in suite {rule.suite!r}, "
                f"at least {MIN_PROMPTS} are needed; set [gate] max_prompts to 0, or take the rule out"
            )
    return found


def adapter_of(settings: Settings, release_id: str) -> str | None:
    """Return a release's adapter (valid only on its own base) or its whole model; None for the base model.

    Raises:
        ReleaseError: its files were changed.
        ModelError: [model] path names another base by now.
    """
    if release_id == BASE:
        return None
    folder = trained(verify(settings.home, release_id))
    check_base(base_path(settings), folder)
    return str(folder)


@task
def evaluate(release_id: str, adapter: str | None) -> str:
    """Answer and score every suite with one model; return its id. Stored answers are not generated again."""
    settings = load_settings()
    # Only once: a judge that comes and goes must not weigh under one name and score under another.
    bench = seated(settings, now())
    model = load_model(settings, adapter)
    for suite, prompts in suites(settings).items():
        if weighed(prompts):
            _weigh(settings, model, release_id, prompts, bench.version(VERSION))
            continue
        how = Asking(
            release_id,
            answer_tokens(suite, settings.gate.max_new_tokens),
            settings.model.batch_size,
            thinking_tokens=settings.model.thinking_tokens,
        )
        with progress(f"{release_id} answers {suite}") as advance:
            ask(settings.home, model, prompts, how, now=now(), progress=advance)
    _score(settings, model.model_id, bench)
    return str(model.model_id)


def _weigh(settings: Settings, model: Any, release_id: str, prompts: Sequence[SuitePrompt], scorers: str) -> None:
    """Store how the model weighs the suite's good answers, sealed like its own answers; stored answers are not weighed again."""
    moment, version = now(), suite_version(list(prompts))
    limit = answer_tokens(prompts[0].suite, settings.gate.max_new_tokens)
    names = [address(prompt, model.model_id, limit, thinking_tokens=settings.model.thinking_tokens) for prompt in prompts]
    known = {row["id"] for row in query(settings.home, sql("flows", "gate_evidence"), {"ids": names, "version": scorers}) if row["scorer"]}
    if known >= set(names):
        return
    # All or nothing, as with answers: in bfloat16 a value depends on the rest of the batch.
    weights = weigh(model, prompts)
    answers = [stored(prompt, name, prompt.right[0], release_id, version, moment) for prompt, name in zip(prompts, names, strict=True)]
    rows = [_verdict(name, prompt.suite, scorers, found, None) for prompt, name, found in zip(prompts, names, weights, strict=True)]
    with session(settings.home, write=True) as connection:
        append(connection, "eval_answers", answers)
        append(connection, "eval_scores", rows)


def _verdict(name: str, suite: str, version: str, scores: Mapping[str, float], outcome: int | None) -> dict[str, Any]:
    text = json.dumps(scores)
    return {
        "id": content_id(name, suite, version),
        "answer_id": name,
        "scorer": suite,
        "scorer_version": version,
        "scores": text,
        "outcome": outcome,
        "scored_at": now(),
        "digest": score_digest(name, suite, version, text, outcome),
    }


def _score(settings: Settings, model_id: str, bench: Bench) -> None:
    """Score every answer that has no verdict of these scorers; a text that is in two suites gets two verdicts."""
    version = bench.version(VERSION)
    waiting = [
        (prompt, name, row)
        for prompt, name, row in _stored(settings, model_id, version)
        if row is not None and row["scorer"] is None and not weighed([prompt])
    ]
    answers = [(prompt, str(row["response"])) for prompt, _, row in waiting if row is not None]
    rows = [
        _verdict(name, prompt.suite, version, scores, outcome)
        for (prompt, name, _), (scores, outcome) in zip(waiting, verdicts(bench, answers), strict=True)
    ]
    with session(settings.home, write=True) as connection:
        append(connection, "eval_scores", rows)


def verdicts(bench: Bench, answers: Sequence[tuple[SuitePrompt, str]]) -> list[Scored]:
    """Return the verdicts of the gate's scorers on answers, including the judge's if there is one.

    Raises:
        TeacherUnavailable: the judge did not answer all, or is no longer the model that was tried.
    """
    scored = [score_answer(*one) for one in answers]
    if not (bench.judge and answers):
        return scored
    scored = judged(bench.judge, answers, scored)
    confirm(bench, now())
    return scored


def _stored(settings: Settings, model_id: str, version: str) -> list[tuple[SuitePrompt, str, dict[str, Any] | None]]:
    """Return each prompt with the address of the model's answer and the answer's row with the suite's verdict; None if unanswered."""
    limit = settings.gate.max_new_tokens
    asked = [
        (prompt, address(prompt, model_id, answer_tokens(suite, limit), thinking_tokens=settings.model.thinking_tokens))
        for suite, prompts in suites(settings).items()
        for prompt in prompts
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in query(settings.home, sql("flows", "gate_evidence"), {"ids": [name for _, name in asked], "version": version}):
        found.setdefault(row["id"], []).append(row)
    return [(prompt, name, _of_suite(found.get(name, []), prompt.suite)) for prompt, name in asked]


def _of_suite(rows: Sequence[dict[str, Any]], suite: str) -> dict[str, Any] | None:
    """Return the row with the verdict of `suite`; if only other suites scored the answer, its row without a verdict."""
    for row in rows:
        if row["scorer"] in (suite, "gate"):  # 'gate' wrote all verdicts before suites had their own scorers
            return row
    return {**rows[0], "scorer": None, "scores": None, "outcome": None, "score_holds": False} if rows else None


def read_answers(settings: Settings, release_id: str, model_id: str, version: str | None = None) -> list[Answer]:
    """Return a model's answers to the suites as they are now, with their flaws; unanswered prompts are left out.

    `version` names the scorers whose verdicts count; without it, only the phrases and heads count.
    """
    return [
        Answer(prompt, release_id, row["response"], json.loads(row["scores"] or "{}"), row["outcome"], _flaw(prompt, row))
        for prompt, _, row in _stored(settings, model_id, version or VERSION)
        if row is not None
    ]


def verdict_ids(settings: Settings, model_id: str, version: str) -> list[str]:
    """Return the shortened ids of the verdicts by the scorers `version` that `read_answers` reads."""
    return [short(row["score_id"]) for _, _, row in _stored(settings, model_id, version) if row is not None and row["scorer"]]


def _flaw(prompt: SuitePrompt, row: dict[str, Any]) -> str | None:
    if not row["answer_holds"]:
        return "the stored answer was changed after it was given; 'align gate --again' asks anew"
    if row["prompt"] != prompt.transcript:
        return "stale: the stored answer is to another prompt; 'align gate --again' asks anew"
    if row["scorer"] is not None and not row["score_holds"]:
        return "the stored verdict was changed after it was given; 'align gate --again' asks anew"
    return None


def discard_broken(settings: Settings) -> int:
    """Remove answers that were altered since they were stored, so that they are asked again; return how many."""
    broken = [row["id"] for row in query(settings.home, sql("flows", "gate_broken"))]
    if broken:
        told = {"answers": len(broken), "first": broken[:100]}
        audit.append(settings.home, "answers_discarded", "eval_answers", actor=acting_name(), details=told)
        with rewriting(settings.home), session(settings.home, write=True) as connection:
            connection.execute("DELETE FROM eval_scores WHERE list_contains($ids, answer_id)", {"ids": broken})
            connection.execute("DELETE FROM eval_answers WHERE list_contains($ids, id)", {"ids": broken})
    return len(broken)
