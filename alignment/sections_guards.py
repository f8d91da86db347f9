"""The section of `align.toml` for guard models and classifiers, `[moderation.guards.NAME]`."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from alignment.section import EndpointUrl, KeyVariable, Rate, Section, more_only

PRESETS = ("qwen3guard", "llama_guard", "granite_guardian", "shieldgemma", "gpt_oss_safeguard")
REMOTE = ("openai", "openai_moderation", "perspective")
"""Kinds that send texts to an endpoint; the others load a file on this machine."""
_ASKED = {"model", "messages", "input", "comment", "n", "stream", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens"}


class GuardSettings(Section):
    """One guard, `[moderation.guards.NAME]`. A key stands in the environment, never here."""

    # A value in the wrong place may be the key: an error must not repeat it.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)
    kind: Literal["openai", "openai_moderation", "detoxify", "perspective", "transformers"] = Field(description="what the guard is")
    preset: Literal["", "qwen3guard", "llama_guard", "granite_guardian", "shieldgemma", "gpt_oss_safeguard"] = Field(
        "", description="with kind 'openai': the family of the guard model, which fixes its template and its labels"
    )
    base_url: EndpointUrl = Field("", description="the endpoint, such as http://127.0.0.1:8000/v1")
    model: str = Field("", description="the model's name at the endpoint")
    path: str = Field("", description="the checkpoint file of 'detoxify', or the folder of 'transformers'")
    tokenizer: str = Field("", description="with 'detoxify': folder with config.json and tokenizer of the checkpoint's base model")
    labels: dict[str, str] = Field(
        {}, description="what the guard's labels mean: one of the ten categories, a hazard code, 'harm' (no category), or '' to ignore it"
    )
    policy: str = Field("", description="with 'gpt_oss_safeguard': path of your policy; empty is the bundled one")
    guidelines: dict[str, str] = Field(
        {}, description="with 'shieldgemma': other words for dangerous, harassment, hate, sexual; {side} stands for who is judged"
    )
    reads: list[Literal["request", "answer"]] = Field(["request", "answer"], min_length=1, description="what it reads of an exchange")
    threshold: Rate = Field(0.5, description="score from which it flags an exchange")
    api_key_env: KeyVariable = Field("", description="name of the environment variable that holds the key; empty sends none")
    concurrency: int = Field(8, ge=1, le=256, description="concurrent calls")
    requests_per_minute: int = Field(0, ge=0, description="calls in any minute, retries included; 0 is no limit")
    calls_per_night: int = Field(10_000, ge=0, description="calls per night, retries included; without an endpoint, exchanges; 0: no limit")
    timeout_seconds: float = Field(30, gt=0, description="a call that takes longer counts as failed")
    retries: int = Field(2, ge=0, le=10, description="further attempts after a failed first one")
    max_chars: int = Field(16_000, ge=100, description="longer conversations and answers are not read: the guard abstains")
    extra: dict[str, Any] = Field({}, description="further fields of each request, such as reasoning_effort")

    @field_validator("extra")
    @classmethod
    def _more_only(cls, value: dict[str, Any]) -> dict[str, Any]:
        return more_only(value, _ASKED)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {
            "openai": ("preset", "base_url", "model"),
            "openai_moderation": ("base_url",),
            "perspective": ("base_url",),
            "detoxify": ("path", "tokenizer"),
            "transformers": ("path", "labels"),
        }[self.kind]
        if missing := [name for name in needed if not getattr(self, name)]:
            raise ValueError(f"kind {self.kind!r} needs {', '.join(missing)}")
        if self.preset and self.kind != "openai":
            raise ValueError("preset goes with kind 'openai'")
        if self.policy and self.preset != "gpt_oss_safeguard":
            raise ValueError("policy goes with preset 'gpt_oss_safeguard'")
        if self.guidelines and self.preset != "shieldgemma":
            raise ValueError("guidelines goes with preset 'shieldgemma'")
        if len(set(self.reads)) < len(self.reads):
            raise ValueError("reads names something twice; give each of request and answer once")
        return self


def wrong_names(names: list[str]) -> list[str]:
    """Return the names that no guard can have.

    >>> wrong_names(["qwen", "Qwen 3", ""])
    ['Qwen 3', '']
    """
    return [name for name in names if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name)]
