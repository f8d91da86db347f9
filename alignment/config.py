"""All settings, from `align.toml` and the environment.

Precedence: the environment (`ALIGN_TRAIN__EPOCHS=3`), then the file (`ALIGN_CONFIG`, else `align.toml` in the working folder), then
the defaults below. An unknown key is an error. All errors are reported at once.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError, TomlConfigSettingsSource

from alignment.errors import ConfigError
from alignment.gate_floor import NEXT_STEP, weakenings
from alignment.ids import content_id
from alignment.sections import (
    Candidates,
    Checks,
    Dashboard,
    Drift,
    Gate,
    Gateway,
    Ingest,
    Labels,
    Model,
    ModelServer,
    Moderation,
    Notify,
    Pairs,
    Release,
    Section,
    Seeds,
    SelfReward,
    Serve,
    Teacher,
    Train,
)

DEFAULT_FILE = "align.toml"
TEAM_SETTINGS = (
    *("ingest.logs", "ingest.preset", "ingest.consent_default", "model.path", "model.thinking_tokens"),
    *("labels.constitution", "teacher.base_url", "teacher.model", "teacher.api_key_env", "teacher.max_tokens_per_night"),
    *("train.strength", "gate.approval", "release.webhook_url", "serve.cron", "dashboard.reviewers", "dashboard.approvers"),
    "gateway.upstream",
)
"""What a team decides for itself, section by section. `align init` writes these, and the settings page lists them first."""
_SECRET = re.compile(
    r"teacher\b|model_server\b|moderation\.guards\b|release(?:$|\.\w+_url\b)|ingest(?:$|\.logs\b)|gateway(?:$|\.upstream)|notify(?:$|\.urls\b)"
)
"""Settings whose values are never repeated in a message, whatever they are."""


class Settings(BaseSettings):
    """Every setting of the project."""

    model_config = SettingsConfigDict(env_prefix="ALIGN_", env_nested_delimiter="__", extra="forbid", frozen=True, toml_file=None)
    home: Path = Field(Path("var"), description="the state folder")
    ingest: Ingest = Ingest()
    model: Model = Model()
    model_server: ModelServer = ModelServer()
    moderation: Moderation = Moderation()
    candidates: Candidates = Candidates()
    labels: Labels = Labels()
    self_reward: SelfReward = SelfReward()
    teacher: Teacher = Teacher()
    pairs: Pairs = Pairs()
    seeds: Seeds = Seeds()
    train: Train = Train()
    gate: Gate = Gate()
    checks: Checks = Checks()
    drift: Drift = Drift()
    release: Release = Release()
    notify: Notify = Notify()
    serve: Serve = Serve()
    dashboard: Dashboard = Dashboard()
    gateway: Gateway = Gateway()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Give the environment precedence over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())

    @property
    def fingerprint(self) -> str:
        """Content address of everything that changes a night's result; it leaves out paths, times, warnings, hooks and the model's server.

        What that server answers with is part of the base model's id.
        """
        apart = {"home", "model_server", "serve", "checks", "release", "notify", "dashboard", "gateway"}
        return content_id(self.model_dump(mode="json", exclude={**dict.fromkeys(apart, True), "model": {"backend"}}))

    @property
    def skew(self) -> timedelta:
        """How far in the future a line's time may lie."""
        return timedelta(hours=self.ingest.max_clock_skew_hours)


def config_file() -> Path | None:
    """Return the settings file in use, or None.

    Raises:
        ConfigError: `ALIGN_CONFIG` names a file that does not exist.
    """
    named = os.environ.get("ALIGN_CONFIG")
    path = Path(named or DEFAULT_FILE)
    if path.is_file():
        return path
    if named:
        raise ConfigError(f"ALIGN_CONFIG names {named!r}, which is no file; correct or unset it")
    return None


