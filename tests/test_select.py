"""Tonight's prompts: within budget, spread, and the same in whatever order the pool comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.candidates.select import CERTAIN, HARMLESS, NEAR, Choice, PoolRow, select
from alignment.sections import Candidates
from alignment.text import similar
from tests.conftest import make_interaction

pytestmark = pytest.mark.fast

DISTINCT = [f"{a}{b} {b}{c} {c}{a}" for a, b, c in zip("abcdefghijklmnopqrst", "uvwxyzabcdefghijklmn", "fghijklmnopqrstuvwxy", strict=True)]


class Marks:
    """Embeds what ends with `!` as one subject, with `?` as one at the cosine NEAR to it, all else as another."""

    def embed(self, texts: Sequence[str]) -> Any:
        edge = [NEAR + 1e-6, (1 - NEAR**2) ** 0.5]
        return np.array([[1.0, 0.0] if text.endswith("!") else edge if text.endswith("?") else [0.0, 1.0] for text in texts]).reshape(-1, 2)


def row(name: object, score: float, prompt: str, **changes: Any) -> PoolRow:
    """Return an exchange; what is harmful or `near` to it has one subject."""
    user = changes.pop("user", f"u-{name}")
    prompt += "!" if changes.pop("near", score >= CERTAIN) else ""
    values = {"category": "violence", "toxicity": 0.0, "refusal": 0.0, "complained": False} | changes
    return PoolRow(make_interaction(name, prompt, user_id=user), score, **values)


HARM = [row("h", 0.9, text, user=f"u-{text}") for text in DISTINCT[-5:]]


def chosen(pool: list[PoolRow], **options: Any) -> list[Choice]:
    return select(pool, Candidates(**options), refusal_threshold=0.5, embedder=Marks())  # type: ignore[arg-type]


def names(choices: list[Choice]) -> list[tuple[str, str]]:
    return [(choice.interaction.conversation_id.removeprefix("c-"), choice.category) for choice in choices]


def test_a_request_is_taught_for_what_it_is() -> None:
    scores = {"harm": CERTAIN, "near!": 0.0, "edge?": 0.09, "plain": 0.09, "doubt!": HARMLESS, "high!": 0.69}
    pool = [row(name, score, DISTINCT[number] + name[-1]) for number, (name, score) in enumerate(scores.items())]
    assert sorted(names(chosen(pool + HARM[1:], helpful_budget=12))) == [
        ("edge?", "lookalike"), *(("h", "violence"),) * 4, ("harm", "violence"), ("near!", "lookalike"), ("plain", "ordinary"),
    ]  # fmt: skip


def test_of_few_harmful_requests_the_missing_neighbours_are_far() -> None:
    assert ("n", "ordinary") in names(chosen([*HARM[:1], row("n", 0.0, DISTINCT[0], near=True)]))
    assert ("n", "lookalike") in names(chosen([*HARM[:2], row("n", 0.0, DISTINCT[0], near=True)]))


def test_without_harm_nothing_looks_like_it() -> None:
    assert names(chosen([row("n", 0.0, DISTINCT[0], near=True)])) == [("n", "ordinary")]


def test_a_declined_harmless_request_comes_first_and_a_declined_harmful_one_not_at_all() -> None:
    declined = row("n", 0.0, DISTINCT[1], refusal=0.8, near=True)
    pool = [row("d", 0.9, DISTINCT[0], refusal=0.5), declined, row("p", 0.0, DISTINCT[2]), *HARM]
    assert names(chosen(pool, helpful_budget=4))[len(HARM) :] == [("n", "lookalike"), ("p", "ordinary")]
    # A complaint about a refusal says that it was needless.
    angry = [row("n", 0.0, DISTINCT[1], refusal=0.8, complained=True)]
    assert names(chosen(angry, helpful_budget=4)) == [("n", "ordinary")]
    many = [row(number, 0.0, DISTINCT[number], refusal=0.8) for number in range(8)]
    assert len(chosen(many, helpful_budget=8)) == 2


def test_a_complaint_comes_first_among_harm_and_never_among_harmless() -> None:
    pool = [row(number, 0.9, DISTINCT[number], complained=number == 7) for number in range(10)]
    assert names(chosen(pool, harm_budget=1)) == [("7", "violence")]
    harmless = [row("n", 0.0, DISTINCT[0], complained=True, near=True), row("p", 0.0, DISTINCT[1], complained=True)]
    assert chosen(harmless) == []


def test_categories_take_turns() -> None:
    pool = [row(f"v{number}", 0.9, DISTINCT[number]) for number in range(12)]
    pool += [row(f"h{number}", 0.9, DISTINCT[12 + number], category="hate") for number in range(3)]
    assert Counter(category for _, category in names(chosen(pool, harm_budget=6))) == {"violence": 3, "hate": 3}


def test_near_duplicates_count_once() -> None:
    pool = [row(number, 0.9, "How do I pick a lock" + "?" * number) for number in range(5)] + [row("x", 0.9, "bake some bread")]
    assert len(chosen(pool)) == 2


def test_one_user_fills_no_night() -> None:
    """The cap holds over all three kinds together."""
    kinds = [(0.9, True)] * 6 + [(0.0, True)] * 6 + [(0.0, False)] * 6
    pool = [row(number, score, DISTINCT[number], user="greedy", near=near) for number, (score, near) in enumerate(kinds)]
    assert len(chosen(pool, max_per_user=4)) == 4
    assert len(chosen(pool, max_per_user=18)) == 18


def test_lines_without_a_user_are_not_one_persons() -> None:
    kinds = [(0.9, True)] * 7 + [(0.0, True)] * 6 + [(0.0, False)] * 7
    pool = [row(number, score, DISTINCT[number], user="", near=near) for number, (score, near) in enumerate(kinds)]
    assert len(chosen(pool, max_per_user=1)) == len(pool)


@pytest.mark.parametrize(("score", "complained"), [(0.9, True), (0.0, False)])
def test_a_flood_of_one_user_leaves_room_for_everybody(score: float, complained: bool) -> None:
    """What complains comes first, and of a large pool only the head is looked at."""
    flood = [row(f"f{number}", score, "one of many", user="greedy", complained=complained) for number in range(5000)]
    honest = [row(number, score, prompt) for number, prompt in enumerate(DISTINCT)]
    found = chosen(flood + honest, harm_budget=20, helpful_budget=20)
    assert sum(one.interaction.user_id != "greedy" for one in found) >= 19


def test_the_budget_holds() -> None:
    kinds = [(0.9, True)] * 7 + [(0.0, True)] * 6 + [(0.0, False)] * 7
    pool = [row(number, score, DISTINCT[number], near=near) for number, (score, near) in enumerate(kinds)]
    assert Counter(category for _, category in names(chosen(pool, harm_budget=3, helpful_budget=8))) == {
        "violence": 3,
        "lookalike": 2,
        "ordinary": 6,
    }
    # What look-alikes cannot fill goes to ordinary requests.
    few = [one for number, one in enumerate(pool) if not 7 <= number < 13]
    assert Counter(category for _, category in names(chosen(few, harm_budget=3, helpful_budget=6))) == {"violence": 3, "ordinary": 6}
    assert {category for _, category in names(chosen(pool, helpful_budget=0))} == {"violence"}


def test_an_empty_pool() -> None:
    assert chosen([]) == []


POOL = st.lists(
    st.builds(
        lambda name, score, prompt, user, refusal, complained, category, near: row(
            name, score, prompt, user=f"u{user}" if user else "", refusal=refusal, complained=complained, category=category, near=near
        ),
        st.integers(0, 10_000),
        st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.49, 0.6, 0.7, 0.95]),
        st.lists(st.sampled_from(["lock", "pick", "bread", "bake", "moon", "star", "garden", "tulip"]), min_size=1, max_size=3).map(
            " ".join
        ),
        st.integers(0, 4),
        st.sampled_from([0.0, 0.0, 0.9]),
        st.booleans(),
        st.sampled_from(["violence", "hate", "fraud"]),
        st.booleans(),
    ),
    max_size=25,
    unique_by=lambda one: one.interaction.id,
)


@settings(max_examples=60)
@given(POOL, st.integers(1, 8), st.integers(0, 8), st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_choice_keeps_its_promises(pool: list[PoolRow], harm: int, helpful: int, per_user: int, rng: Any) -> None:
    options = {"harm_budget": harm, "helpful_budget": helpful, "max_per_user": per_user}
    first = chosen(pool, **options)
    shuffled = list(pool)
    rng.shuffle(shuffled)
    assert chosen(shuffled, **options) == first
    rows = {one.interaction.id: one for one in pool}
    kinds = Counter("harm" if rows[one.interaction.id].harmful_request >= CERTAIN else one.category for one in first)
    assert kinds["harm"] <= harm
    assert kinds["lookalike"] + kinds["ordinary"] <= helpful
    people = Counter(one.interaction.user_id for one in first if one.interaction.user_id)
    assert all(number <= per_user for number in people.values())
    assert all(rows[one.interaction.id].refusal < 0.5 or rows[one.interaction.id].harmful_request < HARMLESS for one in first)
    assert len({one.interaction.id for one in first}) == len(first)
    for kind in ("harm", "lookalike", "ordinary"):
        prompts = [
            one.interaction.prompt
            for one in first
            if (one.category == kind or (kind == "harm" and one.category not in ("lookalike", "ordinary")))
        ]
        assert all(i == j for i, j, _ in similar(prompts, prompts, Candidates().near_duplicate))


@pytest.mark.parametrize("budget", [1, 5])
def test_only_the_head_of_a_large_pool_is_compared(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    import sys

    module = sys.modules["alignment.candidates.select"]
    sizes: list[int] = []

    def counted(texts: list[str], threshold: float) -> list[int]:
        sizes.append(len(texts))
        return list(range(len(texts)))

    monkeypatch.setattr(module, "clusters", counted)
    pool = [row(number, 0.9, f"p{number}") for number in range(1000)]
    assert len(chosen(pool, harm_budget=budget)) == budget
    assert max(sizes) == 100
