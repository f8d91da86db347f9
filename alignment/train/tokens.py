"""Pairs to token ids, cut by tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignment.models.local import render
from alignment.records import Message


def tokenise(pair: Mapping[str, Any], tokenizer: Any, *, max_completion_tokens: int) -> dict[str, list[int]]:
    """Return prompt_ids, chosen_ids and rejected_ids of a pair.

    An answer longer than `max_completion_tokens` is cut and then has no end-of-turn token: the model must not learn to stop in
    mid-sentence.
    """
    messages: Sequence[Message] = pair["messages"]
    prompt = _ids(tokenizer, messages, add_generation_prompt=True)

    def answer(text: str) -> list[int]:
        whole = _ids(tokenizer, [*messages, {"role": "assistant", "content": text}], add_generation_prompt=False)
        shared = next((at for at, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
        return whole[shared:][:max_completion_tokens]

    return {"prompt_ids": prompt, "chosen_ids": answer(pair["chosen"]), "rejected_ids": answer(pair["rejected"])}


def _ids(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
    text = render(tokenizer, messages, add_generation_prompt=add_generation_prompt)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
