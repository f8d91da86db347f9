"""The lock before Prefect: the secret's file, who is shown it, whose requests are answered, and what a deployment's digest holds."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignment.config import Settings
from alignment.errors import ConfigError
from flows import environment
from flows.prefect_server import OwnAddressOnly, _kept_from_other_pages, own_origins
from flows.secret import CLIENT, SERVER, prefect_secret, running_server, secret_path, without_own_secret, without_secret
from tests.conftest import child_environment

pytestmark = pytest.mark.fast


def test_a_secret_is_made_once_and_for_its_owner_only(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: prefect_secret(home), range(32)))
    assert len(made) == 1
    assert secret_path(home).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in home.iterdir()) == ["prefect.secret"]


@pytest.mark.parametrize("spoil", ["readable", "link", "folder", "empty", "pipe", "short"])
def test_a_secret_that_others_may_know_is_refused(home: Path, spoil: str) -> None:
    prefect_secret(home)
    path = secret_path(home)
    if spoil == "readable":
        path.chmod(0o640)
    else:
        path.rename(home / "elsewhere")
        {
            "link": lambda: path.symlink_to(home / "elsewhere"),
            "folder": path.mkdir,
            "empty": lambda: path.touch(0o600),
            "pipe": lambda: os.mkfifo(path, 0o600),
            "short": lambda: (path.write_text("align:x"), path.chmod(0o600)),
        }[spoil]()
    with pytest.raises(ConfigError, match=r"remove '.*prefect.secret', and start again"):
        prefect_secret(home)


def test_a_configured_server_is_not_shown_our_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.setattr(os, "environ", {"PREFECT_API_URL": "https://prefect.example.com/api", CLIENT: "user:theirs"})
    environment.prepare(home)
    assert os.environ[CLIENT] == "user:theirs"
    assert SERVER not in os.environ
    monkeypatch.setattr(os, "environ", {CLIENT: "user:theirs"})
    environment.prepare(home)
    assert os.environ[CLIENT] == os.environ[SERVER] == prefect_secret(home)
    assert os.environ["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1"),
        ({"NO_PROXY": "a.example, b.example"}, "a.example,b.example,127.0.0.1"),
        ({"no_proxy": "127.0.0.1,c.example"}, "127.0.0.1,c.example"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_our_own_server_is_asked_past_proxies(home: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: str) -> None:
    monkeypatch.setattr(os, "environ", dict(before))
    environment.prepare(home)
    assert os.environ["no_proxy"] == after


def test_an_address_is_our_server_s_only_while_it_runs(home: Path) -> None:
    """Another process on its port would be shown the secret by the next command that has something to say."""
    from flows.serve import _only_server

    assert running_server(home) is None
    with _only_server(home) as lock:
        os.pwrite(lock, b"http://127.0.0.1:4200/api", 0)
        assert running_server(home) == "http://127.0.0.1:4200/api"
    assert running_server(home) is None


def test_a_port_taken_in_the_last_moment_is_nobody_s_to_learn_the_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.errors import EndpointError
    from flows import serve

    monkeypatch.setattr(serve, "_refuse_a_stranger", lambda _: None)
    monkeypatch.setattr(serve.http, "ask", lambda *_, **__: pytest.fail("whoever answers there is asked"))
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        settings = Settings(home=home, serve={"prefect_port": stranger.getsockname()[1]})  # type: ignore[arg-type]
        with pytest.raises(EndpointError, match="did not become ready"), serve.server(settings):
            pass
    assert CLIENT not in os.environ


def test_training_is_not_given_the_secret(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import train

    monkeypatch.setenv(CLIENT, "align:secret")
    monkeypatch.setenv(SERVER, "align:secret")
    script = (
        f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(v for n, v in os.environ.items() if n.startswith('PREFECT')))"
    )
    monkeypatch.setattr(train, "command", lambda _: [sys.executable, "-c", script])
    train._run(SimpleNamespace(folder=home))  # type: ignore[arg-type]
    assert "secret" not in (tmp_path / "seen").read_text()
    assert without_secret({CLIENT: "a", SERVER: "b", "PATH": "c"}) == {"PATH": "c"}


def test_the_dashboard_keeps_the_key_of_a_server_that_the_user_named_but_not_our_secret(home: Path) -> None:
    theirs = {"PREFECT_API_URL": "https://prefect.example.com/api", CLIENT: "user:theirs"}
    assert without_own_secret(theirs, home) == theirs
    assert not secret_path(home).exists()
    own = prefect_secret(home)
    assert without_own_secret(theirs, home) == theirs
    assert without_own_secret({CLIENT: own, SERVER: own, "PATH": "c"}, home) == {"PATH": "c"}


def ask(kind: str = "http", host: str | None = "127.0.0.1:4200", *more: tuple[bytes, bytes]) -> tuple[int, list[Any]]:
    """Return the status that a guarded server answers with, and its headers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"access-control-allow-origin", b"*")]})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    headers = [*([(b"host", host.encode())] if host else []), *more]
    guarded = OwnAddressOnly(_kept_from_other_pages(app), own_origins(4200, "https://prefect.example.com"))
    asyncio.run(guarded({"type": kind, "headers": headers}, receive, send))
    return sent[0].get("status", sent[0].get("code")), sent[0].get("headers", [])


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "LOCALHOST:4200", "prefect.example.com"])
def test_own_addresses_are_answered(host: str) -> None:
    assert ask("http", host) == (200, [(b"content-security-policy", b"frame-ancestors 'none'")])
    assert ask("http", host, (b"origin", b"http://localhost:4200"))[0] == 200


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "evil.example:4200", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:4200.evil.example", "127.0.0.1:4200 "]
)
def test_a_rebound_name_is_refused(host: str | None) -> None:
    assert ask("http", host)[0] == 403
    assert ask("websocket", host)[0] == 1008


