"""Start a night from the Nights page or with `align nightly --background`: who may, what it does, how it ends, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignment.acting import Identity
from alignment.errors import AlignError, NightRunning
from alignment.store import audit, query
from bench.tiny import make_tiny_model
from dashboard import data, identity, night_data, night_start
from dashboard.views import starting
from flows import launch
from flows.night import night_lock
from flows.prefect_client import connected
from flows.secret import running_server
from tests.conftest import ROOT, child_environment
from tests.dashboard_pages import opened, press, texts
from tests.test_flow import CONFIG, sample_lines
from tests.test_serve import free_port

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1800)]
NO_LOGS = '[ingest]\nlogs = ["nowhere/*.jsonl"]\n'
NIGHT = ("-P", "-m", "flows.cli", "nightly", "--background", "--json")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write `align.toml` for this test's state folder; return the folder. A night that a page starts is a process of this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def write(text: str) -> Path:
        (tmp_path / "align.toml").write_text(text)
        (tmp_path / "home").mkdir(exist_ok=True)
        return tmp_path / "home"

    return write


def until(done: Callable[[], Any], seconds: float = 300) -> Any:
    """Return the first true answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := done():
            return found
        time.sleep(0.3)
    raise AssertionError("it did not happen in time")


def confirmed(page: str = "nights") -> Any:
    """Start a night; a busy machine takes longer than a page otherwise may."""
    app = press(opened(page), "Start a night …")
    return next(button for button in app.button if button.label == "Start it now").click().run(timeout=180)


def test_a_night_that_a_page_starts_runs_to_its_end_and_the_page_follows_it(settings: Callable[[str], Path], tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "tiny")
    (tmp_path / "logs.jsonl").write_text("\n".join(sample_lines(60)) + "\n")
    home = settings(CONFIG.replace("pairs = 40", "pairs = 10").replace("_budget = 16", "_budget = 4"))
    # There is no store yet: every page offers the first night.
    app = confirmed("overview")
    assert not app.exception
    assert [(row["action"], row["actor"], row["how"]) for row in audit.read(home)] == [("night_requested", "Ada", "token")]
    assert night_data.working()
    until(lambda: query(home, "SELECT 1 FROM night_events") if (home / "store.duckdb").exists() else None)
    data.forget()
    app = opened("nights")
    assert app.header[0].value.endswith("Running]")
    assert "Start a night …" not in [button.label for button in app.button]
    assert any("so far" in caption.value for caption in app.caption)
    seen = set()

    def over() -> bool:
        if (going := night_data.going()) is not None:
            seen.add(going.stage)
            data.forget()
        return going is None

    until(over, 1200)
    # The others may be over before somebody looks.
    assert {"curate", "gate"} <= seen
    app.run()
    assert [one.value.split(":")[0] for one in app.success] == ["The night has ended"]
    [night] = night_data.nights()
    assert night["finished_at"] and night["summary"]["decision"] in ("promote", "block", "insufficient evidence")
    # Another one finds nothing new, which the page says too.
    app = confirmed()
    until(lambda: not night_data.working(), 600)
    app.run()
    assert any("there was nothing new" in one.value for one in app.info)


def test_what_stopped_a_started_night_is_shown(settings: Callable[[str], Path]) -> None:
    settings(NO_LOGS)
    app = confirmed("overview")
    until(lambda: not night_data.working())
    app.run()
    assert any("no log file matches 'nowhere/*.jsonl'" in text for text in texts(app))


