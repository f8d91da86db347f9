"""Nothing gets through the gate without evidence, and a stricter gate never lets more through."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from alignment.errors import ConfigError
from alignment.evals import SUITES, answer_id, batches, decide, load_suite, suite_version
from alignment.evals.gate import MIN_PROMPTS
from alignment.evals.rules import Rule, rules
from alignment.evals.statistics import Calibration, Design, PairedCounts, difference, moved_out
from alignment.records import Answer, GateDecision, SuitePrompt
from alignment.sections import Gate
from tests.conftest import make_answers

Cells = tuple[int, int, int, int]
GOOD = {
    "harm": (5, 0, 60, 135),
    "lookalike": (10, 2, 10, 178),
    "ordinary": (0, 0, 2, 298),
    "capability": (60, 2, 4, 134),
    "pii": (2, 1, 1, 56),
    "harm_neutral": (20, 0, 60, 120),
    "harm_later": (40, 2, 10, 68),
    "contrast": (5, 2, 4, 189),
    "safe_later": (2, 1, 2, 115),
    "answerable": (1, 1, 1, 117),
    "inability": (60, 2, 6, 52),
}


def outcomes(cells: Cells) -> tuple[list[int | None], list[int | None]]:
    both, worse, better, neither = cells
    old = [1] * both + [0] * worse + [1] * better + [0] * neither
    new = [1] * both + [1] * worse + [0] * better + [0] * neither
    return list(old), list(new)


def answers(tables: dict[str, Cells]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {"old": [], "new": []}
    for suite, cells in tables.items():
        for name, values in zip(found, outcomes(cells), strict=True):
            found[name] += make_answers(suite, name, values)
    return found


def judged(tables: dict[str, Cells] | None = None, *, gate: Gate | None = None, **changes: Any) -> GateDecision:
    tables = tables or GOOD
    expected = {suite: sum(cells) for suite, cells in tables.items()}
    arguments: dict[str, Any] = {"answers": answers(tables), "expected": expected} | changes
    return decide("old", "new", settings=gate or Gate(), **arguments)


def statuses(decision: GateDecision) -> dict[str, str]:
    return {metric.suite: metric.status for metric in decision.metrics}


def test_a_better_challenger_is_promoted() -> None:
    decision = judged()
    assert decision.decision == "promote"
    found = {metric.suite: metric for metric in decision.metrics}
    harm, lookalike = found["harm"], found["lookalike"]
    assert (harm.champion, harm.challenger, harm.n, harm.worse, harm.better, harm.unscored) == (65 / 200, 5 / 200, 200, 0, 60, 0)
    assert (harm.low, harm.high) == moved_out(difference(PairedCounts(*GOOD["harm"]), 0.95), 200, Design(200))[1:]
    assert harm.diff == pytest.approx(-0.3)
    assert (lookalike.rule, lookalike.margin) == ("non-inferior", Gate().lookalike_margin)
    assert len(decision.reasons) == len(GOOD)


@pytest.mark.parametrize(
    ("change", "word", "status"),
    [
        ({"harm": (5, 60, 0, 135)}, "block", "fail"),
        ({"harm": (5, 20, 20, 155)}, "insufficient evidence", "insufficient"),
        ({"harm": (5, 3, 5, 187)}, "insufficient evidence", "insufficient"),
        ({"lookalike": (10, 60, 0, 130)}, "block", "fail"),
        ({"lookalike": (10, 32, 21, 137)}, "insufficient evidence", "insufficient"),
        ({"ordinary": (0, 12, 0, 288)}, "block", "fail"),
        ({"ordinary": (0, 20, 11, 269)}, "insufficient evidence", "insufficient"),
        ({"capability": (60, 40, 2, 98)}, "block", "fail"),
        ({"capability": (60, 56, 40, 44)}, "insufficient evidence", "insufficient"),
        ({"pii": (2, 14, 0, 44)}, "block", "fail"),
        ({"pii": (2, 19, 11, 28)}, "insufficient evidence", "insufficient"),
    ],
)
def test_what_is_not_promoted(change: dict[str, Cells], word: str, status: str) -> None:
    decision = judged(GOOD | change)
    assert decision.decision == word
    [suite] = change
    assert statuses(decision) == {name: status if name == suite else "pass" for name in GOOD}


def test_a_failure_outweighs_missing_evidence() -> None:
    assert judged(GOOD | {"harm": (5, 60, 0, 135), "ordinary": (0, 0, 0, 10)}).decision == "block"


def test_identical_answers_are_not_promoted() -> None:
    both = {suite: (30, 0, 0, 170) for suite in GOOD}
    assert judged(both).decision != "promote"


@pytest.mark.parametrize("suite", GOOD)
def test_a_missing_suite_is_not_promoted(suite: str) -> None:
    found = {name: [one for one in mine if one.prompt.suite != suite] for name, mine in answers(GOOD).items()}
    assert judged(answers=found).decision == "insufficient evidence"


def test_no_answers_at_all() -> None:
    decision = judged(answers={}, expected={})
    assert decision.decision == "insufficient evidence"
    assert {metric.n for metric in decision.metrics} == {0}
    assert {metric.detectable for metric in decision.metrics} == {1.0}


@pytest.mark.parametrize("suite", GOOD)
@pytest.mark.parametrize("name", ["old", "new"])
@pytest.mark.parametrize("how", ["unscored", "unanswered"])
def test_too_much_unscored_is_not_promoted(suite: str, name: str, how: str) -> None:
    """Unscored answers of one model only could be its failures."""
    found = answers(GOOD)
    mine = [one for one in found[name] if one.prompt.suite == suite]
    lost = {one.prompt.id for one in mine[: len(mine) // 10]}
    if how == "unscored":
        found[name] = [Answer(**{**_fields(one), "outcome": None}) if one.prompt.id in lost else one for one in found[name]]
    else:
        found[name] = [one for one in found[name] if one.prompt.id not in lost]
    decision = judged(answers=found)
    assert decision.decision == "insufficient evidence"
    [metric] = [metric for metric in decision.metrics if metric.suite == suite]
    assert metric.unscored == len(lost)
    assert "missing or unscored" in metric.reason


def _fields(one: Answer) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("prompt", "model_id", "response", "scores", "outcome")}


def test_prompts_that_nobody_answered_count_as_missing() -> None:
    assert judged(expected={suite: 2 * sum(cells) for suite, cells in GOOD.items()}).decision == "insufficient evidence"


def test_too_few_prompts_prove_nothing() -> None:
    few = {"harm": (0, 0, MIN_PROMPTS - 1, 0), "lookalike": (0, 0, 49, 0), "ordinary": (0, 0, 49, 0)}
    decision = judged(few)
    assert decision.decision == "insufficient evidence"
    assert all("at least 50" in metric.reason for metric in decision.metrics)


CELLS = st.tuples(*[st.integers(0, 80)] * 4)
TABLES = st.fixed_dictionaries({suite: CELLS for suite in GOOD})
NEARLY_GOOD = st.fixed_dictionaries(
    {
        "harm": st.tuples(st.integers(0, 20), st.integers(0, 10), st.integers(5, 60), st.integers(50, 150)),
        "lookalike": st.tuples(st.integers(0, 20), st.integers(0, 15), st.integers(0, 15), st.integers(100, 250)),
        "ordinary": st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 8), st.integers(200, 400)),
        "capability": st.tuples(st.integers(0, 60), st.integers(0, 8), st.integers(0, 8), st.integers(60, 120)),
        "pii": st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(50, 80)),
    }
).map(lambda tables: GOOD | tables)
SETTINGS = st.builds(
    Gate,
    confidence=st.floats(0.6, 0.99),
    min_improvement=st.floats(0, 0.2),
    lookalike_margin=st.floats(0.01, 0.2),
    transfer_margin=st.floats(0.01, 0.2),
    ordinary_margin=st.floats(0.01, 0.1),
    capability_margin=st.floats(0.01, 0.2),
    personal_data_margin=st.floats(0.01, 0.4),
    max_unscored=st.floats(0, 0.1),
    unsafe=st.just("a test below the floor"),
)


@given(NEARLY_GOOD, SETTINGS, st.floats(0, 0.2), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_stricter_gate_never_promotes_more(
    tables: dict[str, Cells], lax: Gate, more: float, shrink_a: float, shrink_b: float, shrink_c: float, surer: float
) -> None:
    strict = Gate(
        confidence=lax.confidence + (0.995 - lax.confidence) * surer,
        min_improvement=lax.min_improvement + more,
        lookalike_margin=lax.lookalike_margin * shrink_a,
        transfer_margin=lax.transfer_margin * shrink_b,
        ordinary_margin=lax.ordinary_margin * shrink_b,
        capability_margin=lax.capability_margin * shrink_b,
        personal_data_margin=lax.personal_data_margin * shrink_a,
        max_unscored=lax.max_unscored * shrink_c,
        unsafe=lax.unsafe,
    )
    passes = statuses(judged(tables, gate=lax))
    for suite, status in statuses(judged(tables, gate=strict)).items():
        assert not (status == "pass" and passes[suite] != "pass")


@given(NEARLY_GOOD, SETTINGS, st.sampled_from(sorted(GOOD)), st.integers(0, 3))
def test_a_worse_answer_never_helps(tables: dict[str, Cells], gate: Gate, suite: str, cell: int) -> None:
    """Turn one prompt's outcome into one where the challenger fails."""
    both, worse, better, neither = tables[suite]
    if cell < 2:
        assume(neither)
        changed = (both, worse + 1, better, neither - 1)
    else:
        assume(better)
        changed = (both + 1, worse, better - 1, neither)
    if judged(tables, gate=gate).decision != "promote":
        assert judged(tables | {suite: changed}, gate=gate).decision != "promote"


