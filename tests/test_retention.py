"""What a model has kept: good answers are weighed once, paired, and hold a release that finds them less likely."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp
from typer.testing import CliRunner

from alignment.config import Settings
from alignment.evals import load_suite
from alignment.evals.gate import decide_on, pair, power_statement
from alignment.evals.perplexity import nats_of, shift, weigh
from alignment.evals.rules import rules
from alignment.gate_floor import BUNDLED
from alignment.ids import content_id
from alignment.models.logprobs import LogProb
from alignment.records import Answer, GateDecision, Message
from alignment.sections import Gate
from alignment.store import migrate, query, session
from bench.tiny import make_tiny_model
from flows import cli, evaluate
from flows import decision as deciding

pytestmark = pytest.mark.fast

SUITE = load_suite("retention")
GATE = Gate.model_validate({"rules": {"good_answers_unlearned": {"suite": "retention", "margin": 0.1}}})
RULE = next(rule for rule in rules(GATE) if rule.suite == "retention")


def weights(model: str, rise: float, spread: float = 0.0, seed: int = 0) -> list[Answer]:
    """Each good answer as likely as it always is, and `rise` nats a token less so, more or less."""
    levels = np.random.default_rng(1).uniform(1.0, 3.0, len(SUITE))
    steps = rise + spread * np.random.default_rng(seed).standard_normal(len(SUITE))
    return [Answer(one, model, "", {"nats": float(value)}, None) for one, value in zip(SUITE, levels + steps, strict=True)]


def decided(old: Sequence[Answer], new: Sequence[Answer]) -> GateDecision:
    return decide_on("old", "new", [RULE], {"retention": pair("retention", old, new, len(SUITE))}, GATE)


def test_the_suite_is_prose_without_repeats() -> None:
    answers = [one.right[0] for one in SUITE]
    assert len(set(answers)) == len(SUITE) >= 90
    assert len({one.cluster for one in SUITE}) == len(SUITE)
    assert all(8 <= len(text.split()) <= 60 for text in answers)


def test_a_file_of_good_answers_is_weighed_like_the_bundled_ones() -> None:
    old, new = (
        [replace(one, prompt=replace(one.prompt, suite="mine.jsonl")) for one in weights(*made)] for made in (("o", 0.0), ("n", 0.3, 0.1))
    )
    rule = RULE._replace(suite="mine.jsonl")
    [metric] = decide_on("old", "new", [rule], {rule.suite: pair(rule.suite, old, new, len(SUITE))}, GATE).metrics
    assert (metric.unit, metric.n, metric.status) == ("nats", len(SUITE), "fail")


def test_the_interval_is_students() -> None:
    old, new = np.random.default_rng(2).normal(2, 1, (2, 60))
    found = shift(list(old), list(new), range(60), 0.95, 3)
    test = ttest_1samp(new - old, 0)
    assert found.p_value == pytest.approx(test.pvalue)
    assert found.found[1:] == pytest.approx(test.confidence_interval(0.90))
    assert found.surely == pytest.approx(test.confidence_interval(1 - 2 * 0.05 / 3).low)
    error = float((new - old).std(ddof=1)) / 60**0.5
    assert found.detectable == pytest.approx(found.found.high - found.found.diff + norm.ppf(0.8) * error)
    # Two answers of a cluster that move together are one.
    twice = shift([*old, *old], [*new, *new], [*range(60), *range(60)], 0.95, 3)
    assert (*twice.found, *twice[1:]) == pytest.approx((*found.found, *found[1:]))
    assert shift([1.0], [1.0], ["c"], 0.95, 1).found.high > 10


@pytest.mark.parametrize(
    ("rise", "spread", "word", "status"),
    [
        (0.0, 0.0, "promote", "pass"),
        (0.0, 0.2, "promote", "pass"),
        (-0.3, 0.2, "promote", "pass"),
        (0.3, 0.3, "block", "fail"),
        (0.0, 0.8, "insufficient evidence", "insufficient"),
    ],
)
def test_a_release_may_not_unlearn_good_answers(rise: float, spread: float, word: str, status: str) -> None:
    decision = decided(weights("old", 0.0), weights("new", rise, spread))
    [metric] = decision.metrics
    assert (decision.decision, metric.status, metric.unit) == (word, status, "nats")
    assert "nats" in metric.reason
    assert "%" not in metric.reason.replace("80% power", "")
    assert "nats or more with 80% power" in power_statement(metric)


@pytest.mark.parametrize(
    ("rise", "spread", "word"),
    [(0.372, 0.209, "promote"), (0.453, 0.250, "promote"), (0.511, 0.276, "promote"), (2.407, 0.563, "block"), (6.363, 1.021, "block")],
    ids=["release 1", "release 2", "release 3", "noise of 0.2", "noise of 0.3"],
)
def test_a_margin_of_one_nat_tells_releases_from_damage(rise: float, spread: float, word: str) -> None:
    """Means and spreads as measured: three releases that the gate promoted, and the base with noise of 0.2 and 0.3 sd in its weights."""
    rule = RULE._replace(margin=1.0)
    evidence = {"retention": pair("retention", weights("old", 0.0), weights("new", rise, spread), len(SUITE))}
    assert decide_on("old", "new", [rule], evidence, GATE).decision == word


def test_what_is_missing_edited_or_no_number_is_no_evidence() -> None:
    old, new = weights("old", 0.0), weights("new", 0.0)
    no_number: Any = (float("nan"), float("inf"), None) * 3
    broken = [Answer(one.prompt, "new", "", {"nats": bad}, None) for one, bad in zip(new, no_number, strict=False)]
    assert [nats_of(one) for one in broken] == [None] * 9
    for evidence in ([*broken, *new[9:]], new[9:], [Answer(new[0].prompt, "new", "", {}, None, "changed"), *new[1:]]):
        decision = decided(old, evidence)
        assert decision.decision == "insufficient evidence", decision.reasons
    assert decided([], []).decision == "insufficient evidence"


def test_false_alarms_and_misses_are_as_rare_as_promised() -> None:
    """300 resamples each: a true rise of the whole margin is released, and no change blocked, in about 5% at most."""
    released = sum(decided(weights("o", 0.0), weights("n", RULE.margin, 0.3, seed)).decision == "promote" for seed in range(300))
    blocked = sum(decided(weights("o", 0.0), weights("n", 0.0, 0.3, seed)).decision == "block" for seed in range(300))
    assert released <= 0.05 * 300 + 8
    assert blocked <= 0.05 * 300 + 8


class Weights:
    """A model whose answers are all as likely; counts what it weighs."""

    def __init__(self, nats: float) -> None:
        self.nats, self.weighed, self.model_id = nats, 0, content_id("weights", nats)

    def generate(self, conversations: Sequence[Sequence[Message]], **_: Any) -> list[str]:
        return ["Here is how: take it step by step."] * len(conversations)

    def log_probs(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[LogProb]:
        self.weighed += len(answers)
        assert [one[0]["content"] for one in conversations] == [one.prompt for one in SUITE]
        return [LogProb(-self.nats * 4, 4) for _ in answers]


def test_the_gate_weighs_once_stores_sealed_and_sees_an_edit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(home)
    mine = Settings.model_validate({"home": home, "gate": {**GATE.model_dump(), "target": "non-inferior", "max_prompts": 0}})
    harm = {name: load_suite(name, 50) for name in ("harm", "lookalike", "ordinary", "capability", "pii")}
    monkeypatch.setattr(evaluate, "suites", lambda _: {**harm, "retention": SUITE})
    monkeypatch.setattr(deciding, "suites", lambda _: {**harm, "retention": SUITE})
    for module in (evaluate, deciding):
        monkeypatch.setattr(module, "load_settings", lambda: mine)
    old, new = Weights(2.0), Weights(2.5)
    for name, model in (("old", old), ("new", new), ("old", old)):
        monkeypatch.setattr(evaluate, "load_model", lambda *_, model=model: model)
        evaluate.evaluate.fn(name, None)
    assert (old.weighed, new.weighed) == (len(SUITE), len(SUITE))
    decision = deciding.decide_on_answers.fn("n", "old", old.model_id, "new", new.model_id)
    metric = next(one for one in decision.metrics if one.suite == "retention")
    assert (metric.champion, metric.challenger, metric.status) == (2.0, 2.5, "fail")
    assert query(home, "SELECT unit FROM gate_metrics ORDER BY unit") == [{"unit": "nats"}, *[{"unit": "rate"}] * len(BUNDLED)]
    # No person is asked whether a good answer is good.
    assert not query(home, "SELECT 1 FROM review_items WHERE detail ->> '$.suite' = 'retention'")
    with session(home, write=True) as connection:
        connection.execute("UPDATE eval_scores SET scores = '{\"nats\": 1.0}' WHERE scorer = 'retention'")
    edited = deciding.decide_on_answers.fn("m", "old", old.model_id, "new", new.model_id)
    assert edited.decision in ("block", "insufficient evidence")
    assert next(one for one in edited.metrics if one.suite == "retention").status == "insufficient"


@pytest.mark.filterwarnings("default")
def test_a_real_model_weighs(tmp_path: Path) -> None:

    from alignment.models.local import LocalModel

    model = LocalModel(make_tiny_model(tmp_path / "tiny"))
    found = weigh(model, SUITE[:4])
    assert all(one["nats"] > 0 and one["tokens"] > 40 for one in found)
    assert json.loads(json.dumps(found)) == found


def test_eval_says_that_it_is_not_asked(home: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["eval", "--suite", "retention", "--release", "base", "--out", str(tmp_path / "o.jsonl")])
    assert done.exit_code == 1
    assert "[gate.rules]" in done.stderr
