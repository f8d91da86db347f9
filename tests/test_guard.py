"""The guard in front of the dashboard: with real HTTP and websocket clients, what another page, another name or nobody asks is refused."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from alignment.acting import account
from alignment.store import audit
from alignment.store.sign_in import issue_token
from dashboard.guard import Guard, refused
from tests.dashboard_server import Served, served

HOSTS = frozenset(("127.0.0.1", "localhost", "[::1]"))
PATHS = (
    "/", "/review", "/?token=", "/_stcore/health", "/_stcore/stream", "/_stcore/host-config", "/_stcore/metrics", "/_stcore/agent",
    "/media/0.html", "/component/x/index.html", "/static/js/index.js", "/favicon.png", "/_stcore/upload_file/a/b", "/app/static/x",
    "/auth/login", "/oauth2callback?code=a&state=b", "//", "/%2e%2e/etc/passwd", "/_stcore/script-health-check",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("guarded") / "home"
    shutil.copytree(filled, home)
    with served(home) as running:
        yield running


def ask(server: Served, path: str = "/", *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """Ask once, following nothing; a header's name is written with underscores."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"host": f"127.0.0.1:{server.port}", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("content-length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode(errors="replace")
    finally:
        connection.close()


def enter(server: Served) -> str:
    status, headers, _ = ask(server, server.link().removeprefix(server.address))
    assert status == 303
    return headers["set-cookie"].split(";")[0]