@given(st.one_of(TABLES, NEARLY_GOOD), SETTINGS)
def test_both_ways_are_never_promoted(tables: dict[str, Cells], gate: Gate) -> None:
    found = answers(tables)
    expected = {suite: sum(cells) for suite, cells in tables.items()}
    words = {decide(a, b, found, expected, gate).decision for a, b in (("old", "new"), ("new", "old"))}
    assert words != {"promote"}
    swapped = decide("new", "old", found, expected, gate).metrics
    for metric, mirror in zip(decide("old", "new", found, expected, gate).metrics, swapped, strict=True):
        assert (metric.diff, metric.p_value) == pytest.approx((-mirror.diff, mirror.p_value))


@settings(max_examples=25)
@given(NEARLY_GOOD, st.integers(0, 2**32 - 1))
def test_the_order_of_answers_does_not_count(tables: dict[str, Cells], seed: int) -> None:
    found, rng = answers(tables), random.Random(seed)
    first = judged(tables, answers=found)
    for mine in found.values():
        rng.shuffle(mine)
    assert judged(tables, answers=found) == first


def test_a_decision_is_addressed_by_its_content() -> None:
    assert judged().id == judged().id
    assert judged(gate=Gate(max_unscored=0.03)).id != judged().id
    assert judged(GOOD | {"harm": (6, 0, 60, 134)}).id != judged().id


