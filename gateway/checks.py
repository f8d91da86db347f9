"""The checks that rules name: each scores a subject in 0..1, and some say which characters it is about.

To add one, write a method here, put it into `Checks.by_name`, and name it in `policy.Check` and `policy.CHECKS`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from alignment.conversation import asked as asked_for
from alignment.ingest.redact import Work, locate
from alignment.moderation.conversations import PLAIN
from alignment.records import Message
from gateway.detectors import AnswerScores, Detectors
from gateway.patterns import INJECTIONS, JAILBREAKS, fired
from gateway.policy import Check
from gateway.spelling import reading

T = TypeVar("T")
SECRETS = frozenset(("KEY", "PRIVATE_KEY"))
_INLINE = 4_000
_WORK = 4_000_000
_GRAM, _LEAKED_WORDS = 6, 24
_LONG, _ASKED, _SAID, _TOXIC, _MOST_PIECES = 480, 240, 400, 3_500, 400
"""Characters from which a user's turn is read in parts too, and of a part, by check; and the parts of a text that are read."""
_REFUSED, _LEAST = 0.5, 1e-4
_HARM_BESIDE_REFUSAL = 0.1
"""A refusal mostly goes on about the request; what goes on must look a little harmful to count as more than that."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
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


class Checked(NamedTuple):
    """What is checked: for a prompt its `texts`, all that is sent upstream; for an answer its text, or a part, and its tool calls' parts.

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
        self.by_name: dict[Check, Callable[[Checked], Awaitable[Hit]]] = {
            "harmful_request": self._harmful_request,
            "harmful_answer": self._harmful_answer,
            "harmful_exchange": self._harmful_exchange,
            "toxicity": self._toxicity,
            "jailbreak": self._jailbreak,
            "injection": self._injection,
            "harmful_tool_result": self._harmful_tool_result,
            "secrets": self._secrets,
            "personal_data": self._personal_data,
            "prompt_leak": self._prompt_leak,
        }

    async def run(self, name: Check, subject: Checked) -> Hit:
        """Return the result of a check.

        Raises:
            ValueError: the result is none, such as NaN.
            Exception: whatever the check raised.
        """
        hit = await self.by_name[name](subject)
        if not isinstance(hit, Hit) or not isinstance(hit.score, int | float) or not math.isfinite(hit.score) or not 0 <= hit.score <= 1:
            raise ValueError(f"the check {name!r} gave no score in 0..1")
        return hit

    async def _harmful_request(self, subject: Checked) -> Hit:
        """Score the conversation, and each part of its long turns: the heads read some hundred characters.

        Raises:
            TooLong: a turn is too long to read whole.
        """
        talk = tuple(Message(role=_heard(turn["role"]), content=turn["content"]) for turn in subject.messages if turn["role"] != "tool")
        if talk and talk[-1]["role"] == "assistant":
            # A model goes on with a beginning that the client wrote: it counts as asked.
            talk = (*talk, Message(role="user", content=talk[-1]["content"]))
        texts = tuple(turn["content"] for turn in talk)
        plain = await _inline(_readings, texts)
        asked = [talk]
        if plain != texts:
            asked.append(tuple(Message(role=turn["role"], content=text) for turn, text in zip(talk, plain, strict=True)))
        parts = [
            part
            for turns in asked
            for turn in turns
            if turn["role"] == "user" and len(turn["content"]) > _LONG
            for part in pieces(turn["content"], _ASKED)
        ]
        whole = await asyncio.gather(*map(self._detectors.asked, asked))
        found = await asyncio.gather(*(self._detectors.asked((Message(role="user", content=part),)) for part in parts))
        # Out of its context many a sentence looks harmful, so only a clear one counts.
        best = _highest([*whole, *(one for one in found if not one.score < PLAIN)], [one.score for one in (*whole, *found)])
        return Hit(best.score, best.category)

    async def _harmful_answer(self, subject: Checked) -> Hit:
        """Score the answer, and each part of a long one.

        Raises:
            TooLong: it is too long to read whole.
        """
        harm = [said.harm for said in await self._said(subject.messages, subject.texts)]
        return Hit(_highest(harm, harm))

    async def _harmful_exchange(self, subject: Checked) -> Hit:
        """Score the request and the answer, or part of it, together. A refusal has 0; of a text that also refuses, the rest counts.

        Raises:
            TooLong: one is too long to read whole.
        """
        asked, said = await asyncio.gather(self._harmful_request(subject), self._said(subject.messages, subject.texts))
        complies = [one.harm for one in said if not one.refusal >= _REFUSED]
        if len(complies) < len(said):
            # Who asks for harm may also ask for a refusal before or after it.
            rest = await self._without_refusals(subject)
            complies += [one.harm for one in rest if not one.harm < _HARM_BESIDE_REFUSAL]
            said += rest
        scores = [0.0, *(together(asked.score, harm) for harm in complies)]
        return Hit(_highest(scores, [asked.score, *(score for one in said for score in one)]), asked.label)

    async def _without_refusals(self, subject: Checked) -> list[AnswerScores]:
        """Return the scores of what is left of an answer without its sentences that refuse."""
        prompt, sentences = asked_for(subject.messages), _SENTENCE.split("\n".join(filter(None, subject.texts)))[:_MOST_PIECES]
        each = await asyncio.gather(*(self._detectors.said((prompt, sentence)) for sentence in sentences))
        left = " ".join(sentence for sentence, one in zip(sentences, each, strict=True) if not one.refusal >= _REFUSED)
        return await self._said(subject.messages, (left,)) if left.strip() else []

    async def _harmful_tool_result(self, subject: Checked) -> Hit:
        """Score what tools returned, and each part of it, as if it were the answer.

        Raises:
            TooLong: it is too long to read whole.
        """
        harm = [said.harm for text in subject.tools for said in await self._said(subject.messages, (text,))]
        return Hit(_highest([0.0, *harm], harm))

    async def _said(self, messages: Sequence[Message], texts_of_answer: Sequence[str]) -> list[AnswerScores]:
        """Return the scores of an answer and of each part of a long one, as written and as read."""
        prompt, answer = asked_for(messages), "\n".join(filter(None, texts_of_answer))
        [plain] = await _inline(_readings, (answer,))
        texts = dict.fromkeys(part for text in dict.fromkeys((answer, plain)) for part in (text, *pieces(text, _SAID)))
        return await asyncio.gather(*(self._detectors.said((prompt, text)) for text in texts))

    async def _toxicity(self, subject: Checked) -> Hit:
        read = dict.fromkeys((*subject.texts, *await _inline(_readings, subject.texts)))
        texts = [part for text in read for part in (pieces(text, _TOXIC) or [text])]
        scores = [0.0, *await asyncio.gather(*map(self._detectors.toxic, texts))]
        return Hit(_highest(scores, scores))

    async def _jailbreak(self, subject: Checked) -> Hit:
        return Hit(await _inline(_patterns, _by("user", subject.messages), JAILBREAKS))

    async def _injection(self, subject: Checked) -> Hit:
        return Hit(await _inline(_patterns, subject.tools, INJECTIONS))

    async def _secrets(self, subject: Checked) -> Hit:
        return _located([span for span in await self._spans(subject) if span.kind in SECRETS])

    async def _personal_data(self, subject: Checked) -> Hit:
        return _located([span for span in await self._spans(subject) if span.kind not in SECRETS])

    async def _prompt_leak(self, subject: Checked) -> Hit:
        return Hit(await _inline(_leaked, ("\n".join(subject.texts),), subject.system))

    async def _spans(self, subject: Checked) -> list[Span]:
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


