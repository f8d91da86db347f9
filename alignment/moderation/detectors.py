"""The detectors, and the two functions that run them: `moderate` for logged exchanges, `score_answers` for candidates.

Effects: the first call loads the heads and, for toxicity, scikit-learn's shipped classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np

from alignment.conversation import asked, read_turns, topic, user_turns
from alignment.ids import content_id
from alignment.models.embedder import Embedder
from alignment.moderation import conversations, heads
from alignment.moderation.corpora import CATEGORIES
from alignment.moderation.heads import Reading, category_input, heads_version, logits, read
from alignment.reasoning import apart
from alignment.records import Detection, Interaction, Message
from alignment.text import PLACEHOLDER, holds_placeholder
from alignment.wording import degenerate

_TOXICITY_CHARS = 4000
_READS = "answers without their thinking"
_BLOCK = 2048


class Score(NamedTuple):
    """A detector's result for one exchange: `value` in 0..1, and a label if the detector has several."""

    value: float
    label: str | None = None


class Exchanges(NamedTuple):
    """Prompts and answers of equal length, with features computed once for all detectors.

    A prompt is what the last turn asks for, including what it continues. `talks` are the conversations; `requests` maps rows that are not
    one plain turn to the scores of their conversations. Both are empty when only texts are scored.
    """

    prompts: Sequence[str]
    answers: Sequence[str]
    reading: Reading
    talks: Sequence[Sequence[Message]] = ()
    requests: Mapping[int, conversations.Request] = {}


class Detector(Protocol):
    """Anything that scores every exchange it is given. What may abstain is a `GuardDetector` (`alignment.moderation.guards`)."""

    @property
    def name(self) -> str:
        """The name for configuring its threshold and storing its detections."""
        ...

    @property
    def version(self) -> str:
        """Content address of its weights and rules."""
        ...

    @property
    def threshold(self) -> float:
        """The score from which it flags, unless configured otherwise."""
        ...

    def score(self, exchanges: Exchanges) -> list[Score]:
        """Return one score per exchange, in order."""
        ...


@dataclass(frozen=True, slots=True)
class _Rule:
    """A detector made of two functions."""

    name: str
    threshold: float
    scorer: Callable[[Exchanges], list[Score]]
    identify: Callable[[], str]

    @property
    def version(self) -> str:
        """Content address of weights and rules."""
        return self.identify()

    def score(self, exchanges: Exchanges) -> list[Score]:
        """Return one score per exchange."""
        return self.scorer(exchanges)


def _harmful_request(exchanges: Exchanges) -> list[Score]:
    best = logits("category", category_input(exchanges.reading)).argmax(axis=1)
    values = heads.harmful_request(exchanges.reading).tolist()
    found = [Score(value, CATEGORIES[index]) for value, index in zip(values, best.tolist(), strict=True)]
    for row, request in exchanges.requests.items():
        found[row] = Score(request.value, request.category)
    return found


def _harmful_answer(exchanges: Exchanges) -> list[Score]:
    return _answered(exchanges, heads.harmful_answer(exchanges.reading).tolist())


def _refusal(exchanges: Exchanges) -> list[Score]:
    return _answered(exchanges, heads.refusal(exchanges.reading).tolist())


def _answered(exchanges: Exchanges, values: list[float]) -> list[Score]:
    return [Score(value if answer.strip() else 0.0) for value, answer in zip(values, exchanges.answers, strict=True)]


def _toxicity(exchanges: Exchanges) -> list[Score]:
    said = [[text[:_TOXICITY_CHARS] for text in row] for row in _said(exchanges)]
    texts = sorted({text for row in said for text in row})
    known = dict(zip(texts, toxicity(texts), strict=True))
    return [Score(max(known[text] for text in row)) for row in said]


def toxicity(texts: Sequence[str]) -> list[float]:
    """Return how toxic each text is, in 0..1, by its first 4,000 characters; 0 for a blank text."""
    said = [text[:_TOXICITY_CHARS] for text in texts]
    spoken = [text for text in said if text.strip()]
    if not spoken:
        return [0.0] * len(texts)
    from profanity_check import predict_prob

    values = iter(np.clip(predict_prob(spoken), 0.0, 1.0).tolist())
    return [next(values) if text.strip() else 0.0 for text in said]


def _said(exchanges: Exchanges) -> list[list[str]]:
    """Return per exchange the user's turns on the last topic and the model's last answer."""
    rows = [[prompt, answer] for prompt, answer in zip(exchanges.prompts, exchanges.answers, strict=True)]
    for row, talk in enumerate(exchanges.talks):
        if row in exchanges.requests:
            rows[row] += [turn.text for turn in topic(read_turns(user_turns(talk)))]
    return rows


def _pii(exchanges: Exchanges) -> list[Score]:
    rows = [[prompt, answer] for prompt, answer in zip(exchanges.prompts, exchanges.answers, strict=True)]
    for row, talk in enumerate(exchanges.talks):
        rows[row] += [message["content"] for message in talk]
    return [Score(float(any(map(holds_placeholder, texts)))) for texts in rows]


