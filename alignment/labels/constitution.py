"""The written constitution: principles, and the categories they cover. `alignment.labels.check` reads it from YAML."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from alignment.ids import content_id
from alignment.records import Side

DETECTORS = ("harmful_answer", "refusal", "degenerate", "relevance")
CATEGORIES = (
    "violence", "weapons", "self_harm", "hate", "sexual", "crime", "fraud", "privacy", "malware", "misinformation",
    "lookalike", "ordinary",
)  # fmt: skip
"""Categories of prompts: the detectors' kinds of harm, and two kinds of harmless prompts."""
LOCALE = re.compile("[a-z]{2,3}(-[A-Z]{2})?")
NO_SIDE = "no principle of side {side!r} in the constitution's locale {locale!r}: both sides are needed, or the model learns one mistake"
Text = Annotated[str, Field(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _locale(value: str) -> str:
    if not LOCALE.fullmatch(value):
        raise PydanticCustomError("locale", "a locale is a language, or a language and a country, such as en or pt-BR")
    return value


Locale = Annotated[str, AfterValidator(_locale)]


def applying(locale: str) -> tuple[str, str]:
    """Return the locales of principles that apply in `locale`: the locale itself, and its language without a country."""
    return locale, locale.split("-")[0]


class Example(BaseModel):
    """A prompt and an answer that break or keep a principle."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: Text
    response: Text


class Examples(BaseModel):
    """Both kinds of examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    violates: tuple[Example, ...] = ()
    complies: tuple[Example, ...] = ()


class Principle(BaseModel):
    """One rule, with the requests for critique and revision, and the judge's weights of the detectors.

    If several principles cover a category, the one with the largest `weight` decides. `locale` is the language of its texts for users.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    text: Text
    side: Side
    categories: Annotated[tuple[str, ...], Field(min_length=1)]
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    locale: Locale = "en"
    critique_request: Text
    revision_request: Text
    refusal_strategy: Literal["decline", "redirect", "crisis_support", "comply"]
    detectors: Annotated[dict[Literal["harmful_answer", "refusal", "degenerate", "relevance"], Finite], Field(min_length=1)]
    safe_completions: tuple[Text, ...] = ()
    examples: Examples = Examples()

    @model_validator(mode="after")
    def _has_an_answer(self) -> Principle:
        if self.side is Side.HARM and not self.safe_completions:
            raise ValueError("a harm principle needs at least one of safe_completions")
        return self

    @property
    def version(self) -> str:
        """Content address: editing a principle changes only its own version."""
        return content_id(self.model_dump(mode="json"))[:12]

    def utility(self, scores: dict[str, float]) -> float:
        """Return the weighted sum of detector scores (each in 0..1); a larger sum follows the principle better."""
        return sum(weight * scores[name] for name, weight in self.detectors.items())

    def margin(self, one: dict[str, float], other: dict[str, float]) -> float:
        """Return the utility of `one` minus that of `other`, as a share of the largest possible difference: -1..1."""
        span = sum(map(abs, self.detectors.values()))
        return (self.utility(one) - self.utility(other)) / span if span else 0.0


class Constitution(BaseModel):
    """A versioned list of principles; those in its `locale` are in force.

    Among principles that cover a category the one with the largest weight decides; among equal weights, the first listed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Text
    name: Text
    locale: Locale = "en"
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _covers(self) -> Constitution:
        ids = [principle.id for principle in self.principles]
        if repeated := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"principle ids repeat: {', '.join(repeated)}")
        for side in Side:
            if not any(principle.side is side for principle in self.in_force):
                raise ValueError(NO_SIDE.format(side=side.value, locale=self.locale))
        return self

    @property
    def in_force(self) -> tuple[Principle, ...]:
        """The principles in the constitution's locale, or in its language for all countries, as listed. Others have no effect."""
        spoken = applying(self.locale)
        return tuple(principle for principle in self.principles if principle.locale in spoken)

    def main(self, side: Side, category: str) -> Principle:
        """Return the principle that decides exchanges of the category."""
        return self.covering(side, category)[0]

    def main_id(self, side: Side, category: str) -> str:
        """Return the id of the principle that decides exchanges of the category."""
        return self.main(side, category).id

    def covering(self, side: Side, category: str) -> tuple[Principle, ...]:
        """Return the side's principles that name the category, largest weight first; if none does, only the side's first principle."""
        of_side = [principle for principle in self.in_force if principle.side is side]
        found = sorted((one for one in of_side if category in one.categories), key=lambda one: -one.weight)
        return tuple(found) or (of_side[0],)

    def decides(self, principle: Principle) -> tuple[str, ...]:
        """Return the categories that this principle decides."""
        return tuple(category for category in CATEGORIES if self.main_id(Side.of(category), category) == principle.id)

    @property
    def versions(self) -> dict[str, str]:
        """The version of each principle in force, by id."""
        return {principle.id: principle.version for principle in self.in_force}

    def named(self, principle_id: str) -> Principle:
        """Return the principle with this id (KeyError if there is none)."""
        return {principle.id: principle for principle in self.principles}[principle_id]

    @property
    def refusals(self) -> tuple[str, ...]:
        """Return every safe completion. As answers to harmless requests they are the rejected ones.

        Both sides intentionally use the same texts: then only the request tells which is right, and a model cannot learn to
        tell the sides apart by wording.
        """
        return tuple(text for principle in self.in_force for text in principle.safe_completions)

    @property
    def fingerprint(self) -> str:
        """Content address of all principles in force."""
        return content_id([principle.version for principle in self.in_force])