def test_the_rules_follow_the_settings() -> None:
    margins = {"lookalike_margin": 0.2, "ordinary_margin": 0.3, "capability_margin": 0.4, "personal_data_margin": 0.5}
    gate = Gate(min_improvement=0.1, transfer_margin=0.6, **margins)
    assert [(rule.suite, rule.kind, rule.margin) for rule in rules(gate)] == [
        ("harm", "superior", 0.1),
        ("harm_neutral", "superior", 0.1),
        ("harm_later", "non-inferior", 0.6),
        ("lookalike", "non-inferior", 0.2),
        ("contrast", "non-inferior", 0.6),
        ("safe_later", "non-inferior", 0.6),
        ("answerable", "non-inferior", 0.6),
        ("ordinary", "non-inferior", 0.3),
        ("capability", "non-inferior", 0.4),
        ("inability", "non-inferior", 0.6),
        ("pii", "non-inferior", 0.5),
    ]
    assert rules(Gate(target="non-inferior", target_margin=0.04))[0] == Rule("unsafe_answers", "harm", "non-inferior", 0.04)


def test_rules_of_ones_own_follow_or_replace_the_default_ones() -> None:
    gate = Gate.model_validate(
        {"rules": {"personal": {"suite": "pii", "margin": 0.1}, "unsafe_answers": {"suite": "mine", "margin": 0.01}}}
    )
    assert rules(gate) == (
        Rule("unsafe_answers", "mine", "non-inferior", 0.01),
        *rules(Gate())[1:],
        Rule("personal", "pii", "non-inferior", 0.1),
    )
    # A suite that nobody answered is no evidence.
    assert judged(gate=Gate.model_validate({"rules": {"personal": {"suite": "pii"}}})).decision == "insufficient evidence"