def test_a_night_that_cannot_start_says_why(own: Path, settings: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    settings(NO_LOGS)
    monkeypatch.setattr(night_start.sys, "executable", sys.executable)
    # The page's own settings are sound; the process reads others.
    monkeypatch.setenv("ALIGN_HOME", str(own))
    (own / ".launch.lock").mkdir()
    app = confirmed()
    assert app.warning[0].value == "No night was started."
    assert any(".launch.lock" in text for text in texts(app))


def test_a_second_start_is_refused_while_one_runs(own: Path, settings: Callable[[str], Path]) -> None:
    settings(NO_LOGS)
    app = press(opened("nights"), "Start a night …")
    with night_lock(own):
        press(app, "Start it now")
        assert any("a night is running" in text for text in texts(app))
        with pytest.raises(NightRunning):
            night_start.start_night(actor="Ada", force=False)
        # The command itself refuses as well, for whoever is faster than a page.
        done = subprocess.run(
            [sys.executable, *NIGHT], env=child_environment(ALIGN_HOME=str(own)), capture_output=True, text=True, check=False
        )
        assert (done.returncode, "another night is running" in done.stderr) == (1, True)
    assert [row for row in audit.read(own) if row["action"] == "night_requested"] == []


@pytest.mark.parametrize("role", ["viewer", "reviewer"])
def test_only_an_approver_starts_a_night(role: Any, own: Path, settings: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    settings(NO_LOGS)
    app = press(opened("nights"), "Start a night …")
    monkeypatch.setattr(identity, "current", lambda: Identity("Vic", "token", role))
    assert "Start a night …" not in [button.label for button in opened("nights").button]
    # Rights taken while the dialog is open.
    press(app, "Start it now")
    assert any(f"is signed in as {role}" in text for text in texts(app))
    assert not (own / night_start.LOG).exists()


def test_a_second_press_starts_nothing(own: Path, settings: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    settings(NO_LOGS)
    started: list[bool] = []

    def start(*, actor: str, force: bool) -> night_start.Started:
        started.append(force)
        starting.act(token, field)  # the second press comes while the first is at work
        raise AlignError("stopped here")

    monkeypatch.setattr(night_start, "start_night", start)
    app = press(opened("nights"), "Start a night …")
    token = app.session_state["night_asked"]
    field = app.checkbox[0].key
    app.checkbox[0].check()
    press(app, "Start it now")
    assert started == [True]


@pytest.fixture
def serving(settings: Callable[[str], Path], tmp_path: Path) -> Iterator[Path]:
    """A running `align serve`, whose nights end at once because there are no logs."""
    home = settings(NO_LOGS)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**clean, "ALIGN_HOME": str(home), "ALIGN_SERVE__PREFECT_PORT": str(free_port()), "PYTHONPATH": str(ROOT)}
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve"], cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
    try:
        until(lambda: running_server(home))
        yield home
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_a_running_serve_runs_the_night_and_a_second_one_is_refused_while_it_is_due(serving: Path, tmp_path: Path) -> None:
    def ask() -> subprocess.CompletedProcess[str]:
        environment = child_environment(ALIGN_HOME=str(serving))
        return subprocess.run([sys.executable, *NIGHT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    first = ask()
    while "has not deployed the night yet" in first.stderr:
        first = ask()
    second = ask()
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["how"] == "run"
    # Due, or begun by now: either way the second is told.
    assert second.returncode == 1
    assert "a night is due in Prefect already" in second.stderr or "another night is running" in second.stderr
    # Nobody started a process beside it.
    assert not (serving / night_start.LOG).exists()


def test_a_run_that_has_begun_but_does_not_hold_the_lock_yet_refuses_a_second_one(serving: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Running

    def deployed(client: Any) -> Any:
        try:
            return client.read_deployment_by_name("nightly/nightly")
        except ObjectNotFound:
            return None

    with connected(serving) as client:
        assert client is not None
        deployment = until(lambda: deployed(client))
        launch._refuse_waiting(client, deployment.id)
        run = client.create_flow_run_from_deployment(deployment.id, state=Running())
        with pytest.raises(NightRunning, match=f"has just begun in Prefect .run {run.id}"):
            launch._refuse_waiting(client, deployment.id)
        # A run whose process was killed stays like this for ever.
        monkeypatch.setattr(launch, "_RUN_SECONDS", 0.0)
        launch._refuse_waiting(client, deployment.id)
