"""The answers that compete for a prompt: where they come from, and that they are made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from alignment.candidates import (
    contrast_batches,
    contrast_ids,
    contrasts,
    critic,
    current,
    fixed_candidates,
    revision_batches,
    revision_ids,
    revisions,
    sample_batches,
    sample_ids,
    samples,
)
from alignment.labels import load_constitution
from alignment.records import Message, Selected, Side
from tests.conftest import make_interaction

pytestmark = pytest.mark.fast

CONSTITUTION = load_constitution()


class Parrot:
    """A model that answers with what it was asked last and how."""

    model_id = "parrot"

    def generate(
        self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, **_: Any
    ) -> list[str]:
        return [f"{temperature}/{seed}: {one[-1]['content'][-40:]}" for one in conversations]


class Thinks:
    """A model that never comes to an answer."""

    model_id = "thinks"

    def generate(self, conversations: Sequence[Sequence[Message]], **_: Any) -> list[str]:
        return ["<think>They want to know how."] * len(conversations)


def selected(name: str, side: Side, *, declined: bool = False, prompt: str = "How do I kill a process?") -> Selected:
    category = "violence" if side is Side.HARM else "lookalike"
    principle = CONSTITUTION.main(side, category)
    return Selected(make_interaction(name, prompt), side, category, principle.id, declined)


HARM, HARMLESS, DECLINED = selected("h", Side.HARM), selected("n", Side.HELPFUL), selected("d", Side.HELPFUL, declined=True)


@pytest.mark.parametrize(
    ("one", "kinds"),
    [(HARM, ["logged", "safe_completion"]), (HARMLESS, ["logged", "refusal_contrast"]), (DECLINED, ["logged"])],
)
def test_what_needs_no_model(one: Selected, kinds: list[str]) -> None:
    assert [candidate.kind for candidate in fixed_candidates(one, CONSTITUTION.named(one.principle_id), CONSTITUTION.refusals)] == kinds


def test_only_harm_is_revised_and_only_what_was_declined_is_asked_again() -> None:
    everything = [HARM, HARMLESS, DECLINED]
    assert revision_batches(everything, 8, budget=9) == [[HARM]]
    assert revision_batches(everything, 8, budget=0) == []
    assert sample_batches(everything, 8) == [[DECLINED]]


def test_batches_do_not_depend_on_the_order_of_the_selection() -> None:
    many = [selected(str(number), Side.HARM, prompt="x" * (number % 4 + 1)) for number in range(11)]
    batches = revision_batches(many, 4, budget=11)
    assert revision_batches(many[::-1], 4, budget=11) == batches
    assert [len(batch) for batch in batches] == [4, 4, 3]


def test_each_draw_is_another_candidate_with_a_known_id() -> None:
    rules = [CONSTITUTION.named(DECLINED.principle_id)]
    drawn = samples(Parrot(), [DECLINED], rules, max_new_tokens=8)
    assert {one.id for one in drawn} == sample_ids("parrot", [DECLINED], rules)
    assert len({one.id for one in drawn}) == len({one.text for one in drawn}) == 2
    assert all(one.kind == "sampled" and one.text.startswith("0.8/") for one in drawn)


def test_a_revision_keeps_every_round() -> None:
    rules = [CONSTITUTION.named(HARM.principle_id)]
    [revised] = revisions(Parrot(), [HARM], rules, max_new_tokens=8)
    assert {revised.id} == revision_ids("parrot", [HARM], rules)
    assert revised.detail["raw"] == fixed_candidates(HARM, rules[0], ["no"])[0].id
    assert rules[0].critique_request[-40:].strip() in revised.detail["critique_1"]
    assert rules[0].revision_request[-40:].strip() in revised.text
    assert revised.text == revised.detail["revision_1"]


class Counter(Parrot):
    """A model whose every answer is new, and that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[Message]] = []

    def generate(self, conversations: Sequence[Sequence[Message]], **_: object) -> list[str]:  # type: ignore[override]
        self.asked += [list(one) for one in conversations]
        return [f"text {len(self.asked) - len(conversations) + number}" for number in range(1, len(conversations) + 1)]


def test_each_round_criticises_the_text_before_it() -> None:
    rules, model = [CONSTITUTION.named(HARM.principle_id)], Counter()
    [revised] = revisions(model, [HARM], rules, max_new_tokens=8, rounds=2)
    assert {name: revised.detail[name] for name in ("critique_1", "revision_1", "critique_2", "revision_2")} == {
        "critique_1": "text 1", "revision_1": "text 2", "critique_2": "text 3", "revision_2": "text 4",
    }  # fmt: skip
    assert revised.text == "text 4"
    assert HARM.interaction.response in model.asked[0][0]["content"]
    assert "text 2" in model.asked[2][0]["content"]
    assert {revised.id} == revision_ids("parrot", [HARM], rules, rounds=2) != revision_ids("parrot", [HARM], rules)


