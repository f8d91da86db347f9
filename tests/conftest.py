"""What every test stands on: a state folder of its own, no settings from outside, and short ways to make records."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# As `align erase` has it, before anything imports DuckDB.
os.environ.setdefault("DUCKDB_JE_MALLOC_CONF", "zero:true")

from alignment.ids import content_id
from alignment.records import Answer, Interaction, Pair, Side, SuitePrompt

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 11, 23, 2, 0)  # the store keeps UTC without a zone

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell leaves what it starts in the background, and every process of a test that sends Ctrl-C with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder in which nights of tests, whichever worker runs them, keep the embedder's vectors."""
    if not hasattr(config, "workerinput"):
        os.environ["TESTS_VECTORS"] = tempfile.mkdtemp(prefix="vectors-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take it away."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["TESTS_VECTORS"], ignore_errors=True)


settings.register_profile(
    "tests",
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A state folder that nobody else uses."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder that the dashboard's tests only read."""
    from alignment.ingest.redact import redaction_key
    from tests.dashboard_store import fill

    folder = tmp_path_factory.mktemp("filled")
    redaction_key(folder)
    fill(folder)
    return folder


@pytest.fixture
def own(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A filled state folder that one test may write to."""
    folder = tmp_path / "own"
    shutil.copytree(filled, folder)
    monkeypatch.setenv("ALIGN_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _no_settings_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ALIGN_", "PREFECT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    # Hundreds of seeds a night would make every night of a test long; tests of seeds ask for theirs.
    monkeypatch.setenv("ALIGN_SEEDS__PAIRS", "0")
    # There is no align.toml here.
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _main_stays() -> Iterator[None]:
    """Put back the main module: Streamlit's test runner leaves a page there, which a process that is spawned would then run."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(autouse=True)
def _signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who opens a page in a test be signed in as an approver, by the name in the page's session state or as Ada."""
    if (identity := sys.modules.get("dashboard.identity")) is None:
        return
    import streamlit as st

    from alignment.acting import Identity

    def visitor() -> Identity:
        return Identity(st.session_state.get("reviewer", "Ada"), "token", "approver")

    monkeypatch.setattr(identity, "current", visitor)


def child_environment(**more: str) -> dict[str, str]:
    """Return the environment for a Python process that a test starts."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def make_interaction(name: object, prompt: str = "How do I boil an egg?", response: str = "In water.", **changes: Any) -> Interaction:
    """Return an exchange; `name` fixes its id."""
    values: dict[str, Any] = {
        "id": content_id("exchange", name),
        "conversation_id": f"c-{name}",
        "user_id": f"u-{name}",
        "created_at": NOW,
        "model": "m",
        "messages": ({"role": "user", "content": prompt},),
        "response": response,
    }
    return Interaction(**values | changes)


def make_pair(name: object, prompt: str = "How do I boil an egg?", **changes: Any) -> Pair:
    """Return a training pair; `name` fixes its id."""
    values: dict[str, Any] = {
        "id": content_id("pair", name),
        "interaction_id": content_id("exchange", name),
        "user_id": f"u-{name}",
        "created_at": NOW + timedelta(seconds=name if isinstance(name, int) else 0),
        "side": Side.HARM,
        "category": "violence",
        "messages": ({"role": "user", "content": prompt},),
        "chosen": "a good answer",
        "rejected": "a bad answer",
        "chosen_kind": "safe_completion",
        "rejected_kind": "logged",
        "labelers": ("constitution",),
        "principle_ids": ("no-violence",),
        "judge_margin": 0.5,
        "cluster_id": content_id("cluster", prompt),
        "split": "train",
    }
    return Pair(**values | changes)


def make_answers(suite: str, model_id: str, outcomes: list[int | None]) -> list[Answer]:
    """Return one answer for each outcome; equal positions are equal prompts."""
    return [
        Answer(SuitePrompt(f"{suite}-{number}", suite, f"prompt {number}", f"c{number}", "x"), model_id, "text", {}, outcome)
        for number, outcome in enumerate(outcomes)
    ]
