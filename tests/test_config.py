"""Settings come from one file and the environment, and every mistake is told at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alignment.config import Settings, config_file, load_settings, setting_names
from alignment.errors import ConfigError, Permanent
from alignment.ingest import log_sources

pytestmark = pytest.mark.fast


def write(text: str, name: str = "align.toml") -> None:
    Path(name).write_text(text)


def problems(**overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(**overrides)
    assert isinstance(caught.value, Permanent)
    return str(caught.value)


def test_defaults_need_no_file(tmp_path: Path) -> None:
    settings = load_settings()
    assert config_file() is None
    assert settings.home == tmp_path / "home"
    assert settings.train.epochs == 1
    [source] = log_sources(settings)
    [sample] = source.find()
    assert sample.path.endswith("traffic.jsonl.gz")


def test_environment_over_file_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    write('home = "elsewhere"\n[train]\nepochs = 3\nbeta = 0.2\n')
    monkeypatch.setenv("ALIGN_TRAIN__EPOCHS", "4")
    monkeypatch.delenv("ALIGN_HOME")
    settings = load_settings()
    assert (settings.train.epochs, settings.train.beta, settings.train.lora_rank) == (4, 0.2, 16)
    assert settings.home == Path("elsewhere").absolute()


def test_align_config_names_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[train]\nepochs = 3\n")
    write("[train]\nepochs = 9\n", "other.toml")
    monkeypatch.setenv("ALIGN_CONFIG", "other.toml")
    assert load_settings().train.epochs == 9


def test_align_config_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_CONFIG", "/nowhere/align.toml")
    assert "'/nowhere/align.toml', which is no file; correct or unset it" in problems()


def test_one_problem_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_TRAIN__EPOCHS", "many")
    assert len(problems().splitlines()) == 1
    monkeypatch.setenv("ALIGN_SERVE__CRON", "")
    assert len(problems().splitlines()) == 4


def test_unknown_key_in_the_file() -> None:
    write("[train]\nepocs = 3\n")
    assert "train.epocs: unknown key; did you mean 'train.epochs'?" in problems()


def test_a_suite_too_small_to_decide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_GATE__MAX_PROMPTS", "49")
    assert "give 0 for all, or at least 50" in problems()


def test_unknown_section_in_the_file() -> None:
    write("[trane]\nepochs = 3\n")
    assert "trane: unknown key" in problems()


@pytest.mark.parametrize(
    ("name", "hint"), [("ALIGN_TRAIN__EPOCS", "train.epochs"), ("ALIGN_HOMES", "home"), ("ALIGN_TRAIN_EPOCHS", "train.epochs")]
)
def test_unknown_key_in_the_environment(monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    monkeypatch.setenv(name, "3")
    message = problems()
    assert name in message
    assert f"did you mean {hint!r}?" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", "many"),
        ("gate.confidence", "1.5"),
        ("train.lora_rank", "0"),
        ("drift.run_length", "1"),
        ("serve.dashboard_port", "70000"),
    ],
)
def test_wrong_values(monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    monkeypatch.setenv("ALIGN_" + key.upper().replace(".", "__"), value)
    assert f"{key} = {value!r}: Input should be" in problems()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("release.webhook_url", "'hooks.example.com/services/T000/SECRETWORD'"),
        ("release.vllm_url", "'bot:SECRETWORD@vllm:8000'"),
        ("release", "'hooks.example.com/SECRETWORD'"),
        ("ingest.logs", "'KEYID/SECRETWORD'"),
        ("ingest.logs", "[1, 'SECRETWORD']"),
        ("teacher.base_url", "['SECRETWORD']"),
        ("train.epochs", "'https://h/SECRETWORD'"),
        ("train.epochs", "'bot:SECRETWORD@h'"),
    ],
)
def test_what_may_be_a_secret_is_not_repeated(place: str, value: str) -> None:
    section, _, key = place.partition(".")
    write(f"[{section}]\n{key} = {value}\n" if key else f"{section} = {value}\n")
    assert place in problems()
    assert "SECRETWORD" not in problems()


def test_a_list_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_INGEST__LOGS", '["a.jsonl", "sample"]')
    assert load_settings().ingest.logs == ["a.jsonl", "sample"]
    monkeypatch.setenv("ALIGN_INGEST__LOGS", "a.jsonl")
    assert "as JSON" in problems()


def test_all_problems_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    write("train = 5\n[gate]\nconfidence = 'high'\nmargin = 1\n[ingest]\nlogs = 3\n")
    monkeypatch.setenv("ALIGN_DRIFT__TOLERANCE", "2")
    monkeypatch.setenv("ALIGN_NONSENSE", "1")
    message = problems()
    for name in (
        "train = 5",
        "gate.confidence",
        "gate.margin",
        "ingest.logs",
        "drift.tolerance",
        "ALIGN_NONSENSE",
        "align.toml",
        "run again",
    ):
        assert name in message
    assert message.count("\n  - ") == 6


@pytest.mark.parametrize("content", [b"[train", b"\xff\xfe", b"a = \n"])
def test_a_file_that_is_no_toml(content: bytes) -> None:
    Path("align.toml").write_bytes(content)
    assert "align.toml" in problems()


def test_every_setting_is_described() -> None:
    bare = []
    for name in setting_names():
        section, _, key = name.rpartition(".")
        owner = Settings.model_fields[section].annotation if section else Settings
        if not owner.model_fields[key].description:
            bare.append(name)
    assert not bare


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().train.epochs = 5


def test_the_fingerprint_counts_what_changes_a_night(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_settings().fingerprint
    monkeypatch.setenv("ALIGN_SERVE__CRON", "0 3 * * *")
    monkeypatch.setenv("ALIGN_HOME", "/elsewhere")
    assert load_settings().fingerprint == first
    monkeypatch.setenv("ALIGN_GATE__ORDINARY_MARGIN", "0.03")
    assert load_settings().fingerprint != first


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SERVE__CRON", "15 61 * * *", "serve.cron"),
        ("SERVE__CRON", "75 3 * * *", "Bad minute"),
        ("SERVE__CRON", " ", "0 fields"),
        ("SERVE__CRON", "R R * * *", "serve.cron"),
        ("SERVE__CRON", "0 30 3 * * *", "a field of seconds is not taken"),
        ("SERVE__CRON", "0 3 31 2 *", "Bad day-of-month"),
        ("SERVE__CRON", "0 3 LW * *", "no LW"),
        ("SERVE__PREFECT_PORT", "8501", "are both 8501"),
        ("RELEASE__VLLM_URL", "http://127.0.0.1:99999", "its port is none"),
        ("TEACHER__BASE_URL", "http://127.0.0.1:99999/v1", "teacher.base_url"),
        ("TEACHER__EXTRA", '{"max_tokens": 5}', "max_tokens: these are set"),
        ("GATE__JUDGE", "teacher", "there is no teacher"),
    ],
)
def test_settings_that_cannot_work_are_refused_where_they_are_read(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ALIGN_{name}", value)
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_settings()


@pytest.mark.parametrize("cron", ["30 3 * * *", "*/20 1-5 * * mon-fri", "0 3 L * *", "0 3 1,15 * 0", "@daily"])
def test_a_cron_that_is_taken_is_one_to_prefect(cron: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    monkeypatch.setenv("ALIGN_SERVE__CRON", cron)
    assert CronSchedule(cron=load_settings().serve.cron).cron == cron
