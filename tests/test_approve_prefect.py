"""A real Prefect server on loopback: a run waits for a person and goes on when one speaks on the command line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment.config import load_settings
from alignment.release import BASE, current, register
from alignment.release.approval import said_of
from alignment.store import migrate
from flows import cli
from flows.secret import prefect_secret
from flows.serve import server
from tests.conftest import child_environment
from tests.test_approval import NIGHT, A, adapter, decided

SERVE = "from flows.approve import approve; approve.serve('approve')"


def until(found: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.5)
    return value


@pytest.mark.flow
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("default")
def test_a_run_that_is_suspended_is_resumed_by_the_command_line_to_a_promotion(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(home)
    register(home, A, adapter(home, A), card="# a", manifest={"created_at": "a", "night_id": NIGHT})
    decision = decided(home, waits=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ALIGN_SERVE__PREFECT_PORT", str(probe.getsockname()[1]))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with server(load_settings()) as url:
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        environment = child_environment(PREFECT_API_URL=url)
        worker = subprocess.Popen([sys.executable, "-c", SERVE], env=environment, cwd=tmp_path)
        try:
            asked = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: prefect_secret(home)}
            with temporary_settings(asked), get_client(sync_client=True) as client:
                until(lambda: [one for one in client.read_deployments() if one.name == "approve"], "deployment")
                [deployment] = client.read_deployments()
                run = client.create_flow_run_from_deployment(deployment.id, parameters={"night_id": NIGHT, "decision_id": decision})

                def state() -> str:
                    return str(client.read_flow_run(run.id).state_name)

                until(lambda: state() == "Suspended", "suspended run")
                assert current(home) == BASE
                # As in another shell: the server is found by its port. Nobody has spoken: nothing is resumed.
                os.environ.pop("PREFECT_API_URL", None)
                assert CliRunner().invoke(cli.app, ["release", "push"]).exit_code == 0
                assert state() == "Suspended"
                done = CliRunner().invoke(cli.app, ["gate", "--approve", NIGHT, "--actor", "ann", "--reason", "read the answers"])
                assert done.exit_code == 0, done.output
                assert current(home) == A
                until(lambda: state() == "Completed", "completed run")
        finally:
            worker.terminate()
            worker.wait(timeout=30)
    # Said once, released once.
    assert [(row["verdict"], row["actor"]) for row in said_of(home, A)] == [("approved", "ann")]
    assert current(home) == A