def open_websocket(server: Served, **headers: str) -> int:
    """Return with what status a websocket is answered; 101 is open."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    origin = given.pop("origin", f"http://127.0.0.1:{server.port}")
    host = given.pop("host", f"127.0.0.1:{server.port}")
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    try:
        with connect(
            f"ws://{host}/_stcore/stream", sock=plain, origin=origin or None, additional_headers=given, subprotocols=["streamlit"]
        ):  # type: ignore[arg-type,list-item]
            return 101
    except InvalidStatus as error:
        return error.response.status_code
    finally:
        plain.close()


@pytest.mark.parametrize("path", PATHS)
def test_nobody_gets_nothing_on_no_path(server: Served, path: str) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE"):
        status, headers, body = ask(server, path, method=method, origin=server.address)
        assert status == 401, (method, path)
        assert "frame-ancestors 'none'" in headers["content-security-policy"] and headers["x-frame-options"] == "DENY"
        assert "streamlit" not in body.lower()


def test_a_link_signs_in_once_leaves_the_address_and_is_in_no_log(server: Served) -> None:
    path = server.link().removeprefix(server.address)
    token = path.split("=")[1]
    assert ask(server, path, method="HEAD")[0] == 401  # looks only
    assert ask(server, path, sec_purpose="prefetch;prerender")[0] == 401
    status, headers, _ = ask(server, f"{path}&item=7")
    assert (status, headers["location"]) == (303, "/?item=7")
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=lax" in headers["set-cookie"]
    cookie = headers["set-cookie"].split(";")[0]
    status, headers, body = ask(server, "/", cookie=cookie)
    assert (status, headers["content-security-policy"], headers["x-frame-options"]) == (200, "frame-ancestors 'none'", "DENY")
    assert "streamlit" in body.lower()
    assert ask(server, "/_stcore/health", cookie=cookie)[0] == 200
    # Once only, and who is in already is led on.
    status, _, body = ask(server, path)
    assert status == 401 and "does not work any more" in body
    assert ask(server, path, cookie=cookie)[1]["location"] == "/"
    assert token not in server.said.read_text()
    assert token.encode() not in b"".join(file.read_bytes() for file in (server.home / "audit").iterdir())
    acts = [(row["action"], row["how"]) for row in audit.read(server.home)]
    assert ("sign_in", "token") in acts and ("sign_in_refused", "token") in acts
    assert audit.verify(server.home).problem is None


def test_a_link_leads_nowhere_else(server: Served) -> None:
    for path in ("//evil.example/", "/\\evil.example", "/%5Cevil.example"):
        link = server.link(path=path).removeprefix(server.address)
        status, headers, _ = ask(server, link)
        assert status == 303 and headers["location"].startswith("/") and headers["location"][1:2] not in ("/", "\\")


FOREIGN: dict[str, dict[str, str]] = {
    "another name": {"host": "evil.example:{port}"},
    "another name without port": {"host": "evil.example"},
    "a name that ends as ours": {"host": "evil-127.0.0.1:{port}"},
    "a name that begins as ours": {"host": "127.0.0.1.evil.example:{port}"},
    "a name with a user": {"host": "127.0.0.1@evil.example:{port}"},
    "a name in the port": {"host": "127.0.0.1:{port}@evil.example"},
    "no name": {"host": ""},
    "a rebound page": {"host": "evil.example:{port}", "origin": "http://evil.example:{port}"},
    "another origin": {"origin": "http://evil.example"},
    "another port": {"origin": "http://127.0.0.1:1"},
    "another scheme": {"origin": "file://127.0.0.1:{port}"},
    "an origin without a name": {"origin": "null"},
    "the other of our names": {"origin": "http://localhost:{port}"},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_another_page_or_name_is_refused_with_a_session_as_without(server: Served, what: str) -> None:
    headers = {name: value.format(port=server.port) for name, value in FOREIGN[what].items()}
    cookie = enter(server)
    for path in ("/", "/_stcore/health", "/_stcore/stream", "/media/x"):
        assert ask(server, path, **headers)[0] in (400, 403)
        assert ask(server, path, cookie=cookie, **headers)[0] in (400, 403)
    if "@" not in (host := headers.get("host", "x")) and host:  # the client would not send these
        assert open_websocket(server, cookie=cookie, **headers) == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
        {"sec_fetch_site": "same-origin", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"},
    ],
)
def test_what_another_page_embeds_or_frames_is_refused(server: Served, headers: dict[str, str]) -> None:
    assert ask(server, "/", cookie=enter(server), **headers)[0] == 403


def test_a_websocket_needs_a_session_and_says_whose_page_opens_it(server: Served) -> None:
    assert open_websocket(server) == 401
    assert open_websocket(server, cookie=f"align_session_{server.port}=guessed") == 401
    cookie = enter(server)
    assert open_websocket(server, cookie=cookie, origin="") == 403
    assert open_websocket(server, cookie=cookie) == 101


def test_a_session_that_is_ended_reads_nothing_more(server: Served) -> None:
    cookie = enter(server)
    status, headers, body = ask(server, "/sign-out", cookie=cookie)
    assert status == 401 and "signed out" in body and "Max-Age=0" in headers["set-cookie"]
    assert ask(server, "/", cookie=cookie)[0] == 401
    assert open_websocket(server, cookie=cookie) == 401


def test_guessing_fills_no_log(server: Served) -> None:
    before = len(audit.read(server.home))
    for number in range(30):
        assert ask(server, f"/?token=guess{number}")[0] == 401
    assert len(audit.read(server.home)) - before <= 10


def scope(kind: str = "http", method: str = "GET", **headers: str) -> dict[str, Any]:
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": kind, "method": method, "headers": listed, "path": "/", "query_string": b""}


@pytest.mark.parametrize(
    ("host", "origin", "passes"),
    [
        ("127.0.0.1:8501", "http://127.0.0.1:8501", True),
        ("LOCALHOST:8501", "http://localhost:8501", True),
        ("localhost.:8501", "", True),
        ("[::1]:8501", "http://[::1]:8501", True),
        ("localhost", "https://localhost", True),  # behind a proxy that ends TLS
        ("localhost:8501", "https://localhost", False),
        ("localhost:443", "https://localhost", True),
        ("[::1", "", False),
        ("localhost:8501/x", "", False),
        ("localhost:port", "", False),
        ("localhost,evil.example", "", False),
        ("0.0.0.0:8501", "", False),
        ("127.0.0.2:8501", "", False),
        ("2130706433:8501", "", False),
        ("127.0.0.1:8501", "http://127.0.0.1:8501.evil.example", False),
        ("127.0.0.1:8501", "http://127.0.0.1:8501@evil.example", False),
        ("127.0.0.1:8501", "http://127.0.0.1:8501/path", False),
        ("127.0.0.1:8501", "127.0.0.1:8501", False),
        ("127.0.0.1:8501", "chrome-extension://127.0.0.1:8501", False),
    ],
)
def test_which_names_and_origins_pass(host: str, origin: str, passes: bool) -> None:
    given = scope(host=host, **({"origin": origin} if origin else {}))
    assert (refused(given, Headers(scope=given), HOSTS) is None) == passes


def test_two_hosts_or_origins_are_none() -> None:
    for name in (b"host", b"origin"):
        given = scope(host="localhost", origin="http://localhost")
        given["headers"].append((name, b"localhost" if name == b"host" else b"http://localhost"))
        assert refused(given, Headers(scope=given), HOSTS)


def test_a_kind_of_request_that_is_not_known_reaches_nobody(home: Path) -> None:
    reached = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    async def nothing(*_: Any) -> Any:
        return {}

    guard = Guard(app, home=home, hosts=HOSTS, port=lambda: 1, oidc=None)
    asyncio.run(guard({"type": "webtransport", "headers": []}, nothing, nothing))
    assert not reached


def test_settings_that_are_wrong_are_told_and_do_not_use_up_a_link(home: Path, tmp_path: Path) -> None:
    async def nobody(*_: Any) -> None:
        raise AssertionError

    guard = Guard(nobody, home=home, hosts=HOSTS, port=lambda: 8501, oidc=None)
    token = issue_token(home, account(), now=datetime.now(UTC).replace(tzinfo=None))

    def enter_with_it() -> int:
        answer = asyncio.run(guard._answer({**scope(host="localhost:8501"), "query_string": f"token={token}".encode()}))
        assert answer is not None
        return answer.status_code

    (tmp_path / "align.toml").write_text("[dashboard\n")
    assert enter_with_it() == 503
    (tmp_path / "align.toml").write_text("[dashboard]\n")
    assert (enter_with_it(), enter_with_it()) == (303, 401)


def test_the_page_says_how_to_get_in_and_runs_no_script(server: Served) -> None:
    _, headers, body = ask(server, "/")
    assert "align dashboard --link" in body and "<script" not in body
    assert headers["content-security-policy"].startswith("default-src 'none'")
