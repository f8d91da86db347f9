"""Signing in with an identity provider, one that runs here: who it says is let in is let in as that, and nobody else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from alignment.errors import ConfigError
from alignment.store import audit
from dashboard import oidc
from tests.dashboard_server import Served, served

SECRET = "s" * 40


class Provider(ThreadingHTTPServer):
    """An OpenID provider that says of everybody that they are `claims`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.key = RSAKey.generate_key(2048, {"kid": "k", "use": "sig", "alg": "RS256"})
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.claims: dict[str, Any] = {}
        self.nonces: dict[str, str] = {}


class _Answers(BaseHTTPRequestHandler):
    server: Provider

    def _json(self, value: Any) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def do_GET(self) -> None:
        parts, provider = urlsplit(self.path), self.server
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/.well-known/openid-configuration":
            names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
            urls = {name: f"{provider.url}/{path}" for name, path in names.items()}
            self._json({"issuer": provider.url, "id_token_signing_alg_values_supported": ["RS256"], **urls})
        elif parts.path == "/jwks":
            self._json({"keys": [provider.key.as_dict(private=False)]})
        else:
            code = f"code-{len(provider.nonces)}"
            provider.nonces[code] = query.get("nonce", "")
            self.send_response(302)
            self.send_header("location", f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}")
            self.end_headers()

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        now = int(time.time())
        claims = {"iss": self.server.url, "aud": "align", "sub": "7", "iat": now, "exp": now + 300}
        claims |= {"nonce": self.server.nonces[form["code"][0]], **self.server.claims}
        token = jwt.encode({"alg": "RS256", "kid": "k"}, claims, self.server.key)
        self._json({"access_token": "a", "token_type": "Bearer", "id_token": token, "expires_in": 300})

    def log_message(self, *_: object) -> None: ...


@contextmanager
def provided() -> Iterator[Provider]:
    provider = Provider()
    thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        provider.shutdown()
        thread.join()
        provider.server_close()


def secrets(provider: str, **changes: str) -> str:
    values = {
        "redirect_uri": "http://127.0.0.1:{port}/oauth2callback",
        "cookie_secret": SECRET,
        "client_id": "align",
        "client_secret": "not-a-secret",
        "server_metadata_url": f"{provider}/.well-known/openid-configuration",
        **changes,
    }
    return "[auth]\n" + "".join(f'{name} = "{value}"\n' for name, value in values.items() if value)


@pytest.fixture(scope="module")
def running(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Provider]]:
    home = tmp_path_factory.mktemp("oidc") / "home"
    home.mkdir()
    with provided() as provider:
        (home / "secrets.toml").write_text(secrets(provider.url))
        with served(home, ALIGN_DASHBOARD__REVIEWERS='["ada@example.com"]') as server:
            yield server, provider


@contextmanager
def sign_in(server: Served, provider: Provider, **claims: Any) -> Iterator[tuple[httpx.Client, httpx.Response]]:
    provider.claims = claims
    with httpx.Client(follow_redirects=True, timeout=60) as client:
        yield client, client.get(f"{server.address}/sign-in")


def test_the_page_offers_the_provider_and_no_link(running: tuple[Served, Provider]) -> None:
    server, _ = running
    page = httpx.get(server.address)
    assert page.status_code == 401
    assert 'href="/sign-in?with=default"' in page.text and "--link" not in page.text
    assert httpx.get(server.link()).status_code == 401  # a link opens nothing here
    assert "token" not in server.said.read_text().lower()


def test_who_the_provider_vouches_for_is_in_under_that_name(running: tuple[Served, Provider]) -> None:
    server, provider = running
    with sign_in(server, provider, email="ada@example.com", email_verified=True) as (client, page):
        assert page.status_code == 200 and "streamlit" in page.text.lower()
        assert client.get(f"{server.address}/_stcore/health").status_code == 200
        row = [row for row in audit.read(server.home) if row["action"] == "sign_in"][-1]
        assert (row["actor"], row["how"], row["role"]) == ("ada@example.com", "oidc", "reviewer")
        client.get(f"{server.address}/sign-out")
        assert client.get(server.address).status_code == 401


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"email": "eve@example.com", "email_verified": True}, 403),  # on no list
        ({"email": "ada@example.com", "email_verified": False}, 401),
        ({"email": "ada@example.com"}, 401),
        ({"email_verified": True}, 401),
        ({"email": "ada@example.com", "email_verified": True, "aud": "another"}, 401),
        ({"email": "ada@example.com", "email_verified": True, "nonce": "replayed"}, 401),
        ({"email": "ada@example.com", "email_verified": True, "iss": "http://evil.example"}, 401),
    ],
)
def test_whom_it_does_not_vouch_for_gets_nothing(running: tuple[Served, Provider], claims: dict[str, Any], status: int) -> None:
    server, provider = running
    with sign_in(server, provider, **claims) as (client, page):
        assert page.status_code == status
        assert client.get(f"{server.address}/_stcore/health").status_code in (401, 403)


def test_a_cookie_that_was_signed_by_another_or_long_ago_opens_nothing(running: tuple[Served, Provider]) -> None:
    from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

    server, _ = running
    claims = {"email": "ada@example.com", "email_verified": True, "is_logged_in": True, "origin": server.address, "iat": time.time()}

    def asked(secret: str, **changes: Any) -> int:
        value = create_signed_value(secret, "_streamlit_user", json.dumps({**claims, **changes})).decode()
        return httpx.get(server.address, headers={"cookie": f"_streamlit_user={value}"}).status_code

    assert asked(SECRET) == 303
    assert asked("x" * 40) == 401
    assert asked(SECRET, iat=time.time() - 13 * 3600) == 401
    assert asked(SECRET, iat=time.time() + 3600) == 401
    assert asked(SECRET, origin="http://evil.example") == 401
    assert asked(SECRET, is_logged_in=False) == 401
    assert asked(SECRET, email_verified="no") == 401


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"client_secret": ""}, "client_secret"),
        ({"cookie_secret": ""}, "cookie_secret"),
        ({"cookie_secret": "short"}, "shorter than 32"),
        ({"redirect_uri": ""}, "redirect_uri"),
        ({"redirect_uri": "http://127.0.0.1/elsewhere"}, "oauth2callback"),
        ({"client_id": ""}, "client_id"),
    ],
)
def test_a_section_that_is_incomplete_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], said: str
) -> None:
    from streamlit import config
    from streamlit.runtime.secrets import secrets_singleton

    path = tmp_path / "secrets.toml"
    path.write_text(secrets("http://127.0.0.1:1", **changes))
    before = config.get_option("secrets.files")
    config.set_option("secrets.files", [str(path)])
    monkeypatch.setattr(secrets_singleton, "_secrets", None)
    try:
        with pytest.raises(ConfigError, match=said):
            oidc.configured()
    finally:
        config.set_option("secrets.files", before)
        monkeypatch.setattr(secrets_singleton, "_secrets", None)