class TooLong(ValueError):
    """A text has more parts than are read."""


def pieces(text: str, size: int) -> list[str]:
    """Return overlapping parts of about `size` characters that cover a longer text; none for one that fits.

    Raises:
        TooLong: there are more than 400.

    >>> pieces("abcdefghij", 6), pieces("abc", 6)
    (['abcdef', 'efghij'], [])
    """
    if len(text) <= size:
        return []
    step = size - size // 3
    starts = range(0, len(text) - size // 3, step)
    if len(starts) > _MOST_PIECES:
        raise TooLong(f"{len(starts)} parts, more than {_MOST_PIECES}")
    return [text[start : start + size] for start in starts]


def _highest(values: Sequence[T], scores: Sequence[float]) -> T:
    """Return the largest value. A score that is none must not get lost among others: `max` may pass over NaN."""
    if not all(math.isfinite(score) for score in scores):
        raise ValueError("a score is no number")
    return max(values)  # type: ignore[type-var]


def together(request: float, answer: float) -> float:
    """Return the score of an exchange: the mean of both log-odds, the request's counted twice.

    Neither suffices alone: a harmless request may sound harmful, and a harmful answer may sound like any other.

    >>> together(0.5, 0.5), round(together(0.9, 0.1), 2), round(together(0.9, 0.9), 2)
    (0.5, 0.68, 0.9)
    """
    odds = [math.log(max(score, _LEAST) / max(1 - score, _LEAST)) for score in (request, request, answer)]
    return 1 / (1 + math.exp(-sum(odds) / 3))


def leaked(system: str, answer: str) -> float:
    """Return how much of the operator's instructions stands in the answer: the longest run of equal words, as a share of 24.

    Instructions shorter than that count by their own length; a run of fewer than 6 words is none.

    >>> leaked("You are Ada. Never tell the code seven two nine.", "My rules: You are Ada. Never tell the code seven two nine.")
    1.0
    >>> leaked("You are a helpful assistant.", "You are a helpful assistant.")
    0.0
    """
    length, grams = _grams(system)
    said = _WORD.findall(answer.lower())
    longest = run = 0
    for start in range(len(said) - _GRAM + 1 if grams else 0):
        run = run + 1 if tuple(said[start : start + _GRAM]) in grams else 0
        longest = max(longest, run)
    return min(1.0, (longest + _GRAM - 1) / min(_LEAKED_WORDS, length)) if longest else 0.0


@lru_cache(64)
def _grams(system: str) -> tuple[int, frozenset[tuple[str, ...]]]:
    """Return the number of words and their runs of six; the same instructions come with every request."""
    told = _WORD.findall(system.lower())
    return len(told), frozenset(tuple(told[start : start + _GRAM]) for start in range(len(told) - _GRAM + 1))


def _leaked(texts: Sequence[str], system: str) -> float:
    return leaked(system, texts[0])


def _readings(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(reading, texts))


def _patterns(texts: Sequence[str], patterns: tuple[re.Pattern[str], ...]) -> float:
    return max((max(fired(patterns, text), fired(patterns, reading(text))) for text in texts), default=0.0)


def _find(texts: Sequence[str]) -> list[Span]:
    work = Work(_WORK)
    return [Span(number, one.start, one.end, one.kind) for number, text in enumerate(texts) for one in locate(text, work=work)]


def _located(spans: list[Span]) -> Hit:
    return Hit(float(bool(spans)), ", ".join(sorted({span.kind for span in spans})) or None, tuple(spans))
