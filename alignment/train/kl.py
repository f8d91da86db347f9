"""The divergence of the policy from its reference, on answers that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.train.prefix_shared import lay_out

MOST_ROWS = 32
"""Held-out pairs to evaluate: two forward passes per batch, a few seconds in all on a CPU."""
_ANSWER_TOKENS, _ROW_TOKENS = 256, 4096
"""Limits of a batch: answer tokens, whose logits are in memory twice (256 x 49,152 floats are 50 MB), and tokens in all."""

Rows = Sequence[Mapping[str, Any]]


@torch.no_grad()  # type: ignore[untyped-decorator]
def reference_kl(policy: Callable[[Rows], Tensor], reference: Callable[[Rows], Tensor], rows: Rows) -> float:
    """Return KL(policy || reference) in nats per token, averaged over the tokens of the first 32 rows' chosen answers.

    NaN without rows. Both models return logits (M, V) before each of the M answer tokens, in the same order.

    The sum over the vocabulary is exact at each position. The answers come from the data, not the policy: this measures how much the
    two differ along the data, not the divergence of whole answers.

    Source: the token-level form of eq. 3 of Rafailov et al. 2023 (arXiv:2305.18290), on given answers.
    """
    total, tokens = 0.0, 0
    for batch in batches(list(rows)[:MOST_ROWS]):
        ours, frozen = (model(batch).float().log_softmax(-1) for model in (policy, reference))
        total += float((ours.exp() * (ours - frozen)).sum())
        tokens += len(ours)
    return total / tokens if tokens else float("nan")


def batches(rows: Rows) -> Iterator[Rows]:
    """Split rows into batches whose logits fit the memory."""
    batch: list[Mapping[str, Any]] = []
    answers = whole = 0
    for row in rows:
        answer = len(row["chosen_ids"])
        size = len(row["prompt_ids"]) + answer
        if batch and (answers + answer > _ANSWER_TOKENS or whole + size > _ROW_TOKENS):
            yield batch
            batch, answers, whole = [], 0, 0
        batch.append(row)
        answers, whole = answers + answer, whole + size
    if batch:
        yield batch


def answer_logits(model: Any, rows: Rows, *, shared: bool) -> Tensor:
    """Return a model's logits (M, V) before each token of the chosen answers; `shared` if the model supports shared prefixes."""
    device = model.get_input_embeddings().weight.device
    if not shared:
        return torch.cat([_alone(model, row, device) for row in rows])
    width = max(len(row["prompt_ids"]) + len(row["chosen_ids"]) for row in rows)
    tokens, visible, labels = (torch.full((len(rows), width), fill) for fill in (0, 0, -100))
    for index, row in enumerate(rows):
        start, end = len(row["prompt_ids"]), len(row["prompt_ids"]) + len(row["chosen_ids"])
        tokens[index, :end] = torch.tensor([*row["prompt_ids"], *row["chosen_ids"]])
        visible[index, :end] = 1
        labels[index, start:end] = tokens[index, start:end]
    layout = lay_out(tokens.to(device), visible, labels)
    answered = (layout.labels[0] != -100).nonzero()[:, 0]
    logits: Tensor = model(**layout.inputs(model.dtype), use_cache=False, logits_to_keep=answered).logits[0]
    return logits


def _alone(model: Any, row: Mapping[str, Any], device: Any) -> Tensor:
    ids = torch.tensor([[*row["prompt_ids"], *row["chosen_ids"]]], device=device)
    # Not the logits after the answer's last token.
    logits: Tensor = model(input_ids=ids, logits_to_keep=len(row["chosen_ids"]) + 1).logits[0, :-1]
    return logits
