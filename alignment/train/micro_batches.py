"""Split a batch of pairs into parts that fit the memory, and weight each part so that the gradient stays the whole batch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch


def out_of_memory(error: BaseException) -> bool:
    """Return whether the GPU or the machine ran out of memory."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text or "can't allocate memory" in text


def split(inputs: Mapping[str, Any], *, most_tokens: int = 0, most_pairs: int = 0) -> list[dict[str, Any]]:
    """Split TRL's (2B, T) batch into parts of at most `most_tokens` and `most_pairs` (0: no limit); each has at least one pair.

    Tokens are counted as in shared rows: a prompt once, and both answers.
    """
    pairs = len(inputs["input_ids"]) // 2
    lengths, answers = inputs["attention_mask"].sum(1), inputs["completion_mask"].sum(1)
    sizes = (lengths[:pairs] + answers[pairs:]).tolist()
    borders, held = [0], 0
    for pair, size in enumerate(sizes):
        full = (most_tokens and held + size > most_tokens) or (most_pairs and pair - borders[-1] >= most_pairs)
        if full and pair > borders[-1]:
            borders.append(pair)
            held = 0
        held += size
    if len(borders) == 1:
        return [dict(inputs)]
    return [_part(inputs, start, end, pairs) for start, end in zip(borders, [*borders[1:], pairs], strict=True)]


def _part(inputs: Mapping[str, Any], start: int, end: int, pairs: int) -> dict[str, Any]:
    longest = int(torch.cat([inputs["attention_mask"][at : at + end - start] for at in (start, start + pairs)]).sum(1).max())

    def cut(value: torch.Tensor) -> torch.Tensor:
        if len(value) == pairs:
            return value[start:end]
        return torch.cat([value[start:end], value[start + pairs : end + pairs]])[:, :longest]

    return {name: cut(value) for name, value in inputs.items()}


class Counts(NamedTuple):
    """The pairs in a batch or a part of it, and the tokens of their chosen answers."""

    pairs: float
    tokens: float


def count(inputs: Mapping[str, Any]) -> Counts:
    """Count the pairs and chosen tokens of TRL's (2B, T) batch."""
    pairs = len(inputs["input_ids"]) // 2
    return Counts(pairs, float(inputs["completion_mask"][:pairs].sum()))


def scale(part: Counts, whole: Counts, kind: str) -> float:
    """Return the weight of a part's loss in the whole batch: losses are means over pairs, the supervised loss over tokens."""
    return part.tokens / whole.tokens if kind == "sft" else part.pairs / whole.pairs


class Averages:
    """Combines TRL's metrics over forward passes; TRL would weigh each pass the same, whatever its size.

    Metrics per pair are weighed by pairs, metrics per token by their tokens.
    """

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def add(self, inputs: Mapping[str, Any]) -> None:
        """Record the size of a forward pass."""
        pairs = len(inputs["input_ids"]) // 2
        chosen, rejected = (float(part.sum()) for part in inputs["completion_mask"].split(pairs))
        tokens = {"entropy": chosen + rejected, "mean_token_accuracy": chosen, "logits/chosen": chosen, "logits/rejected": rejected}
        self.seen.append({"": pairs, **tokens})

    def settle(self, metrics: Mapping[str, list[float]]) -> None:
        """Replace each metric's values with one weighted mean, and clear the record."""
        for name, values in metrics.items():
            if len(values) == len(self.seen):  # not the running token count, which has one value
                weights = [row.get(name, row[""]) for row in self.seen]
                values[:] = [sum(value * weight for value, weight in zip(values, weights, strict=True)) / (sum(weights) or 1)]
        self.seen.clear()
