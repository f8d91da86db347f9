"""Guards: guard models and classifiers that people run themselves, as detectors beside the bundled ones.

A guard either scores an exchange or abstains. Whatever keeps it from an answer (a timeout, an error, an answer in another form, a guard
that declines) is an abstention with its kind, and never a low score.

Effects: calls endpoints or loads weights; reads a policy file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from alignment.config import Settings
from alignment.conversation import asked
from alignment.errors import ConfigError
from alignment.ids import content_id
from alignment.models.asked import Use
from alignment.models.chat import Classified
from alignment.models.classifier import Classifier
from alignment.models.interface import Interface
from alignment.models.quoting import marks_secret
from alignment.models.remote import RemoteModel
from alignment.models.scoring import LabelNames, ScoringModel
from alignment.moderation.detectors import Score
from alignment.moderation.guard_families import (
    ANSWER,
    GUIDELINES,
    POLICY,
    REQUEST,
    Assessment,
    Family,
    GuardQuestion,
    Passage,
    alternating,
    family,
)
from alignment.moderation.hazards import Meaning, meanings
from alignment.reasoning import apart
from alignment.records import Interaction, Message
from alignment.sections import Teacher
from alignment.sections_guards import REMOTE, GuardSettings
from alignment.store import TeacherCalls

PREFIX = "guard:"
"""Of the names under which detections and calls of guards are stored."""
SCORED, UNAVAILABLE, REFUSED, UNREADABLE, TOO_LONG, EMPTY, NOT_ASKED, UNTRIED = (
    "scored", "unavailable", "refused", "unreadable", "too_long", "empty", "not_asked", "untried",
)  # fmt: skip
_EVEN = 0.5
_VERSION = 1
"""Raise this when the same answer would be read as another score."""


class GuardAnswer(NamedTuple):
    """A guard's result for one exchange: a score, or None and the kind of its abstention as `outcome`.

    `label` is the label in the guard's own words, `hazard` its code among MLCommons' hazards; `score.label` is its category.
    `request` is the score of the request, where that by itself is flagged: a flag on the answer alone says nothing about the request.
    Of NOT_ASKED (the night's limit is reached) and UNTRIED (the guard went away before) no call was made: the exchange waits.
    """

    score: Score | None
    outcome: str = SCORED
    label: str = ""
    hazard: str = ""
    request: Score | None = None


class _Reader(Protocol):
    """What answers for a guard: one assessment, or the kind of abstention, per passage."""

    @property
    def version(self) -> str: ...
    def read(self, passages: Sequence[Passage]) -> list[Assessment | str]: ...


@dataclass(frozen=True)
class GuardDetector:
    """A `Detector` that may abstain. It is given whole exchanges, because its calls are stored under their ids."""

    name: str
    settings: GuardSettings
    meanings: Mapping[str, Meaning]
    reader: _Reader

    @property
    def version(self) -> str:
        """Content address of what determines its scores and flags: what it is, what it is asked, what its labels mean, its threshold."""
        one = self.settings
        shown = sorted((label, *meaning) for label, meaning in self.meanings.items())
        how = [sorted(one.reads), one.max_chars, one.threshold]
        return content_id("guard", _VERSION, one.kind, self.reader.version, shown, *how)[:12]

    @property
    def threshold(self) -> float:
        """The score from which it flags."""
        return self.settings.threshold

    @property
    def is_remote(self) -> bool:
        """Whether texts leave this process."""
        return self.settings.kind in REMOTE

    def judge(self, exchanges: Sequence[Interaction]) -> list[GuardAnswer]:
        """Return one answer per exchange, in order.

        The worse of request and answer counts. If one of them gave no score, the exchange has one only where the other is flagged.

        Raises:
            ModelError: the guard does not work at all: it refuses every call, or its files cannot be loaded.
        """
        split = [_passages(one, self.settings) for one in exchanges]
        results = iter(self.reader.read([passage for one in split if not isinstance(one, str) for passage in one]))
        return [
            GuardAnswer(None, one) if isinstance(one, str) else self._conclude({passage.side: next(results) for passage in one})
            for one in split
        ]

    def _conclude(self, results: Mapping[str, Assessment | str]) -> GuardAnswer:
        """Return one answer for the assessments of each side."""
        found = {side: self._meant(one) for side, one in results.items() if isinstance(one, Assessment)}
        best = max(found.values(), key=lambda one: one.score.value if one.score else 0.0, default=None)
        if best and self._flags(best.score):
            request = found[REQUEST].score if REQUEST in found else None
            return best._replace(request=request if self._flags(request) else None)
        missing = sorted((one for one in results.values() if isinstance(one, str)), key=_KINDS.index)
        return GuardAnswer(None, missing[0]) if missing or best is None else best

    def _flags(self, score: Score | None) -> bool:
        return score is not None and score.value >= self.threshold

    def _meant(self, assessment: Assessment) -> GuardAnswer:
        """Return an assessment under its first label that has a category; only ignored labels make it 0."""
        known = [(label, self.meanings[label]) for label in assessment.labels if label in self.meanings]
        counted = [(label, meaning) for label, meaning in known if not meaning.ignored]
        if assessment.labels and len(known) == len(assessment.labels) and not counted:
            return GuardAnswer(Score(0.0))
        label, meaning = next((one for one in counted if one[1].category), counted[0] if counted else ("", Meaning()))
        return GuardAnswer(Score(assessment.value, meaning.category or None), SCORED, label, meaning.hazard)


_KINDS = (NOT_ASKED, UNTRIED, UNAVAILABLE, REFUSED, UNREADABLE, TOO_LONG, EMPTY)
"""If the passages of an exchange failed in several ways, the first of these counts: what may succeed later comes first."""


def _passages(exchange: Interaction, settings: GuardSettings) -> list[Passage] | str:
    """Return what is to be read of an exchange, or the kind of abstention: what is too long is not read in part."""
    turns, answer = alternating(exchange.messages), apart(exchange.response).answer
    if not turns:
        return EMPTY
    found = [Passage(exchange.id, REQUEST, turns, asked(exchange.messages))] if REQUEST in settings.reads else []
    if ANSWER in settings.reads and answer.strip():
        said: Message = {"role": "assistant", "content": answer}
        found.append(Passage(exchange.id, ANSWER, (*turns, said), answer))
    if any(sum(len(turn["content"]) for turn in passage.turns) > settings.max_chars for passage in found):
        return TOO_LONG
    return found or EMPTY


def _kind(reason: str) -> str:
    """Return the kind of abstention for a reason why an endpoint gave no answer."""
    first = reason.split(":")[0]
    return {"limit": NOT_ASKED, "untried": UNTRIED, "refused": REFUSED, "unreadable": UNREADABLE}.get(first, UNAVAILABLE)


@dataclass(frozen=True)
class _Route:
    """How a guard's endpoint is reached: endpoint, stored calls, key, purpose of the calls, table of the settings, and mask."""

    endpoint: Teacher
    calls: TeacherCalls
    key: str
    use: Use
    where: str
    mask: Callable[[str], str] | None


class _ChatReader:
    """A guard model behind a chat endpoint; it is asked each question of its family."""

    def __init__(self, settings: GuardSettings, asks: Family, route: _Route) -> None:
        self._settings, self._family, self._route = settings, asks, route
        self._models: dict[str, RemoteModel] = {}

    @property
    def version(self) -> str:
        probe = Passage("", REQUEST, ({"role": "user", "content": "?"},), "?")
        # What is quoted differs by state folder; the policy above it counts.
        shown = [
            [one.template, [turn for turn in one.messages(probe) if turn["role"] == "system"], one.label]
            for side in (REQUEST, ANSWER)
            for one in self._family.questions(side)
        ]
        one = self._settings
        return content_id(one.base_url, one.model, one.preset, shown, self._family.options, self._family.max_tokens, one.extra)

    def read(self, passages: Sequence[Passage]) -> list[Assessment | str]:
        found: list[list[Assessment | str]] = [[] for _ in passages]
        for side in (REQUEST, ANSWER):
            places = [place for place, passage in enumerate(passages) if passage.side == side]
            for question in self._family.questions(side) if places else ():
                said = self._model(question).classify(
                    [question.messages(passages[place]) for place in places],
                    self._family.options,
                    max_new_tokens=self._family.max_tokens,
                    subjects=[passages[place].subject for place in places],
                )
                for place, one in zip(places, said, strict=True):
                    found[place].append(self._assessment(one, question))
        return [_worst(one) for one in found]

    def _model(self, question: GuardQuestion) -> RemoteModel:
        key = content_id(question.template)
        if key not in self._models:
            theirs = self._settings.extra.get("chat_template_kwargs", {})
            template = {**question.template, **theirs} if isinstance(theirs, dict) else question.template
            extra = {**self._settings.extra, **({"chat_template_kwargs": template} if template else {})}
            route = self._route
            endpoint, interface = route.endpoint.model_copy(update={"extra": extra}), Interface(route.where, False)
            self._models[key] = RemoteModel(endpoint, route.calls, key=route.key, mask=route.mask, use=route.use, interface=interface)
        return self._models[key]

    def _assessment(self, said: Classified, question: GuardQuestion) -> Assessment | str:
        if said.reason:
            return _kind(said.reason)
        found = self._family.read(said.text)
        if found is None:
            return UNREADABLE
        # Several tokens may begin the same word, of which the odds count only those that are all of it: what the guard says comes first.
        agree = said.odds is not None and (said.odds[0] >= _EVEN) == (found.value >= _EVEN)
        value = said.odds[0] if said.odds and agree else found.value
        return Assessment(value, (question.label,) if question.label else found.labels)


def _worst(results: Sequence[Assessment | str]) -> Assessment | str:
    """Return the highest assessment of several questions about one passage; a question without an answer leaves it unread."""
    assessments = [one for one in results if isinstance(one, Assessment)]
    missing = sorted((one for one in results if isinstance(one, str)), key=_KINDS.index)
    return missing[0] if missing else max(assessments, key=lambda one: one.value)


class _ScoringReader:
    """A classifier behind an endpoint."""

    def __init__(self, model: ScoringModel) -> None:
        self._model = model

    @property
    def version(self) -> str:
        return self._model.model_id

    def read(self, passages: Sequence[Passage]) -> list[Assessment | str]:
        found = self._model.scores([passage.text for passage in passages], subjects=[passage.subject for passage in passages])
        return [_kind(one.reason) if one.scores is None else _highest(one.scores) for one in found]


class _LocalReader:
    """A classifier on this machine; labels that are `counted` and not `required` may be missing from it."""

    def __init__(self, classifier: Classifier, counted: Sequence[str], required: Sequence[str]) -> None:
        self._classifier, self._counted, self._required = classifier, counted, required

    @property
    def version(self) -> str:
        return self._classifier.version

    def read(self, passages: Sequence[Passage]) -> list[Assessment | str]:
        if not passages:
            return []
        names = self._classifier.labels
        counted = [label for label in self._counted if label in names]
        # A label that the model lacks would silently never flag.
        if unknown := [label for label in self._required if label not in names] or ([] if counted else list(self._counted)):
            raise ConfigError(
                f"the classifier {str(self._classifier.path)!r} has no label {unknown[0]!r}; its labels are {', '.join(names)[:300]}. "
                "Correct labels of the guard"
            )
        rows = [dict(zip(names, row, strict=True)) for row in self._classifier.scores([passage.text for passage in passages])]
        return [self._assessment({label: row[label] for label in counted}) for row in rows]

    def _assessment(self, scores: Mapping[str, float]) -> Assessment:
        highest = _highest(scores)
        # LabelNames that exclude one another share one probability of harm.
        return highest._replace(value=min(sum(scores.values()), 1.0)) if self._classifier.exclusive else highest


def _highest(scores: Mapping[str, float]) -> Assessment:
    """Return the highest score; its label comes first, then those of at least half of it, one of which may have a category."""
    order = sorted(scores, key=lambda label: -scores[label])
    value = scores[order[0]]
    return Assessment(value, tuple(label for label in order if scores[label] >= value / 2))


def guard(name: str, settings: Settings, *, key: str | None = None, mask: Callable[[str], str] | None = None) -> GuardDetector:
    """Return the guard `[moderation.guards.NAME]`; without a `key`, that of its environment variable.

    `mask` removes personal data from a guard model's words before they are stored.

    Raises:
        ConfigError: the key is not set, the policy cannot be read, or labels mean nothing.
    """
    one, where = settings.moderation.guards[name], f"[moderation.guards.{name}]"
    meant = meanings(one.preset or one.kind, one.labels, f"{where} labels")
    counted = [label for label, meaning in meant.items() if not meaning.ignored]
    if not counted:
        raise ConfigError(f"{where} labels ignores every label, so that the guard could never flag; give one a meaning")
    if one.kind in REMOTE:
        return GuardDetector(name, one, meant, _remote(name, one, settings.home, meant, _key(one, where) if key is None else key, mask))
    classifier = Classifier(Path(one.path), Path(one.tokenizer) if one.kind == "detoxify" else None)
    return GuardDetector(name, one, meant, _LocalReader(classifier, counted, list(one.labels)))


def _remote(
    name: str, one: GuardSettings, home: Path, meant: Mapping[str, Meaning], key: str, mask: Callable[[str], str] | None
) -> _Reader:
    where, payer = f"[moderation.guards.{name}]", PREFIX + name
    endpoint = Teacher(
        base_url=one.base_url, model=one.model or one.kind, concurrency=one.concurrency, requests_per_minute=one.requests_per_minute,
        max_tokens_per_night=0, timeout_seconds=one.timeout_seconds, retries=one.retries,
    )  # fmt: skip
    calls, use = TeacherCalls(home, payer=payer), Use(payer, one.calls_per_night, f"{where} calls_per_night")
    if one.kind != "openai":
        endpoint = endpoint.model_copy(update={"extra": one.extra, "model": one.model})
        counted = [label for label, meaning in meant.items() if not meaning.ignored]
        ignored = [label for label, meaning in meant.items() if meaning.ignored]
        labels = LabelNames(counted, list(one.labels), ignored, one.threshold)
        return _ScoringReader(ScoringModel(endpoint, calls, one.kind, labels, key=key, use=use, section=where))
    asks = family(one.preset, secret=marks_secret(home), policy=_policy(one.policy, where), guidelines=_guidelines(one, where))
    return _ChatReader(one, asks, _Route(endpoint, calls, key, use, where, mask))


def _key(one: GuardSettings, where: str) -> str:
    found = os.environ.get(one.api_key_env, "") if one.api_key_env else ""
    if one.api_key_env and not found:
        raise ConfigError(f"{where} api_key_env names {one.api_key_env!r}, which is not set; export it, or leave api_key_env empty")
    return found


def _policy(path: str, where: str) -> str:
    file = Path(path).expanduser() if path else POLICY
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} policy {str(file)!r} cannot be read ({type(error).__name__}); name a text file in UTF-8") from error


def _guidelines(one: GuardSettings, where: str) -> Mapping[str, str]:
    if unknown := sorted(one.guidelines.keys() - GUIDELINES.keys()):
        raise ConfigError(f"{where} guidelines names {unknown[0]!r}; give {', '.join(GUIDELINES)}")
    return one.guidelines


def guards(settings: Settings) -> Iterator[GuardDetector]:
    """Yield every configured guard, by name.

    Raises:
        ConfigError: see `guard`.
    """
    for name in sorted(settings.moderation.guards):
        yield guard(name, settings)
