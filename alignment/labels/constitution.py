"""The written constitution: principles, and which of them covers what. `alignment.labels.check` reads it from YAML."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alignment.ids import content_id
from alignment.records import Side

DETECTORS = ("harmful_answer", "refusal", "degenerate", "relevance")
CATEGORIES = (
    "violence", "weapons", "self_harm", "hate", "sexual", "crime", "fraud", "privacy", "malware", "misinformation",
    "lookalike", "ordinary",
)  # fmt: skip
"""What a prompt may be about: the detectors' kinds of harm, and the two kinds of harmless prompts."""
Text = Annotated[str, Field(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


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
    """One rule, how the model is asked to criticise and revise by it, and how the judge weighs the detectors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    text: Text
    side: Side
    categories: Annotated[tuple[str, ...], Field(min_length=1)]
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    locale: str = "en"
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
        """Content address: editing a principle changes only its own."""
        return content_id(self.model_dump(mode="json"))[:12]

    def utility(self, scores: dict[str, float]) -> float:
        """Return the weighted sum of detector scores (each in 0..1): larger keeps to the principle better."""
        return self.weight * sum(weight * scores[name] for name, weight in self.detectors.items())


class Constitution(BaseModel):
    """A versioned list of principles; the first one listed for a category is its main one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Text
    name: Text
    locale: str = "en"
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _covers(self) -> Constitution:
        ids = [principle.id for principle in self.principles]
        if repeated := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"principle ids repeat: {', '.join(repeated)}")
        for side in Side:
            if not any(principle.side is side for principle in self.principles):
                raise ValueError(f"no principle of side {side.value!r}: both sides are needed, or the model learns one mistake")
        return self

    def main(self, side: Side, category: str) -> Principle:
        """Return the first principle of the side that names the category, else the side's first."""
        of_side = [principle for principle in self.principles if principle.side is side]
        return next((principle for principle in of_side if category in principle.categories), of_side[0])

    def covering(self, side: Side, category: str) -> tuple[Principle, ...]:
        """Return all principles of the side that name the category, in their order, or only the main one if none does."""
        found = tuple(one for one in self.principles if one.side is side and category in one.categories)
        return found or (self.main(side, category),)

    @property
    def versions(self) -> dict[str, str]:
        """Each principle's version by its id."""
        return {principle.id: principle.version for principle in self.principles}

    def named(self, principle_id: str) -> Principle:
        """Return the principle with this id (KeyError if there is none)."""
        return {principle.id: principle for principle in self.principles}[principle_id]

    @property
    def refusals(self) -> tuple[str, ...]:
        """Return every safe completion. To harmless requests these are the answers to reject.

        Both sides teach with the same texts on purpose: only the request then tells which is right, and a model cannot learn to
        tell the sides apart by their wording.
        """
        return tuple(text for principle in self.principles for text in principle.safe_completions)

    @property
    def fingerprint(self) -> str:
        """Content address of all principles."""
        return content_id([principle.version for principle in self.principles])
