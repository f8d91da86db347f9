"""Classifiers behind HTTP that give each text a score per label: `/v1/moderations`, and Perspective's `comments:analyze`.

They share with `RemoteModel` the client, the limits, the retries and the store of answers.

Effects: calls the endpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alignment.ids import content_id
from alignment.models.asked import Asked, Calls, Use
from alignment.models.call_batch import CallBatch, answered
from alignment.models.dialect import Dialect
from alignment.models.interface import Interface

if TYPE_CHECKING:
    from alignment.sections import Teacher

_FLAGGED = 0.5
_MODERATION_MODEL = "omni-moderation-latest"


class Scored(NamedTuple):
    """The score of each label in 0..1, or None and the reason (`unreadable`, or as in `Writer.write`)."""

    scores: Mapping[str, float] | None
    reason: str = ""


class LabelNames(NamedTuple):
    """The labels that count, those of which an answer has to give a score, those that never count, and the score that flags."""

    counted: Sequence[str]
    required: Sequence[str]
    ignored: Sequence[str]
    threshold: float


class _Form(NamedTuple):
    path: str
    key_header: str
    ask: Callable[[str, str, Sequence[str]], dict[str, Any]]
    read: Callable[[Any], dict[str, Any]]


def _ask_moderations(text: str, model: str, _: Sequence[str]) -> dict[str, Any]:
    return {"model": model or _MODERATION_MODEL, "input": text}


def _read_moderations(raw: Any) -> dict[str, Any]:
    """Read an answer of /v1/moderations. What the server itself flags has at least 0.5: its own thresholds lie lower.

    Raises:
        ValueError, KeyError, TypeError, IndexError, AttributeError: it is none.
    """
    [result] = raw["results"]
    scores = {name: _rate(value) for name, value in result["category_scores"].items()}
    flagged = [name for name, flag in result["categories"].items() if flag is True]
    return _kept({**scores, **{name: max(scores.get(name, 0.0), _FLAGGED) for name in flagged}})


def _ask_perspective(text: str, _: str, labels: Sequence[str]) -> dict[str, Any]:
    return {"comment": {"text": text, "type": "PLAIN_TEXT"}, "requestedAttributes": {name: {} for name in labels}, "doNotStore": True}


def _read_perspective(raw: Any) -> dict[str, Any]:
    return _kept({name: _rate(one["summaryScore"]["value"]) for name, one in raw["attributeScores"].items()})


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError("a score lies outside of 0..1")
    return float(value)


def _kept(scores: Mapping[str, float]) -> dict[str, Any]:
    if not scores:
        raise ValueError("there are no scores")
    # These interfaces report no tokens, and none are paid for.
    return {"content": "", "scores": dict(list(scores.items())[:64]), "top": [], "usage": [0, 0]}


_FORMS = {
    "openai_moderation": _Form("/moderations", "", _ask_moderations, _read_moderations),
    "perspective": _Form("/comments:analyze", "X-Goog-Api-Key", _ask_perspective, _read_perspective),
}


class ScoringModel:
    """A classifier behind an endpoint. `kind` is 'openai_moderation' or 'perspective'.

    A moderation endpoint's labels differ by make and year: an answer has to give a counted one besides the required. What it scores under a
    label that is neither counted nor ignored counts, too: the server may flag nothing else. A flag needs no other label.
    """

    def __init__(
        self,
        endpoint: Teacher,
        calls: Calls,
        kind: str,
        labels: LabelNames,
        *,
        key: str,
        use: Use,
        section: str,
    ) -> None:
        self.endpoint, self.calls, self._kind, self._labels = endpoint, calls, kind, sorted(labels.counted)
        self._required = sorted(labels.counted if kind == "perspective" else set(labels.required) & set(labels.counted))
        self._ignored, self._threshold = frozenset(labels.ignored), labels.threshold
        self._form, self._key, self._use = _FORMS[kind], key, use
        self._interface = Interface(section, False, self._form.path, self._form.key_header, self._form.read)

    @property
    def model_id(self) -> str:
        """Content address of the endpoint, the model's name there and what is asked for; what is behind them cannot be checked."""
        return content_id("scoring", self._kind, self.endpoint.base_url, self.endpoint.model, self._labels, self.endpoint.extra)

    def scores(self, texts: Sequence[str], *, subjects: Sequence[str]) -> list[Scored]:
        """Return the scores of each text; `subjects` as in `Chooser.choose`. An answer without a needed label is `unreadable`.

        Raises:
            ModelError: the endpoint refuses every call.
        """
        asked = [self._call(text, subject) for text, subject in zip(texts, subjects, strict=True)]

        def batch() -> CallBatch:
            return CallBatch(self.endpoint, self.calls, self._key, Dialect(), self._use, interface=self._interface)

        return [self._scored(each) for each in answered(self.calls, batch, asked)]

    def _call(self, text: str, subject: str) -> Asked:
        body = self._form.ask(text, self.endpoint.model, self._labels)
        return Asked(content_id(self.model_id, text), body, subject, (0, 0.0))

    def _scored(self, answer: dict[str, Any] | str) -> Scored:
        if isinstance(answer, str):
            return Scored(None, answer)
        scores = {name: score for name, score in sorted(answer["scores"].items()) if name not in self._ignored}
        if max(scores.values(), default=0.0) >= self._threshold:
            return Scored(scores)
        missing = [name for name in self._required if name not in scores]
        if missing or not scores.keys() & set(self._labels):
            return Scored(None, f"unreadable: no score for {', '.join(missing or self._labels)}")
        return Scored(scores)
