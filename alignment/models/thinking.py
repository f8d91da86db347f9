"""Chat templates of models that think before they answer, and limits on their thinking.

A template may open the thinking block itself (DeepSeek-R1), write an empty block before an answer without thinking (Qwen3), or leave it
to the model. Training teaches the answer alone, after a closed block: a release does not learn whether, or what, to think.

Source: the chat templates of Qwen3, Qwen3-Thinking-2507, DeepSeek-R1-Distill, DeepSeek-V3.1, GLM-4.5 and Nemotron-Nano-v2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import StoppingCriteria

from alignment.reasoning import apart

OPEN, CLOSE = "<think>", "</think>"
_OPENED = re.compile(r"<think>\s*\Z")
_CLOSED = re.compile(r"\s*(?:<think>\s*)?</think>\s*")
_TAIL = 16
"""Search the end of a block among this many last tokens; with bytes as tokens, it takes eight."""


class Cut(NamedTuple):
    """A rendered conversation up to the answer, and the turn with the answer."""

    prompt: str
    turn: str


def can_think(template: str) -> bool:
    """Return whether a chat template knows thinking blocks."""
    return OPEN in template or CLOSE in template or "enable_thinking" in template


def opens(rendered: str) -> bool:
    """Return whether a prompt ends inside a thinking block that the model continues."""
    return bool(_OPENED.search(rendered))


def closed(rendered: str) -> str:
    """Return a prompt that the answer follows at once, with any open thinking block closed.

    >>> closed("Assistant:<think>\\n")
    'Assistant:<think>\\n\\n</think>\\n\\n'
    """
    found = _OPENED.search(rendered)
    return f"{rendered[: found.start()]}{OPEN}\n\n{CLOSE}\n\n" if found else rendered


def cut(before: str, whole: str) -> Cut | None:
    """Split an answered conversation into prompt and turn; None if it does not begin with the prompt.

    `before` is the prompt as the template ends it for an answer. An empty thinking block belongs to the prompt. A block that only the
    prompt has, or that is still open before the answer, is closed there.
    """
    if whole.startswith(before):
        found = _behind(before, whole[len(before) :])
        return found._replace(prompt=closed(found.prompt))
    opened = _OPENED.search(before)
    if opened and whole.startswith(start := before[: opened.start()]):
        found = _behind(start, whole[len(start) :])
        return found if found.prompt != start else Cut(closed(before), found.turn)
    return None


def _behind(before: str, rest: str) -> Cut:
    block = _CLOSED.match(rest)
    return Cut(before + block[0], rest[block.end() :]) if block else Cut(before, rest)


def finished(text: str) -> str:
    """Return a model's answer without its thinking; thinking without an answer keeps its tags, so that it is not read as an answer.

    >>> finished("<think>\\nHm.\\n</think>\\n\\nYes."), finished("<think>Hm")
    ('Yes.', '<think>Hm')
    """
    said = apart(text)
    return said.answer.strip() if said.answer.strip() or not said.thinking else text.strip()


class AnswerBudget(StoppingCriteria):  # type: ignore[misc,unused-ignore]
    """Ends a row once its answer has `most` tokens; thinking before it does not count, and only the generation's limit ends it."""

    def __init__(self, tokenizer: Any, start: int, rows: int, *, most: int, opened: Sequence[bool]) -> None:
        self._tokenizer, self._start, self._most = tokenizer, start, most
        # Start of each row's answer; None while the row thinks or may begin to.
        self._answer: list[int | None] = [None] * rows
        self._thinks, self._closed = list(opened), [False] * rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return whether each row is done."""
        length = input_ids.shape[1]
        for row, begins in enumerate(self._answer):
            if begins is None:
                self._look(row, input_ids[row, self._start :].tolist(), length)
        done = [begins is not None and length - begins >= self._most for begins in self._answer]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

    def _look(self, row: int, ids: list[int], length: int) -> None:
        if not self._thinks[row]:
            said = self._tokenizer.decode(ids).lstrip()
            self._thinks[row] = said.startswith(OPEN)
            if not self._thinks[row] and not OPEN.startswith(said):
                self._answer[row] = self._start
            return
        if self._closed[row]:
            after = self._tokenizer.decode(ids[-1:])
        else:
            _, end, after = self._tokenizer.decode(ids[-_TAIL:]).rpartition(CLOSE)
            self._closed[row] = bool(end)
        # Blank lines between a block and its answer belong to neither.
        if self._closed[row] and after.strip():
            self._answer[row] = length - 1