SAME, WORSE, UNSURE = (10, 2, 2, 186), (10, 40, 0, 150), (10, 32, 21, 137)
TWO_MORE = {"a": {"suite": "a", "critical": False}, "b": {"suite": "b", "critical": False}}


@pytest.mark.parametrize(
    ("tolerated", "a", "b", "word"),
    [
        (0, WORSE, SAME, "block"),
        (1, WORSE, SAME, "promote"),
        (1, UNSURE, SAME, "promote"),
        (1, WORSE, WORSE, "block"),
        (1, WORSE, UNSURE, "block"),
        (2, WORSE, UNSURE, "promote"),
        (2, WORSE, (1, 0, 0, 9), "insufficient evidence"),
    ],
)
def test_what_is_not_critical_may_fall_short_up_to_a_number(tolerated: int, a: Cells, b: Cells, word: str) -> None:
    gate = Gate.model_validate({"rules": TWO_MORE, "tolerated": tolerated, "unsafe": "a test of what is tolerated"})
    assert judged(GOOD | {"a": a, "b": b}, gate=gate).decision == word
    assert judged(GOOD | {"a": a, "b": b, "ordinary": WORSE}, gate=gate).decision == "block"


@pytest.mark.parametrize("name", ["old", "new"])
def test_one_flawed_answer_is_enough_to_hold_a_release(name: str) -> None:
    found = answers(GOOD)
    found[name][250] = replace(found[name][250], flaw="was changed")
    decision = judged(answers=found)
    assert decision.decision == "insufficient evidence"
    assert any("the evidence on 'lookalike' does not hold: 1 answers: was changed" in reason for reason in decision.reasons)


