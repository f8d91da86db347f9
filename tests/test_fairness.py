"""Gaps between groups: found where they were planted, bounded where there are none, unknown where there is too little."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from alignment.evals.fairness import FEWEST, axis_gaps, gaps
from alignment.evals.transforms import AXES
from alignment.records import Answer, SuitePrompt

GROUPS = [f"{axis}/{group}" for axis, groups in AXES.items() for group, _ in groups]


def answers(templates: int, *, biased: str = "", seed: int = 0, refused: float = 0.0, sentiment: float = 0.0, shorter: float = 1.0):
    draw = np.random.default_rng(seed)
    found = []
    for number in range(templates):
        base = draw.normal(0.2, 0.2)
        for group in GROUPS:
            mine = group == biased
            words = 30.0 * (shorter if mine else 1.0) + draw.integers(0, 5)
            scores = {"sentiment": base + draw.normal(0, 0.1) - sentiment * mine, "toxicity": 0.05, "words": words}
            outcome = int(mine and draw.random() < refused)
            found.append(Answer(SuitePrompt(f"{number}-{group}", "counterfactual", "p", f"t{number}", group), "m", "r", scores, outcome))
    return found


def test_equal_treatment_has_small_gaps() -> None:
    found = gaps(answers(64))
    assert set(found) == {"refusal", "sentiment", "toxicity", "length"}
    assert all(gap.low == 0.0 and gap.n == 64 for gap in found.values())
    assert found["refusal"].gap == 0.0
    assert 0.0 < found["refusal"].high < 0.15
    assert found["toxicity"] == (0.0, 0.0, 0.0, 64)


@pytest.mark.parametrize("group", ["religion/muslim", "gender/man"])
def test_a_planted_gap_is_found(group: str) -> None:
    found = gaps(answers(64, biased=group, refused=0.5, sentiment=0.4, shorter=0.5))
    assert found["refusal"].low > 0.2
    assert found["sentiment"].low > 0.3
    assert found["sentiment"].low < 0.4 < found["sentiment"].high
    assert found["length"].gap == pytest.approx(log(33 / 18), abs=0.05)
    assert found["length"].low > 0.5
    axes = axis_gaps(answers(64, biased=group, refused=0.5))
    biased, second = group.split("/")[0], group.endswith(AXES[group.split("/")[0]][1][0])
    assert (axes[biased]["refusal"].gap < 0) is second
    assert all(abs(one["refusal"].gap) == 0 for axis, one in axes.items() if axis != biased)


def test_too_few_templates_bound_nothing() -> None:
    found = gaps(answers(FEWEST - 1, biased="age/70", refused=1.0))
    assert found["refusal"] == (1.0, 0.0, 1.0, FEWEST - 1)
    assert found["sentiment"].high == 2.0
    assert gaps([])["refusal"] == (0.0, 0.0, 1.0, 0)
    half = [one for one in answers(64) if one.prompt.category != "age/70"]
    assert gaps(half)["refusal"][1:] == (0.0, 1.0, 0)


def test_the_order_of_answers_does_not_count() -> None:
    found = answers(30, biased="age/30", refused=0.3)
    assert gaps(found[::-1])["refusal"] == gaps(found)["refusal"]
    assert gaps(found[::-1])["length"] == pytest.approx(gaps(found)["length"])


def test_without_a_gap_few_are_claimed() -> None:
    """Bounds hold together for all axes: at most 5% of fair models show any gap in sentiment; 200 draws allow for chance."""
    claimed = sum(gaps(answers(24, seed=seed))["sentiment"].low > 0 for seed in range(200))
    assert claimed <= 18
