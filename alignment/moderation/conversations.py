"""Score how likely a whole conversation asks for harm, from its last turn and what that turn continues.

Turns are scored alone, joined to the opening of their topic and to the previous turn, and all together; the maximum counts. A turn that
only continues ("and in grams?") is not scored alone, because alone it means nothing. Harm before a change of topic does not condemn what
follows, but leaves it in doubt: the conversation is neither flagged nor taught as harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.conversation import RULES_ID, Turn, content, instructed, joined, pieces, read_turns, seeks_help, topic, user_turns
from alignment.ids import content_id
from alignment.models.embedder import Embedder
from alignment.moderation.corpora import CATEGORIES
from alignment.moderation.heads import category_input, harmful_answer, harmful_request, logits, read, read_requests, refusal
from alignment.records import Message

Matrix = npt.NDArray[np.float32]
IN_DOUBT = 0.2
"""Minimum score of a conversation with harm before its last topic: not flagged (0.5), and not taught as harmless (0.1)."""
DOUBTFUL, CERTAIN = 0.3, 0.7
SERVED, REFUSED = 0.6, 1.0
"""Weights (in log-odds) of an earlier harmful answer and of an earlier refusal, as evidence of a harmful request."""
SURELY, PLAIN = 0.8, 0.9
"""Minimum probabilities of an earlier refusal, and of a harmful request in a later part of a long turn, to count."""
MOST_PIECES = 64
_OWN_WORDS = 2
_ANSWERS = 4
VERSION = content_id(RULES_ID, IN_DOUBT, DOUBTFUL, CERTAIN, SERVED, REFUSED, SURELY, PLAIN, MOST_PIECES, _OWN_WORDS, _ANSWERS)[:12]


class Request(NamedTuple):
    """A conversation's score in 0..1 and the category of the text that determined it."""

    value: float
    category: str


class _Texts(NamedTuple):
    """The texts of a conversation to score: texts that count, texts that only raise doubt, and earlier exchanges of the topic.

    Also the last turn if it looks for help or a way out (`turned`), and the later parts of long turns (`hidden`).
    """

    counted: list[str]
    doubtful: list[str]
    exchanges: list[tuple[str, str]]
    turned: str = ""
    hidden: tuple[str, ...] = ()


def is_single(messages: Sequence[Message]) -> bool:
    """Say whether a conversation is one user turn of ordinary length, so that its text is all there is to score."""
    turns = [message for message in messages if message["role"] == "user"]
    return len(turns) == 1 and not pieces(turns[0]["content"]) and not instructed(messages)


def request_scores(conversations: Sequence[Sequence[Message]], *, embedder: Embedder) -> list[Request]:
    """Return one score per conversation. Each distinct text is embedded once; at most 32 turns of a long conversation are read."""
    plans = [_texts(messages) for messages in conversations]
    distinct = sorted({text for plan in plans for text in (*plan.counted, *plan.doubtful, *(asked for asked, _ in plan.exchanges))})
    if not distinct:
        return [Request(0.0, CATEGORIES[0])] * len(plans)
    reading = read_requests(distinct, embedder=embedder)
    value = dict(zip(distinct, harmful_request(reading).tolist(), strict=True))
    best = logits("category", category_input(reading)).argmax(axis=1).tolist()
    category = {text: CATEGORIES[index] for text, index in zip(distinct, best, strict=True)}
    answered = _answered(sorted({pair for plan in plans for pair in plan.exchanges}), embedder)
    return [_combined(plan, value, category, answered) for plan in plans]


def _answered(exchanges: Sequence[tuple[str, str]], embedder: Embedder) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the probabilities that each earlier answer declines and does harm."""
    if not exchanges:
        return {}
    reading = read([asked for asked, _ in exchanges], [said for _, said in exchanges], embedder=embedder)
    return dict(zip(exchanges, zip(refusal(reading).tolist(), harmful_answer(reading).tolist(), strict=True), strict=True))


def _texts(messages: Sequence[Message]) -> _Texts:
    turns = read_turns(user_turns(messages))
    if not turns:
        return _Texts([], [], [])
    last = topic(turns)
    counted = [last[0].text]
    for before, turn in zip(last, last[1:], strict=False):
        counted += [joined([before.text, turn.text]), joined([last[0].text, turn.text])]
        counted += [turn.text] * (len(content(turn.text)) >= _OWN_WORDS)
    if len(last) > 2:
        counted.append(joined([turn.text for turn in last]))
    system = instructed(messages)
    if system:
        counted.append(joined([system, last[-1].text]))
    earlier = turns[: len(turns) - len(last)]
    doubtful = [turn.text for turn in earlier]
    if earlier:
        doubtful.append(joined([turn.text for turn in turns]))
    turned = last[-1].text if len(last) > 1 and seeks_help(last[-1].text) else ""
    hidden = tuple(piece for turn in turns for piece in pieces(turn.text))[:MOST_PIECES]
    doubtful += [*hidden, *filter(None, (system, turned))]
    return _Texts(counted, doubtful, _exchanges(last), turned, hidden)


def _exchanges(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    answered = [(turn.text, turn.answer) for turn in turns[:-1] if turn.answer.strip()]
    return answered if len(answered) <= _ANSWERS else [answered[0], *answered[1 - _ANSWERS :]]


def _combined(
    plan: _Texts, value: dict[str, float], category: dict[str, str], answered: dict[tuple[str, str], tuple[float, float]]
) -> Request:
    if not plan.counted:
        return Request(0.0, CATEGORIES[0])
    told = max(plan.counted, key=value.__getitem__)
    score = value[told]
    for pair in plan.exchanges:
        declined, harmful = answered[pair]
        # That the model refused what looked harmful is evidence. So is an answer that did harm, whatever was asked.
        if declined >= SURELY and value[pair[0]] >= DOUBTFUL:
            score = max(score, _shifted(value[pair[0]], REFUSED))
        if harmful >= 0.5:
            score = max(score, 1 - (1 - score) * (1 - SERVED * harmful))
    # A long text has many sentences that look harmful out of context, so only clear ones count.
    score = max([score, *(value[piece] for piece in plan.hidden if value[piece] >= PLAIN)])
    doubt = max(map(value.__getitem__, plan.doubtful), default=0.0)
    if plan.turned and value[plan.turned] < CERTAIN:
        score = min(score, max(value[plan.turned], IN_DOUBT))
    if doubt >= DOUBTFUL:
        score = max(score, IN_DOUBT)
    return Request(round(score, 6), category[told])


def _shifted(probability: float, log_odds: float) -> float:
    odds = np.exp(log_odds) * probability / max(1 - probability, 1e-6)
    return float(odds / (1 + odds))
