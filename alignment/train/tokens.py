"""Convert pairs to token ids, cut to a token limit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.models.local import turn_ids
from alignment.records import Message

REFUSES = {"harm": "chosen", "helpful": "rejected"}
"""Per side, the answer that refuses, or that admits what it cannot know."""
_SENTENCE_END = re.compile(
    r"(?<=[.!?…])(?<!\d\.)(?<!\b[A-Za-z]\.)(?<!\b(?:[DMS][rst])\.)(?<!\bMrs\.)(?<!\bProf\.)(?<!\betc\.)\s+|(?<=[。！？])(?!$)|\n+"
)
"""Not after a list number, an initial or a title: training teaches this as an end, while `wording` only reads it."""


def tokenise(pair: Mapping[str, Any], tokenizer: Any, *, max_completion_tokens: int) -> dict[str, list[int]]:
    """Return prompt_ids, chosen_ids and rejected_ids of a pair.

    An answer longer than `max_completion_tokens` is cut and gets no end-of-turn token: the model must not learn to stop in
    mid-sentence. A refusal ends after the last sentence that fits: the model would repeat an unfinished refusal again and again.
    """
    messages, refuses = pair["messages"], REFUSES.get(pair.get("side", ""))
    ids = {}
    for name in ("chosen", "rejected"):
        turn = turn_ids(tokenizer, messages, pair[name])
        ids["prompt_ids"] = list(turn.prompt)
        answer = list(turn.answer)
        if len(answer) > max_completion_tokens:
            whole = _sentences(tokenizer, messages, pair[name], max_completion_tokens) if name == refuses else []
            answer = whole or answer[:max_completion_tokens]
        ids[f"{name}_ids"] = answer
    return ids


def _sentences(tokenizer: Any, messages: Sequence[Message], answer: str, most: int) -> list[int]:
    """Return the tokens of as many whole sentences as fit, with the end of turn; empty if the first does not fit."""
    found: list[int] = []
    for end in _SENTENCE_END.finditer(answer):
        ids = turn_ids(tokenizer, messages, answer[: end.start()]).answer
        if len(ids) > most:
            break
        found = list(ids)
    return found
