"""A batch of pairs in parts that fit the memory, and what each part counts for, so that the gradient stays the whole batch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error is a lack of memory, of a GPU or of the machine."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text or "can't allocate memory" in text


def split(inputs: Mapping[str, Any], *, most_tokens: int = 0, most_pairs: int = 0) -> list[dict[str, Any]]:
    """Split TRL's (2B, T) batch into parts of at most so many tokens and pairs (0: no limit); a part has one pair at least.

    Tokens are counted as shared rows have them: a prompt once, and both answers.
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


def shares(inputs: Mapping[str, Any]) -> dict[str, float]:
    """Return what a part weighs: pairs for losses that are means over pairs, tokens of chosen answers for the supervised term.

    TRL multiplies that term by the mean weight of the pairs at hand; it is taken out here.
    """
    pairs = len(inputs["input_ids"]) // 2
    mean = float(inputs["weight"].mean()) if "weight" in inputs else 1.0
    return {"pairs": pairs, "sft": float(inputs["completion_mask"][:pairs].sum()) / mean}
