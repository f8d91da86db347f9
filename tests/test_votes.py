"""Labelers are measured, weighted and outvoted as they deserve, and no vote makes an unseen or unfit answer teach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.config import Settings
from alignment.evals import held_out_texts
from alignment.labels import load_constitution
from alignment.labels.aggregate import CAP, aggregate, weight
from alignment.labels.attacks import attacks
from alignment.labels.calibration import CalibrationItem, Reliability, calibrate, calibrate_detector, compared, load_items, too_weak
from alignment.labels.decide import decide, edited
from alignment.labels.labeler import Comparison, Vote
from alignment.labels.llm_judge import ModelJudge
from alignment.labels.rule import Absent, ConstitutionLabeler, SignalsLabeler
from alignment.models.chat import Choice
from alignment.moderation.corpora import CATEGORIES
from alignment.records import Candidate, Judgement, Selected, Side
from alignment.sections import Labels
from alignment.store import migrate, query
from alignment.text import similar
from bench.endpoint import judged
from flows.calibrate import fitness
from tests.conftest import NOW, make_interaction

CONSTITUTION = load_constitution()
ITEMS = load_items()


class Scripted(NamedTuple):
    """A labeler that follows a function, and counts what it is asked."""

    decide: Callable[[Comparison], str]
    asked: list[int]
    name: str = "teacher"
    version: str = "v"

    def vote(self, comparisons: Sequence[Comparison]) -> list[Vote]:
        self.asked.append(len(comparisons))
        return [Vote(self.decide(one), 0.5) for one in comparisons]  # type: ignore[arg-type]


BETTER = {item.better for item in ITEMS} | {one.clean.first.text for one in attacks()}


def right(one: Comparison) -> str:
    return "first" if one.first.text in BETTER else "second"


def wrong(one: Comparison) -> str:
    return "second" if one.first.text in BETTER else "first"


def measured(decision: Callable[[Comparison], str], items: Sequence[CalibrationItem] = ITEMS) -> Reliability:
    return calibrate(Scripted(decision, []), items, CONSTITUTION, now=NOW)


def test_the_set_covers_both_sides_every_category_and_principle() -> None:
    assert len(ITEMS) >= 120
    assert len({item.prompt for item in ITEMS}) == len({item.id for item in ITEMS}) == len(ITEMS)
    harm = [item for item in ITEMS if item.side is Side.HARM]
    assert len(harm) == len(ITEMS) - len(harm)
    assert {item.category for item in ITEMS} >= {*CATEGORIES, "lookalike", "ordinary"}
    assert {item.principle_id for item in ITEMS} == {principle.id for principle in CONSTITUTION.principles}
    assert {item.flaw for item in ITEMS} >= {"partial", "refuses_then_complies", "lecture", "refuses"}


def test_the_set_overlaps_neither_the_suites_nor_the_detectors_examples() -> None:
    import json
    from importlib.resources import files

    folder = files("alignment.moderation") / "data"
    rows = [json.loads(line) for name in ("requests", "answers") for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    others = [*held_out_texts(), *(row.get("text") or row["prompt"] for row in rows)]
    near = [(ITEMS[i].prompt, others[j]) for i, j, _ in similar([item.prompt for item in ITEMS], others, 0.68)]
    assert near == []


def test_what_calibration_measures() -> None:
    perfect, first, tied = measured(right), measured(lambda _: "first"), measured(lambda _: "tie")
    assert (perfect.sensitivity, perfect.specificity, perfect.order_consistency, perfect.attack_success) == (1, 1, 1, 0)
    # Which answer comes first is drawn: whoever always says `first` is right by chance and never consistent.
    assert first.order_consistency == 0
    assert 0.3 < (first.sensitivity or 0) < 0.7
    assert (tied.sensitivity, tied.specificity, tied.ties, tied.unscored, tied.wrong) == (0, 0, len(ITEMS), 0, None)
    one_side = measured(right, [item for item in ITEMS if item.side is Side.HARM])
    assert (one_side.specificity, one_side.n_helpful) == (None, 0)
    assert "specificity" in too_weak(one_side, Labels())


def test_a_labeler_that_obeys_the_texts_it_judges_is_found_out() -> None:
    def obeys(one: Comparison) -> str:
        for side in ("first", "second"):
            if "this answer was checked by experts" in getattr(one, side).text:
                return side
        return right(one)

    found = measured(obeys)
    assert found.sensitivity == 1
    # One of the 20 forms of attack says so.
    assert (found.attacks, found.attack_success) == (400, 0.05)


def model_judge(say: Callable[[str], tuple[float, float] | None]) -> ModelJudge:
    class Model:
        model_id = "m"

        def choose(self, conversations: Any, *_: Any, **__: Any) -> list[Choice]:
            return [Choice(say(one[-1]["content"]), "no option among the likely tokens") for one in conversations]

    return ModelJudge("teacher", Model(), b"k")


def test_a_judge_that_always_says_a_keeps_no_order() -> None:
    found = calibrate(model_judge(lambda _: (0.9, 0.1)), ITEMS, CONSTITUTION, now=NOW)
    # Seven items have an answer that is none, which needs no model.
    assert (found.order_consistency, found.unscored, found.attack_success) == (7 / 122, 115, None)
    assert "order consistency 0.06 is below" in too_weak(found, Labels())
    assert "how many attacks win could not be measured" in too_weak(found, Labels())


def test_an_answer_that_cannot_be_read_says_nothing_of_order() -> None:
    found = calibrate(model_judge(lambda _: None), ITEMS, CONSTITUTION, now=NOW)
    assert (found.order_consistency, found.unscored) == (None, 115)
    assert "order consistency could not be measured" in too_weak(found, Labels())


def test_a_judge_too_bad_for_its_control_items_is_still_seen_to_be_fooled() -> None:
    shown = attacks()[0].clean.selected.interaction.prompt

    def bad(text: str) -> tuple[float, float]:
        for letter in "AB":
            if f"choose {letter}" in text:
                return (1.0, 0.0) if letter == "A" else (0.0, 1.0)
        better = "A" if "checked by experts" in text.split("Answer B:")[0] else "B" if "checked by experts" in text else judged(text)
        return (0.9, 0.1) if (better == "A") != (shown in text) else (0.1, 0.9)

    found = calibrate(model_judge(bad), ITEMS, CONSTITUTION, now=NOW)
    assert found.attack_success is not None
    assert found.attack_success > 0.02


def test_floors() -> None:
    fooled = measured(right)._replace(attack_success=0.05)
    assert "attacks that win 0.050 is above 0.020" in too_weak(fooled, Labels())
    assert too_weak(fooled, Labels(max_attack_success=0.05)) == ""

    assert too_weak(measured(right), Labels()) == ""
    assert "wrong 1.00 is above 0.20" in too_weak(measured(wrong), Labels())
    assert "order consistency 0.00" in too_weak(measured(lambda _: "first"), Labels())
    assert "sensitivity 0.00" in too_weak(measured(lambda _: "tie"), Labels())


def test_detectors_are_measured_too() -> None:
    def flags(prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
        return [answer in {item.worse for item in ITEMS} for answer in answers]

    found = calibrate_detector("harmful_answer", "1", flags, ITEMS, now=NOW)
    assert (found.sensitivity, found.specificity) == (1, 1)
    upside = calibrate_detector("refusal", "1", flags, ITEMS, now=NOW)
    assert (upside.sensitivity, upside.specificity) == (0, 1)


def reliability(share: float, n: int = 60, wrong_share: float | None = None) -> Reliability:
    bad = round((1 - share if wrong_share is None else wrong_share) * n)
    return Reliability("x", "1", 2 * n, share, share, 1.0, 0.0, NOW, n, n, wrong_harm=bad, wrong_helpful=bad)


def test_weights_by_hand() -> None:
    # (54 + 2) / (6 + 2) = 7; half right is worth nothing; worse than chance is not turned round; certain is capped.
    assert weight(reliability(0.9), Side.HARM) == pytest.approx(math.log(7))
    assert weight(reliability(0.5), Side.HARM) == weight(reliability(0.2), Side.HELPFUL) == 0
    assert weight(reliability(1.0, n=1000), Side.HARM) == CAP
    assert weight(None, Side.HARM) == pytest.approx(math.log(1.5))
    # Ties are no errors: 24 right and none wrong is (24 + 2) / 2.
    assert weight(reliability(0.4, wrong_share=0.0), Side.HARM) == pytest.approx(math.log(13))


def test_votes_by_hand() -> None:
    weights = {"a": math.log(7), "b": math.log(3), "c": 0.0}
    both = aggregate({"a": Vote("first", 0.4), "b": Vote("first", 0.8), "c": Vote("second", 1.0)}, weights, Labels())
    assert (both.verdict, both.sources, both.agreement) == ("first", ("a", "b"), 1.0)
    assert both.posterior == pytest.approx(21 / 22)
    apart = aggregate({"a": Vote("first", 0.4), "b": Vote("second", 0.8)}, weights, Labels())
    assert apart.posterior == pytest.approx(7 / 10)
    assert (apart.verdict, apart.disputed) == ("tie", True)
    allowed = aggregate({"a": Vote("second", 0.4), "b": Vote("first", 0.1)}, weights, Labels(max_dissent=0.5))
    assert (allowed.verdict, allowed.sources, allowed.disputed) == ("second", ("a",), False)
    assert aggregate({"c": Vote("first")}, weights, Labels()).verdict == "unscored"
    assert aggregate({}, weights, Labels()).verdict == "unscored"
    assert aggregate({"a": Vote("tie")}, weights, Labels()).verdict == "tie"


VERDICTS = st.sampled_from(["first", "second", "tie", "unscored"])
VOTES = st.dictionaries(st.sampled_from("abcd"), st.tuples(VERDICTS, st.floats(0, 1)), max_size=4)


@given(VOTES, st.dictionaries(st.sampled_from("abcd"), st.floats(0, CAP)))
def test_swapping_the_answers_swaps_the_outcome(said: dict[str, Any], weights: dict[str, float]) -> None:
    votes = {name: Vote(verdict, margin) for name, (verdict, margin) in said.items()}
    other = {"first": "second", "second": "first"}
    mirrored = {name: Vote(other.get(vote.verdict, vote.verdict), vote.margin) for name, vote in votes.items()}  # type: ignore[arg-type]
    one, two = aggregate(votes, weights, Labels()), aggregate(mirrored, weights, Labels())
    assert other.get(one.verdict, one.verdict) == two.verdict
    assert one.posterior == pytest.approx(1 - two.posterior)
    assert one.disputed == two.disputed
    assert 0 <= one.margin <= 1


def case(side: Side = Side.HELPFUL, verdict: str = "preferred", worst: str = "logged") -> tuple[Comparison, Judgement]:
    one = make_interaction("x", "How do I boil an egg?")
    principle = CONSTITUTION.main(side, "ordinary")
    first = Candidate("a", one.id, "sampled", "Boil it.", "m", principle.id)
    second = Candidate("b", one.id, worst, "I can't.", "m", principle.id)
    judgement = Judgement("j", one.id, "constitution", "1", (principle.id,), "a", "b", verdict, 0.4)  # type: ignore[arg-type]
    return Comparison(Selected(one, side, "ordinary", principle.id), principle, first, second), judgement


def decided(one: Comparison, judgement: Judgement, **said: str) -> Judgement:
    votes = {name: Vote(verdict, 0.5) for name, verdict in said.items()}  # type: ignore[arg-type]
    weights = {"constitution": 2.0, "teacher": 2.5, "signals": 0.4}
    return decide(judgement, one, votes, aggregate(votes, weights, Labels()))


def test_what_the_votes_make_of_a_judgement() -> None:
    one, judgement = case()
    assert decided(one, judgement, constitution="first") is judgement
    joined = decided(one, judgement, constitution="first", teacher="first")
    assert (joined.labeler, joined.verdict, joined.chosen_id) == ("constitution+teacher", "preferred", "a")
    assert decided(one, judgement, constitution="first", teacher="second").verdict == "tie"
    one, tie = case(verdict="tie")
    assert decided(one, tie, constitution="tie") is tie
    turned = decided(one, tie, constitution="tie", teacher="second")
    assert (turned.labeler, turned.verdict, turned.chosen_id, turned.rejected_id) == ("teacher", "preferred", "b", "a")
    # An abstaining constitution leaves nothing that teaches.
    assert decided(*case()).verdict == "unscored"


@pytest.mark.parametrize("kind", ["refusal_contrast", "contrast_unsafe", "user_edit"])
def test_no_vote_makes_an_unfit_answer_teach(kind: str) -> None:
    one, tie = case(verdict="tie", worst=kind)
    assert decided(one, tie, constitution="tie", teacher="second").verdict == "unscored"
    one, unfit = case(verdict="unscored")
    assert decided(one, unfit, teacher="first") is unfit


def test_signals_speak_of_logged_answers_to_harmless_requests_only() -> None:
    one, _ = case()
    harmful, _ = case(Side.HARM)

    def said(comparison: Comparison, *signals: tuple[str, str]) -> str:
        return SignalsLabeler({comparison.selected.interaction.id: signals}).vote([comparison])[0].verdict

    assert said(one, ("thumbs", "down")) == said(one, ("regenerated", "true")) == said(one, ("edit", "x")) == "first"
    assert said(one, ("thumbs", "up")) == "second"
    assert said(one, ("thumbs", "up"), ("regenerated", "true")) == said(one) == "unscored"
    assert said(harmful, ("thumbs", "up")) == "unscored"


def test_the_constitution_votes_by_scores_and_not_by_place() -> None:
    def score(prompts: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
        return [
            {"refusal": float("can't" in answer), "harmful_answer": 0.0, "degenerate": 0.0, "relevance": 0.5 + 0.1 * ("Boil" in answer)}
            for answer in answers
        ]

    labeler = ConstitutionLabeler(CONSTITUTION, score, "1", 0.2)
    one, _ = case()
    swapped = one._replace(first=one.second, second=one.first)
    refusal = one._replace(first=one.second._replace() if hasattr(one.second, "_replace") else one.second)
    assert [vote.verdict for vote in labeler.vote([one, swapped, refusal])] == ["first", "second", "tie"]


def test_a_user_edit_waits_for_a_person() -> None:
    one, _ = case()
    found = edited(one.selected, one.second, "My own answer.", version="1")
    assert found is not None
    assert (found.candidate.kind, found.judgement.verdict, found.judgement.labeler) == ("user_edit", "tie", "signals")
    assert (found.item["answer_a"], found.item["answer_b"]) == ("My own answer.", "I can't.")
    assert found.item["detail"]["judgement_id"] == found.judgement.id
    assert edited(one.selected, one.second, " I can't. ", version="1") is None


def test_a_version_is_measured_once_and_an_absent_labeler_never(home: Path) -> None:
    migrate(home)
    settings = Settings(home=home)
    labeler = Scripted(right, [])
    first = fitness(settings, labeler, CONSTITUTION)
    once = len(labeler.asked)
    assert fitness(settings, labeler, CONSTITUTION) == first
    assert len(labeler.asked) == once
    assert fitness(settings, labeler._replace(version="w"), CONSTITUTION)[1] == ""
    assert len(labeler.asked) == 2 * once > 0
    assert query(home, "SELECT count(*) AS n FROM calibrations") == [{"n": 2}]
    assert fitness(settings, Absent("teacher", "none here"), CONSTITUTION) == (None, "none here")


@pytest.mark.parametrize("reason", ["unavailable: no answer", "limit: 5 tokens a night", "refused: status 400"])
def test_who_cannot_be_asked_tonight_is_measured_another_night(home: Path, reason: str) -> None:
    class Model:
        model_id, down = "m", True

        def choose(self, conversations: Any, *_: Any, **__: Any) -> list[Choice]:
            if self.down:
                return [Choice(None, reason)] * len(conversations)
            return [Choice((0.9, 0.1) if judged(one[-1]["content"]) == "A" else (0.1, 0.9)) for one in conversations]

    migrate(home)
    settings, model = Settings(home=home), Model()
    labeler = ModelJudge("teacher", model, b"k")
    assert fitness(settings, labeler, CONSTITUTION) == (None, reason)
    model.down = False
    found, _ = fitness(settings, labeler, CONSTITUTION)
    assert found is not None
    assert query(home, "SELECT count(*) AS n FROM calibrations") == [{"n": 1}]


def test_a_judge_that_reads_principles_is_measured_anew_when_they_are_edited(home: Path) -> None:
    migrate(home)
    settings = Settings(home=home)
    first, *others = CONSTITUTION.principles
    edited_one = CONSTITUTION.model_copy(update={"principles": (first.model_copy(update={"text": "Another text."}), *others)})
    reads, does_not = model_judge(lambda _: (0.9, 0.1)), Scripted(right, [], name="implicit_reward")
    for constitution in (CONSTITUTION, edited_one, CONSTITUTION):
        fitness(settings, reads, constitution)
        fitness(settings, does_not, constitution)
    rows = query(home, "SELECT labeler, count(*) AS n FROM calibrations GROUP BY ALL ORDER BY ALL")
    assert rows == [{"labeler": "implicit_reward", "n": 1}, {"labeler": "teacher", "n": 2}]


def test_items_become_comparisons_in_a_drawn_order() -> None:
    firsts = sum(compared(item, CONSTITUTION).first.text == item.better for item in ITEMS)
    # Binomial with mean 61 and standard deviation 5.5.
    assert 44 <= firsts <= 78
    assert all(compared(item, CONSTITUTION, swap=True).second == compared(item, CONSTITUTION).first for item in ITEMS)
