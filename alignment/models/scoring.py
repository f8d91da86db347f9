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
from alignment.models.dialect import Dialect
from alignment.models.interface import Interface
from alignment.models.remote import Run, answered

if TYPE_CHECKING:
    from alignment.sections import Teacher

_FLAGGED = 0.5
_MODERATION_MODEL = "omni-moderation-latest"


class Scored(NamedTuple):
    """The score of each label in 0..1, or None and the reason (`unreadable`, or as in `Writer.write`)."""

    scores: Mapping[str, float] | None
    reason: str = ""


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
    flags = result["categories"]
    return _kept({name: max(score, _FLAGGED) if flags.get(name) is True else score for name, score in scores.items()})


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

    `labels` are those that count. An answer has to give the `required` ones and, of a moderation endpoint, whose labels differ by make
    and year, at least one.
    """

    def __init__(
        self,
        endpoint: Teacher,
        calls: Calls,
        kind: str,
        labels: Sequence[str],
        required: Sequence[str] = (),
        *,
        key: str,
        use: Use,
        section: str,
    ) -> None:
        self.endpoint, self.calls, self._kind, self._labels = endpoint, calls, kind, sorted(labels)
        self._required = sorted(labels if kind == "perspective" else set(required) & set(labels))
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
        run = Run(self.endpoint, self.calls, self._key, Dialect(), self._use, interface=self._interface)
        return [self._scored(each) for each in answered(self.calls, run, asked)]

    def _call(self, text: str, subject: str) -> Asked:
        body = self._form.ask(text, self.endpoint.model, self._labels)
        return Asked(content_id(self.model_id, text), body, subject, (0, 0.0))

    def _scored(self, answer: dict[str, Any] | str) -> Scored:
        if isinstance(answer, str):
            return Scored(None, answer)
        scores = {name: answer["scores"][name] for name in self._labels if name in answer["scores"]}
        if not scores or (missing := [name for name in self._required if name not in scores]):
            return Scored(None, f"unreadable: no score for {', '.join(missing if scores else self._labels)}")
        return Scored(scores)
