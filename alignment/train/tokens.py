"""Pairs to token ids, cut by tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.models.local import turn_ids
from alignment.records import Message

REFUSES = {"harm": "chosen", "helpful": "rejected"}
"""By side, the answer of a pair that refuses, or owns up to what it cannot know."""
_SENTENCE_END = re.compile(
    r"(?<=[.!?…])(?<!\d\.)(?<!\b[A-Za-z]\.)(?<!\b(?:[DMS][rst])\.)(?<!\bMrs\.)(?<!\bProf\.)(?<!\betc\.)\s+|(?<=[。！？])(?!$)|\n+"
)
"""Not after the number of a list, an initial or a title: what ends here is taught as an end, and not only read as in `wording`."""


def tokenise(pair: Mapping[str, Any], tokenizer: Any, *, max_completion_tokens: int) -> dict[str, list[int]]:
    """Return prompt_ids, chosen_ids and rejected_ids of a pair.

    An answer longer than `max_completion_tokens` is cut and then has no end-of-turn token: the model must not learn to stop in
    mid-sentence. A refusal is cut after the last sentence that fits and ends there: one that is only begun is said again and again.
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
    """Return the tokens of as many whole sentences as fit, with the end of the turn; none if the first does not fit."""
    found: list[int] = []
    for end in _SENTENCE_END.finditer(answer):
        ids = turn_ids(tokenizer, messages, answer[: end.start()]).answer
        if len(ids) > most:
            break
        found = list(ids)
    return found
