"""The sections of `align.toml` for releases, the model's server, `align serve` and the dashboard."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from alignment.schedule import cron_problem
from alignment.section import EndpointUrl, KeyVariable, Rate, Section, more_only, port_is_one

_ASKED = {"model", "messages", "n", "stream", "temperature", "seed", "max_tokens", "max_completion_tokens", "chat_template_kwargs"}


class Release(Section):
    """Who is told of a release, and what a canary has to prove. Margins are absolute differences of failure rates."""

    vllm_url: str = Field("", description="a vLLM server that loads the releases in use as LoRA adapters, e.g. http://127.0.0.1:8000")
    vllm_folder: str = Field("", description="the releases folder as that server sees it; empty: the same path as here")
    webhook_url: str = Field("", description="URL that receives each change as JSON, signed if ALIGN_WEBHOOK_SECRET is set")
    merged_weights: str = Field("", description="folder outside the state folder for merged safetensors; `current` in it is in production")
    hook_timeout: float = Field(10, gt=0, description="seconds to wait for a server's answer, on each of three tries")
    base_name: str = Field("base", description="the base model's name in the logs' `model` while it is in production")
    canary_alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of a wrong decision on a canary, however often it is checked")
    canary_margin: Rate = Field(0.02, description="a canary is promoted when failures are proven to have risen by less than this")
    canary_harm: Rate = Field(0.0, description="a canary is rolled back when failures are proven to have risen by more than this")
    canary_min_exchanges: int = Field(200, ge=1, description="exchanges a canary has to answer before it is promoted")
    canary_names: list[str] = Field([], description="names of a canary in the logs besides its id, such as its deployment's name")
    champion_names: list[str] = Field([], description="names of the champion in the logs besides its id, such as its deployment's name")

    @field_validator("vllm_url", "webhook_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("an address begins with http:// or https://; leave it empty for none")
        if not port_is_one(value):
            raise ValueError("its port is none; give 1 to 65535, or none for that of the scheme")
        return value.rstrip("/")


Event = Literal["promoted", "waits for approval", "blocked", "insufficient evidence", "drift alarm", "budget spent", "failed"]


class Notify(Section):
    """Who is told how a night ended."""

    urls: list[SecretStr] = Field(
        [], description="receivers as apprise writes them, such as slack://… or mailto://…; they hold secrets: set ALIGN_NOTIFY__URLS"
    )
    events: list[Event] = Field(
        ["promoted", "waits for approval", "blocked", "insufficient evidence", "drift alarm", "budget spent", "failed"],
        description="what they are told",
    )
    timeout: float = Field(10, gt=0, le=300, description="seconds to wait for all of them together")

    @field_validator("urls")
    @classmethod
    def _addresses(cls, value: list[SecretStr]) -> list[SecretStr]:
        for number, one in enumerate(value, 1):
            if "://" not in one.get_secret_value():
                raise ValueError(f"receiver {number} has no ://; write it as apprise's pages show, such as json://HOST/PATH")
        return value


class ModelServer(Section):
    """The OpenAI-compatible server that answers for the model and its adapters, with `[model] backend = "openai"`."""

    # A value in the wrong place may be the key: an error must not repeat it.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)
    base_url: EndpointUrl = Field("", description="the server, such as http://127.0.0.1:8000/v1")
    model: str = Field("", description="the base model's name there")
    api_key_env: KeyVariable = Field("", description="name of the environment variable that holds the key; empty sends none")
    home_as: str = Field("", description="the state folder as the server sees it, from which it loads adapters; empty: under the same path")
    concurrency: int = Field(32, ge=1, le=1024, description="concurrent calls")
    timeout_seconds: float = Field(120, gt=0, description="a call that takes longer counts as failed")
    retries: int = Field(5, ge=0, le=20, description="further attempts after a failed first one")
    log_probs: Literal["server", "local"] = Field(
        "server", description="who computes log-probabilities: the server (vLLM does), or this machine, from the same weights"
    )
    max_difference: float = Field(
        0.1,
        ge=0,
        description="largest difference, in nats per token, between what the server and the weights here give a few fixed answers; "
        "compared once per night and model; 0 does not compare, and loads no weights here",
    )
    extra: dict[str, Any] = Field({}, description="further fields of each request for an answer, such as top_k = 50")

    @field_validator("extra")
    @classmethod
    def _more_only(cls, value: dict[str, Any]) -> dict[str, Any]:
        return more_only(value, _ASKED)


class Serve(Section):
    """`align serve` and the dashboard."""

    cron: str = Field("0 2 * * *", description="when the night runs (UTC)")
    dashboard_port: int = Field(8501, ge=1, le=65535, description="where the dashboard listens")
    prefect_port: int = Field(4200, ge=1, le=65535, description="where the Prefect server listens")

    @field_validator("cron")
    @classmethod
    def _comes(cls, value: str) -> str:
        if problem := cron_problem(value):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.dashboard_port == self.prefect_port:
            raise ValueError(f"dashboard_port and prefect_port are both {self.prefect_port}; give each its own")
        return self


class Dashboard(Section):
    """Who may do what on the dashboard. A name is a verified e-mail address, or whom a link was made for."""

    viewers: list[str] = Field([], description="names that may look, or '*@example.com'; anyone who signs in by a link may, too")
    reviewers: list[str] = Field([], description="names that may also decide in the review queue")
    approvers: list[str] = Field(
        [], description="names that may also approve and refuse releases; empty: this account, signed in by its own link"
    )
    hosts: list[str] = Field([], description="host names that browsers may use besides 127.0.0.1 and localhost, as behind a proxy")
    address: str = Field("127.0.0.1", description="address to listen on; anything but loopback needs TLS in front of it")

    @field_validator("hosts")
    @classmethod
    def _bare(cls, value: list[str]) -> list[str]:
        for host in value:
            if not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]", host):
                raise ValueError(f"{host!r} is no host name; give it without scheme, port, path or wildcard, such as 'align.example.com'")
        return value


class Gateway(Section):
    """`align gateway`: the server around the model that checks prompts and answers, and logs them for the night."""

    address: str = Field("127.0.0.1", description="address to listen on; anything but loopback needs keys, and TLS in front of it")
    port: int = Field(8090, ge=1, le=65535, description="where the gateway listens")
    metrics_port: int = Field(0, ge=0, le=65535, description="where Prometheus reads metrics, on loopback; 0: nowhere")
    upstream: EndpointUrl = Field(
        "", description="OpenAI-compatible server that answers, such as http://127.0.0.1:8000/v1; empty: the release in production, here"
    )
    upstream_key_env: KeyVariable = Field("", description="name of the environment variable with the upstream's key; empty sends none")
    policy: str = Field("", description="path of a policy file; empty is the bundled one")
    timeout: float = Field(120, gt=0, le=3600, description="seconds for a whole answer of the upstream")
    max_body_bytes: int = Field(1_048_576, ge=1024, le=64 << 20, description="larger requests are refused")
    max_open: int = Field(256, ge=1, le=100_000, description="requests answered at the same time; more are told to come later")
    log_fsync: Literal["each", "second", "never"] = Field(
        "second", description="how often the exchange log is forced to the disk; 'each' survives the loss of power"
    )
    log_failure: Literal["refuse", "go_on"] = Field(
        "refuse", description="what happens to requests while the exchange log cannot be written"
    )
