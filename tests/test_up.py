"""`align up`: four servers answer, one signal ends all of them, and one that ends takes the rest with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignment.config import load_settings
from alignment.errors import AlignError
from flows.cli import app
from flows.up import ports
from tests.test_serve import STAGES, Served, free_port

pytestmark = [pytest.mark.flow, pytest.mark.timeout(900)]


def start(folder: Path, **more: str) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    taken = {name: free_port() for name in ("prefect", "dashboard", "gateway")}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ALIGN_", "PREFECT_"))}
    own = {
        "ALIGN_HOME": str(folder / "home"),
        "ALIGN_SERVE__PREFECT_PORT": str(taken["prefect"]),
        "ALIGN_SERVE__DASHBOARD_PORT": str(taken["dashboard"]),
        "ALIGN_GATEWAY__PORT": str(taken["gateway"]),
        # Nobody asks it anything here.
        "ALIGN_GATEWAY__UPSTREAM": "http://127.0.0.1:9/v1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up"], cwd=folder, env={**clean, **own, **more}, stdout=output, stderr=output
        )
    return process, taken


def said(folder: Path) -> str:
    return (folder / "output").read_text()


def left(folder: Path) -> list[str]:
    """Return the commands of all processes that belong to a state folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.name != str(os.getpid()) and str(folder / "home").encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_all_four_answer_and_one_signal_ends_all_of_them(tmp_path: Path, number: int, status: int) -> None:
    process, taken = start(tmp_path)
    try:
        deadline = time.monotonic() + 400
        while "all answer" not in said(tmp_path) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.5)
        assert "all answer" in said(tmp_path), said(tmp_path)
        served = Served(f"http://127.0.0.1:{taken['prefect']}/api", tmp_path / "home", process)
        # The scheduler: its deployments are on the server.
        assert served.deployments().keys() >= STAGES
        assert status_of(f"http://127.0.0.1:{taken['dashboard']}/") == 401
        # Its upstream does not.
        assert status_of(f"http://127.0.0.1:{taken['gateway']}/readyz") == 503
        lines = [line for line in said(tmp_path).splitlines() if " | " in line]
        assert {line.split(" | ")[0].strip() for line in lines} >= {"serve", "dashboard", "gateway"}
        assert "token=" not in said(tmp_path)
        process.send_signal(number)
        assert process.wait(timeout=130) == status, said(tmp_path)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert left(tmp_path) == []
    for port in taken.values():
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0


def test_one_that_ends_takes_the_rest_with_it(tmp_path: Path) -> None:
    process, _ = start(tmp_path, ALIGN_GATEWAY__POLICY=str(tmp_path / "none.yaml"))
    try:
        assert process.wait(timeout=400) == 1, said(tmp_path)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "gateway ended with status 1, so the rest was stopped" in said(tmp_path)
    assert "gateway   | error: " in said(tmp_path)
    assert left(tmp_path) == []


def test_ports_that_clash_or_are_taken_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("ALIGN_GATEWAY__PORT", "8501")
    with pytest.raises(AlignError, match=r"\[serve\] dashboard_port and \[gateway\] port are both 8501"):
        ports(load_settings())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("ALIGN_GATEWAY__PORT", str(listener.getsockname()[1]))
        monkeypatch.setenv("ALIGN_SERVE__PREFECT_PORT", str(free_port()))
        monkeypatch.setenv("ALIGN_SERVE__DASHBOARD_PORT", str(free_port()))
        done = CliRunner().invoke(app, ["up"])
    assert done.exit_code == 1
    assert "which gateway needs; stop it, or set [gateway] port to a free port" in done.stderr
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert [port.part for port in ports(load_settings())] == ["dashboard", "gateway"]
