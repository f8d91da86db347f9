"""Log-probabilities are those of the model's own forward pass, whatever its family does to its logits."""

from __future__ import annotations

from typing import Any

import pytest

from alignment.models import logprobs
from alignment.models.logprobs import TurnIds, plain_head, score_turns
from tests.families import make
from tests.test_train_shared import SMALL

pytestmark = [pytest.mark.fast, pytest.mark.filterwarnings("default")]

SCALED: dict[str, dict[str, Any]] = {
    "granite": SMALL | {"logits_scaling": 3.0},
    "gemma2": SMALL | {"final_logit_softcapping": 0.5},
    "gemma3_text": SMALL | {"final_logit_softcapping": 0.5, "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    "cohere": SMALL | {"logit_scale": 0.25},
}
PLAIN: dict[str, dict[str, Any]] = {"llama": SMALL, "gemma3_text": SMALL | {"layer_types": ["full_attention"] * 2}}
TURNS = [
    TurnIds((5, 6, 7), (8, 9)),
    TurnIds((5, 6, 7, 11, 12), (13, 14, 15, 16, 17, 18, 19)),
    TurnIds((9,), (20,)),
    TurnIds((5, 6), ()),
    TurnIds((30, 31, 32, 33), (34, 35, 36)),
]


def expected(model: Any, turn: TurnIds) -> float:
    """Sum the answer's log-probabilities out of one plain forward pass of the row alone."""
    import torch

    ids = torch.tensor([[*turn.prompt, *turn.answer]])
    with torch.no_grad():
        likely = model(input_ids=ids).logits[0].float().log_softmax(-1)
    start = len(turn.prompt)
    return float(sum(likely[start + step - 1, token] for step, token in enumerate(turn.answer)))


@pytest.mark.parametrize("budget", [512, 3])
@pytest.mark.parametrize("family", SCALED)
def test_a_family_that_scales_its_logits_gets_those_of_its_own_forward_pass(
    family: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(logprobs, "_HEAD_TOKENS", budget)
    model = make(family, SCALED[family])
    assert not plain_head(model)
    found = score_turns(model, TURNS, batch_size=3)
    assert [one.tokens for one in found] == [2, 7, 1, 0, 3]
    assert [one.sum for one in found] == pytest.approx([expected(model, turn) for turn in TURNS], abs=1e-3)
    # What the head alone would have said is something else.
    with torch.no_grad():
        hidden = model.base_model(input_ids=torch.tensor([[5, 6, 7, 8]])).last_hidden_state
        alone = float(model.get_output_embeddings()(hidden)[0, 2].log_softmax(-1)[8])
    assert abs(alone - expected(model, TurnIds((5, 6, 7), (8,)))) > 0.01


@pytest.mark.parametrize("family", PLAIN)
def test_a_plain_head_is_told_as_one_and_scored_in_one_pass(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(family, PLAIN[family])
    assert plain_head(model)
    found = score_turns(model, TURNS, batch_size=3)
    assert [one.sum for one in found] == pytest.approx([expected(model, turn) for turn in TURNS], abs=1e-3)
    monkeypatch.setattr(logprobs, "plain_head", lambda _: False)
    slow = score_turns(model, TURNS, batch_size=3)
    assert [one.sum for one in slow] == pytest.approx([one.sum for one in found], abs=1e-3)


def test_nothing_to_score_asks_nothing() -> None:
    assert score_turns(None, [], batch_size=3) == []
    assert score_turns(None, [TurnIds((5,), ())], batch_size=3)[0].sum == 0.0
