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
from typing import Any, NamedTuple

import httpx
import pytest

from alignment.config import Settings
from alignment.errors import EndpointError
from flows.secret import prefect_secret, running_server
from flows.serve import server

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]
STAGES = {"nightly", "ingest", "curate", "train", "gate", "monitor", "approve"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Served(NamedTuple):
    """A running `align serve`: its API's address, its state folder, its process."""

    url: str
    home: Path
    process: subprocess.Popen[bytes]

    def client(self, **headers: str) -> httpx.Client:
        """Return a client that has the secret and a CSRF token, as Prefect's own have."""
        user, password = (self.home / "prefect.secret").read_text().split(":")
        token = httpx.get(f"{self.url}/csrf-token", params={"client": "test"}, auth=(user, password), timeout=20).json()["token"]
        headers = {"Prefect-Csrf-Client": "test", "Prefect-Csrf-Token": token, **headers}
        return httpx.Client(base_url=self.url, auth=(user, password), timeout=20, headers=headers)

    def deployments(self) -> dict[str, dict[str, Any]]:
        """Return what is deployed, once all is."""
        found = wait_for(self, "/deployments/filter", {}, len(STAGES))
        return {one["name"]: one for one in found}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A running `align serve`; checks that it ends, and that nothing listens, soon after SIGTERM."""
    tmp_path, port = tmp_path_factory.mktemp("served"), free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ALIGN_", "PREFECT_"))}
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve"],
            cwd=tmp_path,
            env={
                **clean,
                "ALIGN_HOME": str(tmp_path / "home"),
                "ALIGN_SERVE__PREFECT_PORT": str(port),
                "PYTHONPATH": str(Path(__file__).parents[1]),
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Served(f"http://127.0.0.1:{port}/api", tmp_path / "home", process)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(served: Served, path: str, body: dict[str, Any], enough: int, seconds: float = 300) -> list[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    found: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        try:
            with served.client() as client:
                found = client.post(path, json=body).json()
        except (httpx.HTTPError, OSError, ValueError, KeyError):
            found = []
        if len(found) >= enough:
            return found
        time.sleep(0.5)
    return found


def run_of(served: Served, deployment: str, **parameters: Any) -> dict[str, Any]:
    """Ask for a run of a deployment, and return it once it has ended."""
    with served.client() as client:
        run = client.post(f"/deployments/{deployment}/create_flow_run", json={"parameters": parameters}).json()
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            found = client.get(f"/flow_runs/{run['id']}").json()
            if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return found
            time.sleep(0.5)
    raise AssertionError(f"the run is still {found['state_name']}: {(served.home.parent / 'output').read_text()[-3000:]}")


def test_every_stage_is_deployed_and_the_night_is_scheduled(served: Served) -> None:
    deployments = served.deployments()
    assert set(deployments) == STAGES
    assert all(one["global_concurrency_limit"]["limit"] == 1 for name, one in deployments.items() if name != "approve")
    parameters = {name: set(one["parameter_openapi_schema"]["properties"]) for name, one in deployments.items()}
    assert parameters["nightly"] == {"logs", "force"}
    assert parameters["curate"] == {"night_id"}
    # Else a crash of the server loses who holds the night's only slot, and the next night waits for ever.
    with served.client() as client:
        assert client.get("/admin/settings").json()["server"]["concurrency"]["lease_storage"].endswith("filesystem")
    runs = wait_for(served, "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}, 1)
    assert runs
    assert {run["deployment_id"] for run in runs} == {deployments["nightly"]["id"]}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/api/health", {}, 200),
        ("GET", "/api/admin/settings", {}, 401),
        ("POST", "/api/deployments/filter", {}, 403),
        ("POST", "/api/deployments/filter", {"Prefect-Csrf-Token": "x", "Prefect-Csrf-Client": "test"}, 403),
        ("GET", "/api/admin/settings", {"Authorization": "Basic YWxpZ246eA=="}, 401),
        ("GET", "/api/admin/settings", {"Authorization": "Basic", "Origin": "null"}, 403),
        ("GET", "/api/health", {"Origin": "http://evil.example"}, 403),
        ("OPTIONS", "/api/deployments/filter", {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}, 403),
        ("GET", "/", {"Host": "evil.example"}, 403),
        ("GET", "/api/health", {"Host": "evil.example:{port}"}, 403),
        ("GET", "/ui-settings", {"Host": "127.0.0.1.evil.example:{port}"}, 403),
        ("GET", "/ui-settings", {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"}, 200),
    ],
)
def test_who_has_no_key_or_comes_from_elsewhere_is_refused(
    served: Served, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    served.deployments()
    root = served.url.removesuffix("/api")
    port = root.rsplit(":", 1)[1]
    answer = httpx.request(method, root + path, headers={name: value.replace("{port}", port) for name, value in headers.items()})
    assert answer.status_code == status
    assert answer.headers.get("access-control-allow-origin", "") != "*"


def test_a_page_elsewhere_that_knew_the_key_would_get_nothing(served: Served) -> None:
    served.deployments()
    with served.client() as client:
        assert client.get("/admin/settings").status_code == 200
        assert client.get("/admin/settings", headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.get("/admin/settings", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}])
def test_a_socket_without_the_key_is_closed(served: Served, headers: dict[str, str]) -> None:
    """Browsers let any page open a socket anywhere: events sent through one could start a deployment."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    served.deployments()
    address = served.url.replace("http", "ws") + "/events/in"
    with pytest.raises(WebSocketException), connect(address, additional_headers=headers, subprotocols=["prefect"]) as socket_:  # type: ignore[list-item]
        socket_.send('{"type": "auth", "token": "wrong"}')
        socket_.recv(timeout=20)


def test_the_secret_is_in_its_file_and_nowhere_else(served: Served) -> None:
    served.deployments()
    path = served.home / "prefect.secret"
    assert path.stat().st_mode & 0o777 == 0o600
    secret = path.read_text().split(":")[1]
    written = [*served.home.glob("*.log"), served.home.parent / "output", *(served.home / "prefect").rglob("*.db*")]
    assert not [file for file in written if secret.encode() in file.read_bytes()]
    shown = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert "flows.prefect_server" in shown
    assert secret not in shown
    with served.client() as client:
        assert secret not in client.get("/admin/settings").text


def test_a_second_one_for_the_same_folder_is_refused(served: Served) -> None:
    served.deployments()
    assert running_server(served.home) == served.url
    settings = Settings(home=served.home, serve={"prefect_port": free_port()})  # type: ignore[arg-type]
    with pytest.raises(EndpointError, match=r"is served already at http://127\.0\.0\.1"), server(settings):
        pass


def test_what_was_deployed_runs(served: Served) -> None:
    found = run_of(served, served.deployments()["ingest"]["id"], logs=[str(served.home / "nowhere.jsonl")])
    # It got as far as our code, which says what it misses.
    assert "no log file matches" in found["state"]["message"]


ATTACKS = {
    "pull step": lambda mark: {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": f"touch {mark}"}}]},
    "entrypoint": lambda mark: {"entrypoint": f"{mark}.py:flow"},
    "job variables": lambda mark: {"job_variables": {"env": {"PYTHONSTARTUP": f"{mark}.py"}}},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_deployment_that_was_changed_does_not_run(served: Served, tmp_path: Path, attack: str) -> None:
    """Somebody with the secret has a deployment run a command of theirs."""
    mark = tmp_path / "mark"
    (tmp_path / "mark.py").write_text(f"from prefect import flow as f\nopen({str(mark)!r}, 'w')\n@f\ndef flow(): pass\n")
    name = {"pull step": "monitor", "entrypoint": "curate", "job variables": "train"}[attack]
    deployment = served.deployments()[name]["id"]
    with served.client() as client:
        assert client.patch(f"/deployments/{deployment}", json=ATTACKS[attack](mark)).status_code == 204
    found = run_of(served, deployment, **({} if name == "monitor" else {"night_id": "n"}))
    assert found["state_type"] == "CRASHED"
    assert "was changed after it was deployed" in found["state"]["message"]
    assert not mark.exists()
    # The server knows the run's state before the runner has said why.
    output, until = served.home.parent / "output", time.monotonic() + 60
    while "was changed after it was deployed" not in output.read_text() and time.monotonic() < until:
        time.sleep(0.1)
    assert "was changed after it was deployed" in output.read_text()


@pytest.mark.parametrize(("entrypoint", "stays"), [("../x/flows/release.py:release", False), ("theirs.py:release", True)])
def test_what_an_earlier_version_deployed_under_another_name_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entrypoint: str, stays: bool
) -> None:
    home = tmp_path / "home"
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    settings = Settings(home=home, serve={"prefect_port": free_port()})  # type: ignore[arg-type]
    with server(settings) as url:
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        from flows.runner import remove_former

        served = Served(url, home, None)  # type: ignore[arg-type]
        with served.client() as client:
            flow = client.post("/flows/", json={"name": "release"}).json()["id"]
            client.post("/deployments/", json={"name": "release", "flow_id": flow, "entrypoint": entrypoint}).raise_for_status()
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: prefect_secret(home)}):
            for _ in range(2):
                remove_former()
        with served.client() as client:
            assert [one["name"] for one in client.post("/deployments/filter", json={}).json()] == ["release"] * stays


def test_a_port_that_somebody_else_answers_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        settings = Settings(home=tmp_path, serve={"prefect_port": stranger.getsockname()[1]})  # type: ignore[arg-type]
        with pytest.raises(EndpointError, match="something answers already"), server(settings):
            pass