@pytest.mark.parametrize("origin", [b"http://evil.example", b"null", b"", b"http://127.0.0.1:4201", b"https://127.0.0.1:4200", b"*"])
def test_another_site_s_page_is_refused(origin: bytes) -> None:
    assert ask("http", "127.0.0.1:4200", (b"origin", origin))[0] == 403
    assert ask("websocket", "127.0.0.1:4200", (b"origin", origin))[0] == 1008


def test_two_hosts_are_refused() -> None:
    assert ask("http", "127.0.0.1:4200", (b"host", b"evil.example"))[0] == 403


def test_a_server_without_a_secret_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.prefect_server", "--parent", str(os.getpid())],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "PREFECT_SERVER_API_AUTH_STRING is not set" in done.stderr
    assert done.stdout == ""


def deployment(**changes: Any) -> Any:
    values = {"entrypoint": "flows/nightly.py:nightly", "path": ".", "pull_steps": None, "parameters": {}, "tags": [], "job_variables": {}}
    return SimpleNamespace(model_dump=lambda **_: values | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "id"}}]},
        {"entrypoint": "/tmp/evil.py:nightly"},
        {"path": "/tmp"},
        {"job_variables": {"command": "id"}},
        {"parameters": {"logs": ["/etc/passwd"]}},
        {"work_pool_name": "mine"},
        {"storage_document_id": "1"},
        {"enforce_parameter_schema": True},
    ],
)
def test_a_change_of_what_runs_changes_the_digest(change: dict[str, Any]) -> None:
    from flows.runner import digest

    assert digest(deployment(**change)) != digest(deployment())


def test_what_people_may_change_does_not() -> None:
    from flows.runner import digest

    assert digest(deployment(tags=["a"], paused=True, schedules=[1], pull_steps=[])) == digest(deployment())


def test_a_run_of_a_deployment_that_is_not_ours_is_refused(home: Path) -> None:
    from flows.runner import OwnFlowsRunner

    runner = OwnFlowsRunner()
    for identity in (None, "00000000-0000-0000-0000-000000000000"):
        with pytest.raises(ConfigError, match="no deployment of this 'align serve'"):
            asyncio.run(runner.refuse_changed(identity))  # type: ignore[arg-type]
