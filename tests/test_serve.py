"""`align serve` with a real Prefect server: deployments, a schedule that schedules, and an end without leftovers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from alignment.config import Settings
from alignment.errors import EndpointError
from flows.serve import server

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]
STAGES = {"nightly", "ingest", "curate", "train", "release", "monitor", "approve"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A running `align serve`; yields the API's address, and checks that nothing listens after SIGTERM."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ALIGN_", "PREFECT_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "serve"],
        cwd=tmp_path,
        env={
            **clean,
            "ALIGN_HOME": str(tmp_path / "home"),
            "ALIGN_SERVE__PREFECT_PORT": str(port),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}/api"
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(url: str, body: dict[str, Any], enough: int, seconds: float = 300) -> list[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    found: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        try:
            found = httpx.post(url, json=body, timeout=5).json()
        except (httpx.HTTPError, ValueError):
            found = []
        if len(found) >= enough:
            return found
        time.sleep(0.5)
    return found


def test_every_stage_is_deployed_and_the_night_is_scheduled(served: str) -> None:
    deployments = wait_for(f"{served}/deployments/filter", {}, len(STAGES))
    assert {one["name"] for one in deployments} == STAGES
    assert all(one["global_concurrency_limit"]["limit"] == 1 for one in deployments if one["name"] != "approve")
    parameters = {one["name"]: set(one["parameter_openapi_schema"]["properties"]) for one in deployments}
    assert parameters["nightly"] == {"logs", "force"}
    assert parameters["curate"] == {"night_id"}
    # Else a crash of the server loses who holds the night's only slot, and the next night waits for ever.
    assert httpx.get(f"{served}/admin/settings", timeout=5).json()["server"]["concurrency"]["lease_storage"].endswith("filesystem")
    runs = wait_for(f"{served}/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}, 1)
    night = next(one["id"] for one in deployments if one["name"] == "nightly")
    assert runs
    assert {run["deployment_id"] for run in runs} == {night}


def test_a_port_that_somebody_else_answers_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        settings = Settings(home=tmp_path, serve={"prefect_port": stranger.getsockname()[1]})  # type: ignore[arg-type]
        with pytest.raises(EndpointError, match="something answers already"), server(settings):
            pass