def _explain(error: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "(file)"
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key; {_nearest(place)}"
    value = repr(error["input"])
    # The value may be a key, or an address with a password or a token in it.
    if _SECRET.match(place) or "://" in value or "@" in value:
        return f"{place}: {error['msg']}"
    return f"{place} = {value}: {error['msg']}"


def _nearest(place: str) -> str:
    import difflib

    known = setting_names()
    close = difflib.get_close_matches(place, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    section = place.split(".")[0]
    siblings = [name for name in known if name.startswith(f"{section}.")] or sorted({n.split(".")[0] for n in known})
    return f"known here: {', '.join(siblings)}"


def setting_names() -> list[str]:
    """Return every setting as `section.key`."""
    names = ["home"]
    for section, info in Settings.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            names += [f"{section}.{key}" for key in kind.model_fields]
    return names


def section_kind(section: str) -> type[Section]:
    """Return the class of a section; the first line of its docstring describes the section."""
    return type(getattr(Settings.model_construct(), section))


def setting_field(name: str) -> FieldInfo:
    """Return the default, limits and description of `section.key`."""
    section, key = name.split(".")
    return section_kind(section).model_fields[key]


# Global to the process, not a context variable: a night's threads must see it too, and the night's lock admits only one night.
_kept: list[Settings] = []


@contextmanager
def kept_settings(settings: Settings) -> Iterator[None]:
    """Make `load_settings` return these settings in this process until the block ends, whatever is written to the file meanwhile."""
    _kept.append(settings)
    try:
        yield
    finally:
        _kept.pop()


def load_settings(**overrides: Any) -> Settings:
    """Read the settings. Within `kept_settings`, return the kept ones unless there are `overrides`.

    Raises:
        ConfigError: listing every problem at once.
    """
    if _kept and not overrides:
        return _kept[-1]
    where = str(config_file() or "the environment")
    unknown = [(name, f"{name}: unknown setting in the environment; {_nearest(key)}") for name, key in _unknown_environment()]
    problems = []
    settings = None
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        named = {name for name, _ in unknown}
        problems = [_explain(one) for one in map(dict, error.errors()) if _variable(one["loc"]) not in named]
    except SettingsError as error:
        problems = [f'{error}; write a list in the environment as JSON: ["logs/*.jsonl"]']
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems = [f"the file is not valid TOML: {error}"]
    problems += [text for _, text in unknown]
    if settings is not None and not settings.gate.unsafe:
        problems += [f"{one}; {NEXT_STEP}" for one in weakenings(settings.gate)]
    if settings is not None:
        problems += _apart(settings)
    if problems or settings is None:
        listed = f" {problems[0]}; " if len(problems) == 1 else "".join(f"\n  - {problem}" for problem in problems) + "\n"
        raise ConfigError(f"the settings in {where!r} are wrong:{listed}correct them and run again")
    return settings.model_copy(update={"home": settings.home.expanduser().absolute()})


def _apart(settings: Settings) -> list[str]:
    """Return the settings that are valid alone but cannot work together."""
    found = []
    if settings.gate.judge == "teacher" and not settings.teacher.base_url:
        found.append("gate.judge = 'teacher': there is no teacher; set [teacher] base_url and model, or leave judge empty")
    if settings.model.backend == "openai":
        missing = [name for name in ("base_url", "model") if not getattr(settings.model_server, name)]
        if missing:
            found.append(f"model.backend = 'openai': there is no server; set [model_server] {' and '.join(missing)}, or backend = 'local'")
        if settings.train.method == "full":
            found.append(
                "model.backend = 'openai' with train.method = 'full': a running server loads adapters, not whole models; set method to "
                "'lora' or 'qlora', or backend to 'local'"
            )
    if settings.candidates.author == "teacher" and not settings.teacher.base_url:
        found.append("candidates.author = 'teacher': there is no teacher; set [teacher] base_url and model, or author = 'policy'")
    return found


def _variable(place: Any) -> str:
    return "ALIGN_" + "__".join(str(part) for part in place).upper()


_OTHER_VARIABLES = {"ALIGN_CONFIG", "ALIGN_DATA_DIR", "ALIGN_STARTED_IN", "ALIGN_WEBHOOK_SECRET", "ALIGN_VLLM_KEY"}


def _unknown_environment() -> list[tuple[str, str]]:
    known = set(setting_names())
    found = []
    for name in sorted(os.environ):
        if name.startswith("ALIGN_") and name not in _OTHER_VARIABLES:
            key = name.removeprefix("ALIGN_").lower().replace("__", ".")
            if key not in known:
                found.append((name, key))
    return found
