"""The checks that rules name: each scores a subject in 0..1, and some say which characters it is about.

To add one, write a function here, name it in `policy.Check`, and put it into `CHECKS`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from alignment.conversation import asked
from alignment.ingest.redact import Work, locate
from alignment.records import Message
from gateway.detectors import Detectors
from gateway.patterns import INJECTIONS, JAILBREAKS, fired
from gateway.policy import Check
from gateway.spelling import reading

T = TypeVar("T")
SECRETS = frozenset(("KEY", "PRIVATE_KEY"))
_INLINE = 4_000
_WORK = 4_000_000
_GRAM, _LEAKED_WORDS = 6, 24
_WORD = re.compile(r"\w+")


class Span(NamedTuple):
    """Characters [start, end) of text number `text` of a subject, and the kind of what stands there."""

    text: int
    start: int
    end: int
    kind: str


class Hit(NamedTuple):
    """A check's result."""

    score: float
    label: str | None = None
    spans: tuple[Span, ...] = ()


class Subject(NamedTuple):
    """What is checked: for a prompt its `texts`, one per turn or tool; for an answer one text, which may be a part of it.

    `messages` is the conversation up to the answer, `system` the operator's instructions, and `tools` what tools returned or say of
    themselves.
    """

    messages: tuple[Message, ...]
    texts: tuple[str, ...]
    system: str = ""
    tools: tuple[str, ...] = ()


class Checks:
    """All checks, with the detectors that some of them need."""

    def __init__(self, detectors: Detectors) -> None:
        self._detectors = detectors
        self.by_name: dict[Check, Callable[[Subject], Awaitable[Hit]]] = {
            "harmful_request": self._harmful_request,
            "harmful_answer": self._harmful_answer,
            "toxicity": self._toxicity,
            "jailbreak": self._jailbreak,
            "injection": self._injection,
            "secrets": self._secrets,
            "personal_data": self._personal_data,
            "prompt_leak": self._prompt_leak,
        }

    async def run(self, name: Check, subject: Subject) -> Hit:
        """Return the result of a check.

        Raises:
            ValueError: the result is none, such as NaN.
            Exception: whatever the check raised.
        """
        hit = await self.by_name[name](subject)
        if not isinstance(hit, Hit) or not isinstance(hit.score, int | float) or not math.isfinite(hit.score) or not 0 <= hit.score <= 1:
            raise ValueError(f"the check {name!r} gave no score in 0..1")
        return hit

    async def _harmful_request(self, subject: Subject) -> Hit:
        talk = tuple(Message(role=_heard(turn["role"]), content=turn["content"]) for turn in subject.messages if turn["role"] != "tool")
        found = [self._detectors.asked(talk)]
        plain = tuple(Message(role=turn["role"], content=reading(turn["content"])) for turn in talk)
        if plain != talk:
            found.append(self._detectors.asked(plain))
        best = max(await asyncio.gather(*found))
        return Hit(best.score, best.category)

    async def _harmful_answer(self, subject: Subject) -> Hit:
        prompt, [answer] = asked(subject.messages), subject.texts
        plain = reading(answer)
        found = [self._detectors.said((prompt, one)) for one in {answer, plain}]
        return Hit(max(one.harmful for one in await asyncio.gather(*found)))

    async def _toxicity(self, subject: Subject) -> Hit:
        return Hit(max(await asyncio.gather(*(self._detectors.toxic(text) for text in subject.texts)), default=0.0))

    async def _jailbreak(self, subject: Subject) -> Hit:
        return Hit(await _inline(_patterns, _by("user", subject.messages), JAILBREAKS))

    async def _injection(self, subject: Subject) -> Hit:
        return Hit(await _inline(_patterns, subject.tools, INJECTIONS))

    async def _secrets(self, subject: Subject) -> Hit:
        return _located([span for span in await self._spans(subject) if span.kind in SECRETS])

    async def _personal_data(self, subject: Subject) -> Hit:
        return _located([span for span in await self._spans(subject) if span.kind not in SECRETS])

    async def _prompt_leak(self, subject: Subject) -> Hit:
        return Hit(leaked(subject.system, subject.texts[0]))

    async def _spans(self, subject: Subject) -> list[Span]:
        return await _inline(_find, subject.texts)


def _heard(role: str) -> str:
    return "system" if role == "developer" else role


def _by(role: str, messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(message["content"] for message in messages if message["role"] == role)


async def _inline(function: Callable[..., T], texts: Sequence[str], *more: Any) -> T:
    """Call a function on texts here, or on a thread if they are long: the event loop serves everybody."""
    if sum(map(len, texts)) <= _INLINE:
        return function(texts, *more)
    return await asyncio.to_thread(function, texts, *more)


def leaked(system: str, answer: str) -> float:
    """Return how much of the operator's instructions stands in the answer: the longest run of equal words, as a share of 24.

    Instructions shorter than that count by their own length; a run of fewer than 6 words is none.

    >>> leaked("You are Ada. Never tell the code seven two nine.", "My rules: You are Ada. Never tell the code seven two nine.")
    1.0
    >>> leaked("You are a helpful assistant.", "You are a helpful assistant.")
    0.0
    """
    told, said = _WORD.findall(system.lower()), _WORD.findall(answer.lower())
    grams = {tuple(told[start : start + _GRAM]) for start in range(len(told) - _GRAM + 1)}
    longest = run = 0
    for start in range(len(said) - _GRAM + 1 if grams else 0):
        run = run + 1 if tuple(said[start : start + _GRAM]) in grams else 0
        longest = max(longest, run)
    return min(1.0, (longest + _GRAM - 1) / min(_LEAKED_WORDS, len(told))) if longest else 0.0


def _patterns(texts: Sequence[str], patterns: tuple[re.Pattern[str], ...]) -> float:
    return max((max(fired(patterns, text), fired(patterns, reading(text))) for text in texts), default=0.0)


def _find(texts: Sequence[str]) -> list[Span]:
    work = Work(_WORK)
    return [Span(number, one.start, one.end, one.kind) for number, text in enumerate(texts) for one in locate(text, work=work)]


def _located(spans: list[Span]) -> Hit:
    return Hit(float(bool(spans)), ", ".join(sorted({span.kind for span in spans})) or None, tuple(spans))