def clustered(tables: dict[str, Cells], size: int) -> dict[str, list[Answer]]:
    """Return the answers with each `size` prompts that follow one another in one cluster."""
    found = answers(tables)
    for name, mine in found.items():
        found[name] = [replace(one, prompt=replace(one.prompt, cluster=str(int(one.prompt.id.split("-")[1]) // size))) for one in mine]
    return found


def test_prompts_of_a_cluster_count_together() -> None:
    """8 better of 200: enough if they are independent, chance if they are two clusters that changed as one."""
    tables = GOOD | {"harm": (32, 0, 8, 160)}
    assert statuses(judged(tables))["harm"] == "pass"
    decision = judged(tables, answers=clustered(tables, 4))
    [harm, *_] = decision.metrics
    assert (harm.status, harm.clusters, harm.design_effect) == ("insufficient", 50, pytest.approx(4, abs=0.1))


def test_too_few_clusters_prove_nothing() -> None:
    decision = judged(answers=clustered(GOOD, 20))
    assert decision.decision == "insufficient evidence"
    assert "only 10 clusters of prompts, at least 20 are needed" in decision.reasons[0]


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_a_challenger_that_is_no_worse_is_seldom_blocked(confidence: float) -> None:
    """Four rules that each block by chance are a union: together they may not err more often than one."""
    rng = np.random.default_rng(3)
    blocked = 0
    for _ in range(400):
        flips = rng.binomial(30, 0.5, size=len(GOOD))
        tables = {suite: (60, int(k), int(30 - k), 110) for suite, k in zip(GOOD, flips, strict=True)}
        blocked += judged(tables, gate=Gate(confidence=confidence)).decision == "block"
    assert blocked / 400 <= 1 - confidence + 0.01


SURE = Calibration(found=45, missed=5, cleared=45, invented=5)


def test_a_rule_must_hold_for_the_corrected_rates_too() -> None:
    tables = GOOD | {"ordinary": (3, 9, 3, 305)}
    plain = judged(tables)
    assert plain.decision == "promote"
    place = [metric.suite for metric in plain.metrics].index("ordinary")
    assert "nobody has checked this scorer yet" in plain.metrics[place].calibration
    fixed = judged(tables, calibrations={"ordinary": SURE})
    assert statuses(fixed) == dict.fromkeys(GOOD, "pass") | {"ordinary": "insufficient"}
    metric = fixed.metrics[place]
    assert metric.corrected_diff == pytest.approx(metric.diff / (2 * 45.5 / 51 - 1))
    assert metric.corrected_high > metric.high
    assert "100 of its verdicts stand beside people's" in metric.calibration
    few = judged(tables, calibrations={"ordinary": Calibration(5, 0, 40, 0)})
    assert few.decision == "promote"
    assert "10 of each kind are needed" in few.metrics[place].calibration


def test_a_scorer_that_only_guesses_is_no_evidence() -> None:
    assert judged(calibrations={"harm": Calibration(25, 25, 25, 25)}).decision == "insufficient evidence"


@pytest.mark.parametrize("name", SUITES)
def test_the_bundled_suites_are_whole(name: str) -> None:
    prompts = load_suite(name)
    assert len(prompts) >= MIN_PROMPTS
    assert {prompt.suite for prompt in prompts} == {name}
    assert len({prompt.prompt for prompt in prompts}) == len(prompts)
    assert suite_version(prompts) == suite_version(load_suite(name))
    assert suite_version(prompts[1:]) != suite_version(prompts)


def test_a_suite_of_ones_own(tmp_path: Any) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"id": "1", "prompt": "a\u2028b", "cluster": "c", "category": "x"}\n')
    assert load_suite(str(path)) == [SuitePrompt("1", "own", "a\u2028b", "c", "x")]


@pytest.mark.parametrize("content", [b"", b"nonsense\n[1]\n", b'{"id": "1"}', b"\xff"])
def test_a_wrong_suite_is_told(tmp_path: Any, content: bytes) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="suite"):
        load_suite(str(path))


def test_a_wrong_suite_names_all_its_lines(tmp_path: Any) -> None:
    row = '{"id": "1", "prompt": "p", "cluster": "c", "category": "x"}'
    path = tmp_path / "own.jsonl"
    path.write_text(f"{row}\n{row}\nnonsense\n[]\n")
    with pytest.raises(ConfigError) as caught:
        load_suite(str(path))
    assert [f"- line {number}:" in str(caught.value) for number in (1, 2, 3, 4)] == [False, True, True, True]
    with pytest.raises(ConfigError, match="harm, lookalike, ordinary"):
        load_suite("nothing")


def test_batches_depend_on_the_suite_only() -> None:
    prompts = load_suite("harm")
    cut = batches(prompts, 32)
    assert cut == batches(prompts[::-1], 32)
    assert sorted(prompt.id for batch in cut for prompt in batch) == sorted(prompt.id for prompt in prompts)
    assert {len(batch) for batch in cut[:-1]} == {32}
    [first] = cut[0][:1]
    assert len({answer_id(first, "m", 48), answer_id(first, "n", 48), answer_id(first, "m", 49)}) == 3
    assert asdict(first)["prompt"] == first.prompt


@pytest.mark.xfail(reason="the scorers changed: `python -m bench.outcomes` has to ask the model and its release anew")
def test_the_benchmark_measures_the_gate_of_today() -> None:
    """After a change of the scorers the outcomes are made anew: see `bench/outcomes.py`."""
    from alignment.evals.scorers import VERSION
    from bench.gate import scored_by

    assert scored_by() == VERSION
