"""The answers that compete for a prompt: where they come from, and that they are made once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from alignment.candidates import fixed_candidates, revision_batches, revision_ids, revisions, sample_batches, sample_ids, samples
from alignment.labels import load_constitution
from alignment.records import Message, Selected, Side
from tests.conftest import make_interaction

CONSTITUTION = load_constitution()


class Parrot:
    """A model that answers with what it was asked last and how."""

    model_id = "parrot"

    def generate(
        self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        return [f"{temperature}/{seed}: {one[-1]['content'][-40:]}" for one in conversations]


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


def test_a_revision_keeps_its_critique() -> None:
    rules = [CONSTITUTION.named(HARM.principle_id)]
    [revised] = revisions(Parrot(), [HARM], rules, max_new_tokens=8)
    assert {revised.id} == revision_ids("parrot", [HARM], rules)
    assert rules[0].critique_request[-40:].strip() in revised.detail["critique"]
    assert rules[0].revision_request[-40:].strip() in revised.text
