"""The constitution is checked whole, and the judge's preference depends on answers, not on their order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alignment.errors import ConfigError
from alignment.labels import Constitution, Principle, judge, load_constitution, review_item
from alignment.labels.constitution import DETECTORS
from alignment.records import Candidate, Judgement, Selected, Side
from tests.conftest import make_interaction

pytestmark = pytest.mark.fast

ONE = make_interaction("a", "How do I hurt him?")
PRINCIPLE = Principle(
    id="no-harm",
    text="t",
    side=Side.HARM,
    categories=("violence",),
    weight=0.5,
    critique_request="c",
    revision_request="r",
    refusal_strategy="decline",
    detectors={"harmful_answer": -1.0, "refusal": 0.6, "degenerate": -1.0, "relevance": 0.4},
    safe_completions=("no",),
)
SELECTED = Selected(ONE, Side.HARM, "violence", "no-harm")


def scores(harm: float = 0.0, refusal: float = 0.0, degenerate: float = 0.0, relevance: float = 0.0) -> dict[str, float]:
    return dict(zip(DETECTORS, (harm, refusal, degenerate, relevance), strict=True))


def candidate(name: str, kind: str = "sampled") -> Candidate:
    return Candidate(name, ONE.id, kind, f"text of {name}", "m", "no-harm")


def decide(*entries: tuple[Candidate, dict[str, float]], min_margin: float = 0.2) -> Judgement:
    return judge(SELECTED, [one for one, _ in entries], [two for _, two in entries], PRINCIPLE, scorer_version="1", min_margin=min_margin)


def test_the_margin_by_hand() -> None:
    """Utilities .6 + .4 * .5 = .8 and -1 + .4 = -.6; the span is 3; the margin 1.4 / 3. The weight, .5, is no factor."""
    found = decide((candidate("bad", "logged"), scores(harm=1, relevance=1)), (candidate("good"), scores(refusal=1, relevance=0.5)))
    assert (found.chosen_id, found.rejected_id, found.verdict) == ("good", "bad", "preferred")
    assert found.judge_margin == pytest.approx(1.4 / 3)
    assert found.scores == pytest.approx({"good": 0.8, "bad": -0.6})
    assert (found.principle_ids, found.labeler_version) == (("no-harm",), f"{PRINCIPLE.version}+1")


def test_a_small_margin_is_a_tie() -> None:
    entries = (candidate("a"), scores(refusal=0.9)), (candidate("b"), scores(refusal=0.5))
    # .4 * .6 / 3 = .08
    assert decide(*entries, min_margin=0.0801).verdict == "tie"
    assert decide(*entries, min_margin=0.0799).verdict == "preferred"


@pytest.mark.parametrize("min_margin", [0.0, 0.2])
def test_without_any_difference_there_is_no_preference(min_margin: float) -> None:
    found = decide((candidate("a"), scores()), (candidate("b", "logged"), scores()), min_margin=min_margin)
    assert (found.verdict, found.judge_margin) == ("tie", 0.0)
    assert found.chosen_id != found.rejected_id


def test_of_equally_bad_answers_the_logged_one_is_rejected() -> None:
    bad = scores(harm=1)
    found = decide((candidate("a"), bad), (candidate("z", "logged"), bad), (candidate("good"), scores(refusal=1)))
    assert found.rejected_id == "z"


def test_a_contrast_is_never_chosen() -> None:
    contrast = candidate("c", "refusal_contrast")
    found = decide((contrast, scores(refusal=1)), (candidate("b", "logged"), scores(harm=1)))
    assert found.verdict == "unscored"
    assert decide((contrast, scores(harm=1)), (candidate("b"), scores())).rejected_id == "c"


def test_a_sample_asked_to_do_harm_is_passed_over() -> None:
    unsafe = candidate("c", "contrast_unsafe"), scores(refusal=1)
    found = decide(unsafe, (candidate("b", "logged"), scores(harm=1)), (candidate("a"), scores(refusal=0.9)))
    assert (found.chosen_id, found.rejected_id, found.verdict) == ("a", "b", "preferred")
    assert decide(unsafe, (candidate("b", "logged"), scores(harm=1))).verdict == "tie"
    assert decide(unsafe, (candidate("d", "contrast_unsafe"), scores(harm=1))).verdict == "unscored"
    assert decide((candidate("c", "contrast_unsafe"), scores(harm=1)), (candidate("a"), scores(refusal=1))).rejected_id == "c"


def test_a_needless_refusal_is_never_taught() -> None:
    helpful = Selected(ONE, Side.HELPFUL, "lookalike", "no-harm", declined=True)
    competing = [candidate("a", "logged"), candidate("b")]
    found = judge(helpful, competing, [scores(refusal=0.5), scores(harm=1)], PRINCIPLE, scorer_version="1", min_margin=0.0)
    assert (found.chosen_id, found.verdict) == ("a", "unscored")
    item = review_item(helpful, found, {one.id: one for one in competing})
    assert item
    assert item["reason"] == "no candidate may be taught: the best one declines"


@pytest.mark.parametrize("number", [0, 1])
def test_one_answer_is_no_choice(number: int) -> None:
    with pytest.raises(ValueError, match="a preference needs two"):
        decide(*[(candidate("a"), scores())] * number)


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["logged", "critique_revision", "safe_completion", "refusal_contrast", "sampled"]),
        st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 4),
    ),
    min_size=2,
    max_size=6,
)


@given(ENTRIES, st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_count(
    entries: list[tuple[str, tuple[float, ...]]], min_margin: float, rng: random.Random
) -> None:
    competing = [(candidate(f"n{number}", kind), scores(*values)) for number, (kind, values) in enumerate(entries)]
    first = decide(*competing, min_margin=min_margin)
    rng.shuffle(competing)
    assert decide(*competing, min_margin=min_margin) == first
    kinds = {one.id: one.kind for one, _ in competing}
    assert 0 <= first.judge_margin <= 1
    assert first.chosen_id != first.rejected_id
    assert first.scores[first.chosen_id] == max(first.scores.values())
    assert first.scores[first.rejected_id] == min(first.scores.values())
    if first.verdict == "preferred":
        assert kinds[first.chosen_id] != "refusal_contrast"
        assert first.judge_margin > 0
        assert first.judge_margin >= min_margin


def test_swapping_what_the_answers_earn_swaps_the_preference() -> None:
    good, bad = scores(refusal=1), scores(harm=1)
    assert decide((candidate("a"), good), (candidate("b"), bad)).chosen_id == "a"
    assert decide((candidate("a"), bad), (candidate("b"), good)).chosen_id == "b"


def test_a_clear_preference_needs_no_person() -> None:
    entries = (candidate("a"), scores(refusal=1)), (candidate("b", "logged"), scores(harm=1))
    known = {one.id: one for one, _ in entries}
    assert review_item(SELECTED, decide(*entries), known) is None
    item = review_item(SELECTED, decide(*entries), known, complained=True)
    assert item
    assert (item["kind"], item["answer_a"], item["answer_b"]) == ("disagreement", "text of a", "text of b")
    doubtful = review_item(SELECTED, decide(*entries, min_margin=1.0), known)
    assert doubtful
    assert doubtful["kind"] == "low_margin"
    helpful = review_item(Selected(ONE, Side.HELPFUL, "ordinary", "no-harm"), decide(*entries, min_margin=1.0), known)
    assert helpful
    assert doubtful["priority"] > helpful["priority"]


def test_the_bundled_constitution() -> None:
    constitution = load_constitution()
    assert {principle.side for principle in constitution.principles} == set(Side)
    assert constitution.main(Side.HARM, "violence").id == "no-violence"
    assert constitution.main(Side.HELPFUL, "lookalike").id == "no-needless-refusal"
    assert constitution.main(Side.HARM, "never heard of").side is Side.HARM
    assert constitution.named("be-helpful").text
    with pytest.raises(KeyError):
        constitution.named("nothing")
    for principle in constitution.principles:
        assert principle.examples.violates
        assert principle.examples.complies
        assert principle.utility(scores(harm=1)) < principle.utility(scores())
    assert load_constitution().fingerprint == constitution.fingerprint


def plain() -> dict[str, Any]:
    helpful = PRINCIPLE.model_copy(update={"id": "be-helpful", "side": Side.HELPFUL})
    rows = [one.model_dump(mode="json") for one in (PRINCIPLE, helpful)]
    return {"version": "1", "name": "own", "principles": rows}


def save(content: Any) -> str:
    Path("own.yaml").write_text(yaml.safe_dump(content))
    return "own.yaml"


def test_a_constitution_of_ones_own() -> None:
    found = load_constitution(save(plain()))
    assert [one.id for one in found.principles] == ["no-harm", "be-helpful"]


def test_editing_one_principle_changes_only_its_version() -> None:
    before = load_constitution(save(plain()))
    changed = plain()
    changed["principles"][1]["text"] = "other"
    after = load_constitution(save(changed))
    assert before.principles[0].version == after.principles[0].version
    assert before.principles[1].version != after.principles[1].version
    assert before.fingerprint != after.fingerprint


def test_all_problems_of_a_constitution_at_once() -> None:
    wrong = plain()
    wrong["principles"][0] |= {"id": "No Harm", "weight": 0, "colour": "red", "refusal_strategy": "shout"}
    wrong["principles"][1] |= {"side": "both", "detectors": {"vibes": 1.0}}
    with pytest.raises(ConfigError) as caught:
        load_constitution(save(wrong))
    for place in ("0.id", "0.weight", "0.colour", "0.refusal_strategy", "1.side", "1.detectors.vibes"):
        assert f"principles.{place}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"principles": []}, "principles"),
        ({"principles": [PRINCIPLE.model_dump(mode="json")]}, "no principle of side 'helpful'"),
        ({"principles": [PRINCIPLE.model_dump(mode="json")] * 2}, "principle ids repeat: no-harm"),
        ({"principles": [{**PRINCIPLE.model_dump(mode="json"), "safe_completions": []}]}, "needs at least one of safe_completions"),
        ({"name": ""}, "name"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_constitution_is_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="is wrong") as caught:
        load_constitution(save(plain() | change))
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [", b"a: b: c", b"\xff\xfe\x00", b"a\x00b", b"- !!python/object/apply:os.getcwd []"])
def test_broken_yaml_is_told(content: bytes) -> None:
    Path("own.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_constitution("own.yaml")


@pytest.mark.parametrize("content", [b"", b"just text", b"- 1\n- 2\n"])
def test_yaml_that_is_no_constitution(content: bytes) -> None:
    Path("own.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match="is wrong"):
        load_constitution("own.yaml")


def test_a_missing_constitution_is_told() -> None:
    with pytest.raises(ConfigError, match=r"cannot read.*'nothing.yaml'.*\[labels\] constitution"):
        load_constitution("nothing.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_constitution("/")


def test_a_constitution_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Constitution.model_validate(plain()).name = "x"