def test_the_critic_is_drawn_by_the_exchange() -> None:
    covering = CONSTITUTION.covering(Side.HARM, "fraud")
    assert [rule.id for rule in covering] == ["no-fraud", "no-manipulation"]
    frauds = [selected(f"f{number}", Side.HARM) for number in range(40)]
    drawn = [critic(one, covering).id for one in frauds]
    assert drawn == [critic(one, covering).id for one in frauds]
    assert 8 <= drawn.count("no-fraud") <= 32
    model, judge = Counter(), covering[0]
    [revised] = revisions(model, [HARM], [judge], max_new_tokens=8, critics=[covering[1]])
    assert (revised.principle_id, revised.detail["critic"]) == ("no-fraud", "no-manipulation")
    assert covering[1].critique_request in model.asked[0][0]["content"]
    assert {revised.id} == revision_ids("parrot", [HARM], [judge], critics=[covering[1]]) != revision_ids("parrot", [HARM], [judge])


def test_contrasts_are_asked_under_opposite_system_prompts() -> None:
    rules, model = [CONSTITUTION.named(HARM.principle_id)], Counter()
    own: Message = {"role": "system", "content": "Speak of gardens."}
    one = replace(HARM, interaction=replace(HARM.interaction, messages=(own, *HARM.interaction.messages)))
    drawn = contrasts(model, [one], rules, max_new_tokens=8)
    assert [candidate.kind for candidate in drawn] == ["contrast_safe", "contrast_unsafe"]
    assert {candidate.id for candidate in drawn} == contrast_ids("parrot", [one], rules)
    assert [[turn["role"] for turn in asked] for asked in model.asked] == [["system", "user"]] * 2
    systems = [asked[0]["content"] for asked in model.asked]
    assert all(text.endswith("Speak of gardens.") for text in systems)
    assert systems[0] != systems[1]
    assert contrast_batches([HARM, HARMLESS], 8, budget=0) == []
    assert contrast_batches([HARM, HARMLESS], 8, budget=5) == [[HARM]]


def test_what_an_edited_principle_had_made_does_not_compete() -> None:
    rule = CONSTITUTION.named(HARM.principle_id)
    edited = rule.model_copy(update={"safe_completions": ("No.",)})
    other = CONSTITUTION.named("no-fraud")
    made = [
        *fixed_candidates(HARM, rule, ()),
        *revisions(Parrot(), [HARM], [rule], max_new_tokens=8, critics=[other], rounds=2),
        *samples(Parrot(), [HARM], [rule], max_new_tokens=8),
        *contrasts(Parrot(), [HARM], [rule], max_new_tokens=8),
    ]
    foreign = replace(made[0], id="x", kind="teacher")
    assert current([*made, foreign], HARM, rule, covering=[rule, other], refusals=()) == [*made, foreign]
    assert current([*made, foreign], HARM, edited, covering=[edited, other], refusals=()) == [foreign]
    [revised] = [one for one in made if one.kind == "critique_revision"]
    changed = other.model_copy(update={"critique_request": "?"})
    assert revised not in current(made, HARM, rule, covering=[rule, changed], refusals=())
    contrast = fixed_candidates(HARMLESS, CONSTITUTION.named(HARMLESS.principle_id), ["no"])
    assert current(contrast, HARMLESS, CONSTITUTION.named(HARMLESS.principle_id), covering=[], refusals=["no"]) == contrast


def test_an_empty_text_competes_only_where_nothing_else_is_left() -> None:
    rule = CONSTITUTION.named(HARM.principle_id)
    thinks = Thinks()
    made = [
        *fixed_candidates(HARM, rule, ()),
        *revisions(thinks, [HARM], [rule], max_new_tokens=8),
        *contrasts(thinks, [HARM], [rule], max_new_tokens=8),
    ]
    assert [one.kind for one in current(made, HARM, rule, covering=[rule], refusals=())] == ["logged", "safe_completion"]
    # Asked again, it only thought: two answers are compared all the same, or there would be nothing to count.
    rule = CONSTITUTION.named(HARMLESS.principle_id)
    alone = [fixed_candidates(HARMLESS, rule, ["no"])[0], *samples(thinks, [HARMLESS], [rule], max_new_tokens=8)]
    assert current(alone, HARMLESS, rule, covering=[], refusals=["no"]) == alone
