"""What a look at held-out pairs says of refusing, apart from how readily the model refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from alignment.train.operating_point import LEAST, MOST_REFUSAL, choose_strength, operating_point, refusal_probability

pytestmark = pytest.mark.fast

REFUSAL = [1, 2, 3]


def rows(harm: Sequence[float], harmless: Sequence[float]) -> list[dict[str, Any]]:
    """Requests whose first token's number stands for how likely the refusal is after them."""
    values = [(True, value) for value in harm] + [(False, value) for value in harmless]
    return [{"prompt_ids": [value], "chosen_ids": REFUSAL, "harm": side} for side, value in values]


def policy(batch: Sequence[Any], shift: float = 0.0) -> torch.Tensor:
    """Logits before each token of the refusals: of its token the request's value and `shift`, of four others 0."""
    logits = torch.zeros(sum(len(row["chosen_ids"]) for row in batch), 5)
    at = 0
    for row in batch:
        for token in row["chosen_ids"]:
            logits[at, token] = row["prompt_ids"][0] + shift
            at += 1
    return logits


def test_what_is_told_apart_does_not_hang_on_the_operating_point() -> None:
    mixed = rows([0.1 * n + 0.05 for n in range(20)], [0.1 * n for n in range(-10, 10)])
    found = operating_point(policy, mixed)
    # Of 400 pairs of requests, the harmful one has the likelier refusal in 345.
    above = sum(h["prompt_ids"] > s["prompt_ids"] for h in mixed if h["harm"] for s in mixed if not s["harm"])
    assert found["refusal_auc"] == pytest.approx(above / 400)
    # At 5% of the harmless ones the limit lies between 0.8 and 0.9: eleven or twelve of twenty harmful ones are above.
    assert found["refused_at_5"] == pytest.approx(0.6, abs=0.05)
    for shift in (-2.0, 2.0):
        assert operating_point(lambda batch, by=shift: policy(batch, by), mixed) == found


def test_the_ends_of_the_scale() -> None:
    apart = rows([2.0] * 12, [-2.0] * 12)
    assert operating_point(policy, apart) == {"refusal_auc": 1.0, "refused_at_5": 1.0}
    turned = [{**row, "harm": not row["harm"]} for row in apart]
    assert operating_point(policy, turned) == {"refusal_auc": 0.0, "refused_at_5": 0.0}


def test_too_few_requests_of_a_side_say_nothing() -> None:
    assert operating_point(policy, rows([1.0] * LEAST, [0.0] * (LEAST - 1))) == {}
    assert operating_point(policy, []) == {}


def test_the_refusal_probability_is_the_mean_probability_of_the_whole_refusal_after_harmless_requests() -> None:
    mixed = rows([9.0] * 3, [0.0] * 30 + [2.0] * 10)
    each = {value: torch.tensor([value, 0.0, 0.0, 0.0, 0.0]).softmax(0)[0].item() ** len(REFUSAL) for value in (0.0, 2.0)}
    assert refusal_probability(policy, mixed) == pytest.approx((30 * each[0.0] + 10 * each[2.0]) / 40)
    assert math.isnan(refusal_probability(policy, rows([9.0] * 30, [0.0] * (LEAST - 1))))


@pytest.mark.parametrize(
    ("most", "refuses_from", "kept"),
    [(0.9, 1.0, 0.9), (0.9, 0.88, 0.85), (0.9, 0.68, 0.65), (0.9, 0.1, 0.5), (0.4, 0.1, 0.4), (1.0, float("nan"), 1.0)],
)
def test_a_night_keeps_the_largest_strength_that_declines_little(most: float, refuses_from: float, kept: float) -> None:
    asked: list[float] = []

    def refusal_at(strength: float) -> float:
        asked.append(strength)
        return float("nan") if refuses_from != refuses_from else 2 * MOST_REFUSAL * (strength > refuses_from)

    assert choose_strength(most, refusal_at) == pytest.approx(kept)
    # The adapter is left at the strength that was asked about last.
    assert asked[-1] == pytest.approx(kept)
