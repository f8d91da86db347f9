"""The frozen records that stages exchange. Their texts are redacted but still hostile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

STAGES = ("ingest", "curate", "train", "gate", "monitor")
"""What a night does, in this order. A stage's flow, command, headline and stored rows use the same word."""


class Message(TypedDict):
    """One chat message as every chat API writes it."""

    role: str
    content: str


def in_turn(texts: Sequence[str]) -> list[Message]:
    """Return texts as alternating messages of user and assistant, the user first."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


class Side(StrEnum):
    """Which mistake a pair teaches against: a harmful answer, or the refusal of a harmless request."""

    HARM = "harm"
    HELPFUL = "helpful"

    @classmethod
    def of(cls, category: str) -> Side:
        """Return the side of a request of this category."""
        return cls.HELPFUL if category in ("lookalike", "ordinary") else cls.HARM


@dataclass(frozen=True, slots=True)
class Interaction:
    """One logged exchange: the conversation up to the user's turn, and the model's answer."""

    id: str
    conversation_id: str
    user_id: str
    created_at: datetime
    model: str
    messages: tuple[Message, ...]
    response: str

    @property
    def prompt(self) -> str:
        """The user's last message."""
        return self.messages[-1]["content"]


class Detection(NamedTuple):
    """One detector's result for one interaction. `score` is in 0..1; `flagged` is `score >= threshold`."""

    interaction_id: str
    detector: str
    version: str
    score: float
    flagged: bool
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Selected:
    """An interaction chosen for labelling, with the principle that will judge it. `declined`: its logged answer refuses."""

    interaction: Interaction
    side: Side
    category: str
    principle_id: str
    declined: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """One possible answer to a selected prompt.

    `kind` is one of logged, critique_revision, safe_completion, refusal_contrast, sampled, contrast_safe, contrast_unsafe, written,
    teacher_revision, teacher_unfit. `detail` keeps how it came about as texts (critiques and revisions round by round, the principle,
    the checks).
    """

    id: str
    interaction_id: str
    kind: str
    text: str
    model: str
    principle_id: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One labeler's preference between the best and the worst candidate of a prompt.

    `verdict` is `preferred`, `tie` or `unscored`; `judge_margin` is the utility of chosen minus that of rejected (>= 0).
    """

    id: str
    interaction_id: str
    labeler: str
    labeler_version: str
    principle_ids: tuple[str, ...]
    chosen_id: str
    rejected_id: str
    verdict: Literal["preferred", "tie", "unscored"]
    judge_margin: float
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference, ready to train on, with its provenance."""

    id: str
    interaction_id: str
    user_id: str
    created_at: datetime
    side: Side
    category: str
    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_kind: str
    rejected_kind: str
    labelers: tuple[str, ...]
    principle_ids: tuple[str, ...]
    judge_margin: float
    cluster_id: str
    split: Literal["train", "eval"]

    @property
    def prompt(self) -> str:
        """The user's last message."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class SuitePrompt:
    """One held-out prompt of an evaluation suite. Prompts of one `cluster` ask for the same thing.

    `topic` is what it is about, where the suite gives it beside its category. An empty `scorer` means the suite's own; `right` and `wrong`
    are the phrases, letters or values that checking scorers look for. `before` are the turns before `prompt`, alternating, the user first.
    """

    id: str
    suite: str
    prompt: str
    cluster: str
    category: str
    scorer: str = ""
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    topic: str = ""
    before: tuple[str, ...] = ()

    @property
    def conversation(self) -> list[Message]:
        """The messages sent to a model: the turns before, and the prompt."""
        return in_turn((*self.before, self.prompt))

    @property
    def transcript(self) -> str:
        """The conversation as a person reads it."""
        if not self.before:
            return self.prompt
        return "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in self.conversation)

    @property
    def said(self) -> tuple[str, ...]:
        """The user's messages, one text per turn."""
        return (*self.before[::2], self.prompt)

    @property
    def asked(self) -> str:
        """All the user's messages in order, joined by line breaks."""
        return "\n".join(self.said)


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to a suite prompt. `outcome` 1 is the suite's failure, 0 is none, None is unscored.

    `flaw` says why it is not evidence: it is stale, or was changed after it was stored.
    """

    prompt: SuitePrompt
    model_id: str
    response: str
    scores: Mapping[str, float]
    outcome: int | None
    flaw: str | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """Champion against challenger on one suite, paired by prompt. `diff` is challenger minus champion.

    Values are rates in 0..1, or with `unit` "nats" means of at least 0: how unlikely a token of a good answer is.

    `corrected_*` are the observed rates corrected by people's verdicts on the scorer, None without enough verdicts. `design_effect` is
    the factor by which clusters widen the variance; `detectable` is the difference this many prompts can show with 80% power. `since` is
    'base' or 'approved' where the base model, or the last release that a person approved, takes the champion's place.
    """

    name: str
    suite: str
    champion: float
    challenger: float
    diff: float
    low: float
    high: float
    n: int
    unscored: int
    worse: int
    better: int
    p_value: float
    rule: str
    margin: float
    status: Literal["pass", "fail", "insufficient"]
    reason: str
    detectable: float
    clusters: int = 0
    design_effect: float = 1.0
    critical: bool = True
    corrected_champion: float | None = None
    corrected_challenger: float | None = None
    corrected_diff: float | None = None
    corrected_low: float | None = None
    corrected_high: float | None = None
    calibration: str = ""
    unit: Literal["rate", "nats"] = "rate"
    since: str = ""


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The gate's frozen plan. Only `promote` releases.

    `weakened` lists in plain words the settings below the gate's floor; `unsafe` is the reason given for them.
    """

    id: str
    champion: str
    challenger: str
    decision: Literal["promote", "block", "insufficient evidence"]
    reasons: tuple[str, ...]
    metrics: tuple[Metric, ...]
    weakened: tuple[str, ...] = ()
    unsafe: str = ""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run produced; `adapter` is the folder of the adapter, or of the whole model with [train] method = "full".

    `fallback` is why stock TRL trained it; `measured_on` names the pairs behind its reward figures;
    `strength` is the share of an adapter's change that was kept.
    """

    run_id: str
    adapter: Path
    pairs: int
    steps: int
    seconds: float
    loss: float
    reward_margin: float
    reward_accuracy: float
    held_out: int = 0
    reference_computed: int = 0
    kl: float | None = None
    stopped_early: bool = False
    kept_step: int | None = None
    fallback: str | None = None
    measured_on: str | None = None
    strength: float | None = None
