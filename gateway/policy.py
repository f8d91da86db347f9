"""The policy: which checks run on prompts and answers, and what happens where they fire.

A policy with any mistake is refused as a whole, with every problem listed.
"""

from __future__ import annotations

from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alignment.errors import ConfigError
from alignment.ids import content_id
from alignment.labels.constitution import CATEGORIES
from alignment.section import Rate

Stage = Literal["prompt", "answer"]
Check = Literal[
    "harmful_request", "jailbreak", "injection", "harmful_tool_result", "secrets", "personal_data", "harmful_answer", "harmful_exchange",
    "toxicity", "prompt_leak"
]  # fmt: skip
CHECKS: dict[Stage, tuple[Check, ...]] = {
    "prompt": ("harmful_request", "jailbreak", "injection", "harmful_tool_result", "secrets", "personal_data", "toxicity"),
    "answer": ("harmful_answer", "harmful_exchange", "secrets", "personal_data", "toxicity", "prompt_leak"),
}
"""The checks that a rule of each stage may name."""
LOCATING: frozenset[Check] = frozenset(("secrets", "personal_data"))
"""The checks that know which characters they are about; only these can be redacted."""
CATEGORICAL: frozenset[Check] = frozenset(("harmful_request", "harmful_exchange"))
"""The checks that name a kind of harm."""


class Action(StrEnum):
    """What is done about a text, from the mildest to the strictest."""

    ALLOW = "allow"
    REDACT = "redact"
    INSTRUCT = "instruct"
    REWRITE = "rewrite"
    HOLD = "hold"
    REFUSE = "refuse"


_ACTIONS: dict[Stage, frozenset[Action]] = {
    "prompt": frozenset((Action.REDACT, Action.INSTRUCT, Action.HOLD, Action.REFUSE)),
    "answer": frozenset((Action.REDACT, Action.REWRITE, Action.HOLD, Action.REFUSE)),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PolicyRule(_Part):
    """One check at one stage and its action. `categories` limits a check of CATEGORICAL to kinds of harm; empty means all.

    `timeout` is in seconds. A check that errs or takes longer counts as fired, unless `fail_open`.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    stage: Stage
    check: Check
    action: Action
    threshold: Rate = 0.5
    categories: tuple[str, ...] = ()
    mode: Literal["enforce", "monitor", "off"] = "enforce"
    fail_open: bool = False
    timeout: Annotated[float, Field(gt=0, le=60)] = 5.0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.check not in CHECKS[self.stage]:
            raise ValueError(f"{self.check!r} does not check a {self.stage}; known there: {', '.join(CHECKS[self.stage])}")
        if self.action not in _ACTIONS[self.stage]:
            raise ValueError(f"{self.action.value!r} is no action on a {self.stage}; use {', '.join(sorted(_ACTIONS[self.stage]))}")
        if self.action is Action.REDACT and self.check not in LOCATING:
            raise ValueError(f"{self.check!r} does not say which characters to redact; only {', '.join(sorted(LOCATING))} do")
        if self.categories and self.check not in CATEGORICAL:
            raise ValueError(f"{self.check!r} has no categories; leave them out")
        if unknown := sorted(set(self.categories) - set(CATEGORIES)):
            raise ValueError(f"unknown categories: {', '.join(unknown)}; known: {', '.join(CATEGORIES)}")
        return self


class Stream(_Part):
    """How an answer leaves while it is generated; sizes are in characters.

    With `buffer` "window", text leaves once it is checked together with the `overlap` characters after it; with "whole", once all of it
    is. An answer longer than `max_characters` is cut off.
    """

    buffer: Literal["window", "whole"] = "window"
    size: Annotated[int, Field(ge=40, le=10_000)] = 240
    overlap: Annotated[int, Field(ge=40, le=2_000)] = 80
    max_characters: Annotated[int, Field(ge=1_000, le=4_000_000)] = 200_000

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.overlap > self.size:
            raise ValueError(f"overlap {self.overlap} is larger than size {self.size}; each character would be checked again and again")
        return self


class Policy(_Part):
    """All rules, and how refusals and streams are sent."""

    version: Literal[1]
    rules: tuple[PolicyRule, ...]
    refuse_with: Literal["answer", "error"] = "answer"
    prompt_checks: Literal["before", "beside"] = "before"
    stream: Stream = Stream()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        ids = [rule.id for rule in self.rules]
        if repeated := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"rule ids repeat: {', '.join(repeated)}")
        return self

    @property
    def digest(self) -> str:
        """Content address of the policy, 12 hex digits; logs carry it."""
        return content_id(self.model_dump(mode="json"))[:12]

    def at(self, stage: Stage) -> tuple[PolicyRule, ...]:
        """Return the rules of a stage that are not off."""
        return tuple(rule for rule in self.rules if rule.stage == stage and rule.mode != "off")


def load_policy(path: Path | None) -> Policy:
    """Read a policy file, or the bundled policy if `path` is None.

    Raises:
        ConfigError: the file cannot be read or is wrong; lists every problem.
    """
    name = "the bundled policy" if path is None else repr(str(path))
    try:
        text = (path or files("gateway") / "policy.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the gateway's policy {name}: {error}; correct [gateway] policy, or leave it empty") from error
    try:
        found = yaml.load(text, Loader=_NoRepeats)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"the gateway's policy {name} is not YAML: {error}") from error
    try:
        return Policy.model_validate(found)
    except ValidationError as error:
        problems = "".join(f"\n  - {_place(one['loc'], found)}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors())
        raise ConfigError(f"the gateway's policy {name} is refused:{problems}\ncorrect it and try 'align gateway check'") from error


class _NoRepeats(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML would silently keep the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [str(key.value) for key, _ in node.value]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"the key {repeated[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _place(location: tuple[int | str, ...], found: Any) -> str:
    """Return where a problem is, with a rule's id instead of its number."""
    if len(location) >= 2 and location[0] == "rules" and isinstance(location[1], int):
        rule = found["rules"][location[1]]
        name = rule.get("id", location[1]) if isinstance(rule, dict) else location[1]
        return ".".join(map(str, ("rules", name, *location[2:])))
    return ".".join(map(str, location)) or "(file)"
