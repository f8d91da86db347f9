"""Pairs to token ids, cut by tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.models.local import turn_ids


def tokenise(pair: Mapping[str, Any], tokenizer: Any, *, max_completion_tokens: int) -> dict[str, list[int]]:
    """Return prompt_ids, chosen_ids and rejected_ids of a pair.

    An answer longer than `max_completion_tokens` is cut and then has no end-of-turn token: the model must not learn to stop in
    mid-sentence.
    """
    chosen, rejected = (turn_ids(tokenizer, pair["messages"], pair[name]) for name in ("chosen", "rejected"))
    return {
        "prompt_ids": list(chosen.prompt),
        "chosen_ids": list(chosen.answer[:max_completion_tokens]),
        "rejected_ids": list(rejected.answer[:max_completion_tokens]),
    }