@cache
def _toxicity_version() -> str:
    from importlib.metadata import version

    return content_id("alt-profanity-check", version("alt-profanity-check"), _TOXICITY_CHARS, conversations.VERSION, _READS)[:12]


def _conversation_version() -> str:
    return content_id(heads_version(), conversations.VERSION, _READS)[:12]


def _pii_version() -> str:
    return content_id(PLACEHOLDER.pattern, "all messages")[:12]


DETECTORS: tuple[Detector, ...] = (
    _Rule("harmful_request", 0.5, _harmful_request, _conversation_version),
    _Rule("harmful_answer", 0.5, _harmful_answer, _conversation_version),
    _Rule("refusal", 0.5, _refusal, _conversation_version),
    _Rule("toxicity", 0.8, _toxicity, _toxicity_version),
    _Rule("pii", 0.5, _pii, _pii_version),
)


def versions(*, embedder: Embedder) -> dict[str, str]:
    """Return each detector's version; for detectors on embeddings it includes the embedder's version."""
    return {detector.name: _full_version(detector, embedder) for detector in DETECTORS}


def _full_version(detector: Detector, embedder: Embedder) -> str:
    on_vectors = detector.name in {"harmful_request", "harmful_answer", "refusal"}
    return f"{detector.version}-{embedder.version}" if on_vectors else detector.version


def moderate(
    exchanges: Sequence[Interaction],
    *,
    embedder: Embedder,
    thresholds: Mapping[str, float],
    detectors: Sequence[Detector] = DETECTORS,
) -> list[Detection]:
    """Return one detection per exchange and detector, ordered by exchange, then by detector.

    `thresholds` overrides detectors' own thresholds by name. Equal texts in a block of 2,048 exchanges are embedded once.
    No exchanges: no detections.
    """
    named = [(each, _full_version(each, embedder)) for each in detectors]
    found: list[Detection] = []
    for start in range(0, len(exchanges), _BLOCK):
        found += _moderate_block(exchanges[start : start + _BLOCK], embedder, thresholds, named)
    return found


def _moderate_block(
    items: Sequence[Interaction],
    embedder: Embedder,
    thresholds: Mapping[str, float],
    named: Sequence[tuple[Detector, str]],
) -> list[Detection]:
    talks, answers = [item.messages for item in items], [apart(item.response).answer for item in items]
    prompts = [asked(talk) for talk in talks]
    rows = [row for row, talk in enumerate(talks) if not conversations.is_single(talk)]
    requests = conversations.request_scores([talks[row] for row in rows], embedder=embedder)
    reading = read(prompts, answers, embedder=embedder)
    batch = Exchanges(prompts, answers, reading, talks, dict(zip(rows, requests, strict=True)))
    scored = [(each, version, each.score(batch)) for each, version in named]
    return [
        Detection(
            item.id, each.name, version, round(scores[row].value, 6),
            scores[row].value >= thresholds.get(each.name, each.threshold), scores[row].label,
        )
        for row, item in enumerate(items)
        for each, version, scores in scored
    ]  # fmt: skip


def score_answers(prompts: Sequence[str], answers: Sequence[str], *, embedder: Embedder) -> list[dict[str, float]]:
    """Return harmful_answer, refusal, degenerate and relevance of each (prompt, answer), all in 0..1.

    `relevance` is the cosine of the two embeddings, at least 0. An empty answer has degenerate 1 and otherwise 0. A model's thinking
    is not part of its answer.
    """
    if not answers:
        return []
    answers = [apart(answer).answer for answer in answers]
    batch = Exchanges(prompts, answers, read(prompts, answers, embedder=embedder))
    cosine = np.clip((batch.reading.prompt * batch.reading.whole).sum(axis=1), 0.0, 1.0).tolist()
    return [
        {
            "harmful_answer": harmful.value,
            "refusal": refusal.value,
            "degenerate": degenerate(answer),
            "relevance": relevance if answer.strip() and prompt.strip() else 0.0,
        }
        for harmful, refusal, answer, prompt, relevance in zip(
            _harmful_answer(batch), _refusal(batch), answers, prompts, cosine, strict=True
        )
    ]


def score_texts(prompts: Sequence[str | None], responses: Sequence[str | None], *, embedder: Embedder) -> list[dict[str, float | None]]:
    """Return harmful_request, refusal, harmful_answer and toxicity of each (prompt, response), each in 0..1.

    Either text may be None or blank; scores that need it are then None. Toxicity is the maximum over both texts. A model's thinking is
    not part of its response.
    """
    asked, said = [text or "" for text in prompts], [apart(text or "").answer for text in responses]
    batch = Exchanges(asked, said, read(asked, said, embedder=embedder))
    columns = {
        "harmful_request": (_harmful_request(batch), True, False),
        "refusal": (_refusal(batch), False, True),
        "harmful_answer": (_harmful_answer(batch), True, True),
        "toxicity": (_toxicity(batch), False, False),
    }
    return [
        {
            name: round(scores[row].value, 6) if (prompt or not needs_prompt) and (answer or not needs_answer) else None
            for name, (scores, needs_prompt, needs_answer) in columns.items()
        }
        for row, (prompt, answer) in enumerate((p.strip(), a.strip()) for p, a in zip(asked, said, strict=True))
    ]
