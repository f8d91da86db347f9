"""The frozen records that stages exchange. Texts in them are redacted but still hostile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

STAGES = ("ingest", "curate", "train", "gate", "monitor")
"""What a night does, in this order. A stage's flow, command, headline and stored rows carry the same word."""


class Message(TypedDict):
    """One chat message as every chat API writes it."""

    role: str
    content: str


def in_turn(texts: Sequence[str]) -> list[Message]:
    """Return texts as what user and assistant say in turn, the user first."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


class Side(StrEnum):
    """Which mistake a pair teaches against: answering what harms, or refusing what does not."""

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
    """What one detector said of one interaction. `score` is in 0..1; `flagged` is `score >= threshold`."""

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
    teacher_revision, teacher_unfit. `detail` keeps what led to it as texts (critiques and revisions round by round, the principle, what
    was checked).
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
    """One preference, ready to train on, with where it came from."""

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

    `topic` is what it is about, where the suite says so beside its category. `scorer` is empty for the suite's own; `right` and `wrong`
    are the phrases, letters or values that checking scorers look for. `before` is what was said before `prompt`, in turn by user and
    assistant, the user first.
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
        """What a model is asked: the turns before, and the prompt."""
        return in_turn((*self.before, self.prompt))

    @property
    def transcript(self) -> str:
        """The conversation as a person reads it."""
        if not self.before:
            return self.prompt
        return "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in self.conversation)

    @property
    def said(self) -> tuple[str, ...]:
        """What the user says, a text a turn."""
        return (*self.before[::2], self.prompt)

    @property
    def asked(self) -> str:
        """All that the user says, a turn after the other."""
        return "\n".join(self.said)


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to a suite prompt. `outcome` 1 is the suite's failure, 0 is none, None is unscored.

    `flaw` says why it is no evidence: it is stale, or was changed after it was stored.
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

    Values are rates in 0..1, or with `unit` "nats" means of 0 and more: how unlikely a token of a good answer is.

    `corrected_*` are what people's verdicts on the scorer make of the observed rates, None without enough of them. `design_effect` is
    how many times clusters widen the variance; `detectable` is what this many prompts can show with 80% power. `since` is 'base' or
    'approved' where the base model, or the last release that a person approved, stands in the champion's place.
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

    `weakened` are the settings below the gate's floor that it was made with, in plain words; `unsafe` is the reason given for them.
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
    """What a training run left behind; `adapter` is the folder of the adapter, or of the whole model that [train] method = "full" made.

    `fallback` is why stock TRL trained it, `measured_on` which pairs its reward figures are of.
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
