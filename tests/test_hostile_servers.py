"""Other machines are hostile: whatever a webhook, vLLM or a teacher sends back costs a bounded time and size, and keeps no secret."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignment import http
from alignment.config import Settings
from alignment.errors import AlignError, EndpointError, ModelError, ReleaseError
from alignment.models.call_batch import _retry_after
from alignment.models.remote import RemoteModel
from alignment.models.server_requests import ServerRequests
from alignment.release.hooks import post_webhook, sync_vllm
from alignment.sections import Teacher
from alignment.store import TeacherCalls, migrate

KEY, SECONDS = "sk-very-secret-0123456789", 0.6
Act = Callable[[socket.socket, bytes], None]


@contextmanager
def serving(act: Act) -> Iterator[tuple[str, list[bytes]]]:
    """Serve 127.0.0.1: each connection's request is given to `act`; yield the address and the requests that came."""
    seen: list[bytes] = []
    done = threading.Event()

    def serve(one: socket.socket) -> None:
        with one, suppress(OSError):
            one.settimeout(2)
            request = one.recv(1 << 16)
            seen.append(request)
            act(one, request)

    def accept() -> None:
        while not done.is_set():
            with suppress(OSError):
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", seen
        done.set()
        thread.join(1)


def says(body: bytes, *, status: str = "200 OK", more: str = "") -> Act:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nContent-Type: application/json\r\n{more}Connection: close\r\n\r\n".encode()
    return lambda one, _: one.sendall(head + body)


def drips(start: bytes, drop: bytes = b"x", every: float = 0.1) -> Act:
    def act(one: socket.socket, _: bytes) -> None:
        one.sendall(start)
        for _ in range(40):
            one.sendall(drop)
            time.sleep(every)

    return act


def pours(start: bytes, part: bytes) -> Act:
    def act(one: socket.socket, _: bytes) -> None:
        one.sendall(start)
        for _ in range(64 << 20 >> 16):
            one.sendall(part)

    return act


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ENDLESS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ATTACKS: dict[str, Act] = {
    "a body that drips": drips(HEAD + b"Content-Length: 100000\r\n\r\n"),
    "a head that drips": drips(HEAD + b"X: ", b"y"),
    "headers that drip": drips(HEAD, b"A: b\r\n"),
    "a status that drips": drips(b"HTTP/1.1 2", b"0"),
    "informational answers without end": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n", every=0.01),
    "nothing": lambda _one, _: time.sleep(1),
    "a body without end": pours(ENDLESS, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "a head without end": pours(HEAD + b"X: ", b"y" * 65536),
    "headers without end": pours(HEAD, b"A: b\r\n" * 10922),
    "a bomb": says(gzip.compress(b"\0" * (32 << 20)), more="Content-Encoding: gzip\r\n"),
    "a bomb in a bomb": says(gzip.compress(gzip.compress(b"\0" * (32 << 20))), more="Content-Encoding: gzip, gzip\r\n"),
    "no HTTP": says(b""),
}
ATTACKS["no HTTP"] = lambda one, _: one.sendall(b"\x00\xff" * 100)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_webhook_cannot_hold_or_fill_us(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.models.server_requests.TRIES", 1)
    with serving(ATTACKS[attack]) as (url, _):
        started = time.monotonic()
        with pytest.raises(EndpointError, match="did not answer as it should"):
            post_webhook(url, {"id": "1"}, secret=KEY, line=ServerRequests(timeout=SECONDS, pause=0))
        assert time.monotonic() - started < 10 * SECONDS


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_teacher_cannot_hold_or_fill_us(attack: str, home: Path) -> None:
    with serving(ATTACKS[attack]) as (url, _):
        started = time.monotonic()
        with pytest.raises(ModelError):
            teacher(url, home).generate([[{"role": "user", "content": "a"}]], max_new_tokens=4)
        assert time.monotonic() - started < 20 * SECONDS


def teacher(url: str, home: Path) -> RemoteModel:
    migrate(home)
    settings = Teacher(base_url=f"{url}/v1", model="m", retries=0, timeout_seconds=1)
    return RemoteModel(settings, TeacherCalls(home), key=KEY)


def test_prefects_server_is_asked_past_proxies_and_followed_nowhere(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import approve, serve

    running: Any = SimpleNamespace(poll=lambda: None)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with serving(says(b"true")) as (url, asked), serving(says(b"", status="302 Found", more=f"Location: {url}/health\r\n")) as (moved, _):
        serve._wait(running, url, tmp_path / "log", seconds=5)
        with pytest.raises(EndpointError, match="did not become ready"):
            serve._wait(running, moved, tmp_path / "log", seconds=0.3)
        monkeypatch.setenv("PREFECT_API_URL", moved)
        assert approve.let_go(Settings(home=home)) == 0
        assert len(asked) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "/elsewhere", "gopher://127.0.0.1/"])
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_no_redirect_is_followed(target: str, status: str, home: Path) -> None:
    with serving(says(b"{}", status=status, more=f"Location: {target}\r\n")) as (url, seen):
        with pytest.raises(ReleaseError, match="redirects are not followed"):
            post_webhook(url, {"id": "1"}, secret=KEY, line=ServerRequests(timeout=2, pause=0))
        with pytest.raises(AlignError):
            teacher(url, home).generate([[{"role": "user", "content": "a"}]], max_new_tokens=4)
        assert len(seen) == 2


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://127.0.0.1/", "http://", "http://[::1", "http://127.0.0.1:99999/"])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(EndpointError) as told:
        post_webhook(url, {"id": "1"}, secret="", line=ServerRequests(timeout=1, pause=0))
    assert "passwd" not in str(told.value)


def echo(status: str) -> Act:
    """Send all of a request back, as some proxies and debug pages do."""

    def act(one: socket.socket, request: bytes) -> None:
        plain = request.decode("latin-1")
        body = json.dumps(
            {"error": {"message": f"{KEY} {plain}"}, "echo": plain, "packed": __import__("base64").b64encode(KEY.encode()).decode()}
        )
        says(body.encode(), status=status)(one, request)

    return act


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "429 Too Many Requests", "500 Oops", "200 OK"])
def test_a_secret_that_is_sent_back_is_not_told(status: str, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = "/services/T0/B0/secret-token"
    with serving(echo(status)) as (url, _):
        line = ServerRequests(timeout=2, pause=0, headers={"Authorization": f"Bearer {KEY}"}, secrets=[KEY, url + path, path])
        for call in (
            lambda: post_webhook(url + path, {"id": "1"}, secret=KEY, line=line),
            lambda: sync_vllm(url, {}, line=line),
            lambda: teacher(url, home).generate([[{"role": "user", "content": "a"}]], max_new_tokens=4),
        ):
            try:
                told: Any = call()
            except AlignError as error:
                told = error
            for secret in (KEY, "secret-token", "c2stdmVyeS1zZWNyZXQ"):
                assert secret not in f"{told} {caplog.text}"


def test_half_a_surrogate_pair_in_an_answer_is_replaced_and_the_store_stays_usable(home: Path) -> None:
    body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "half \ud83d"}}]})
    with serving(says(body.encode())) as (url, _):
        model = teacher(url, home)
        assert model.generate([[{"role": "user", "content": "a"}]], max_new_tokens=4, subjects=["x"]) == ["half \ufffd"]
    assert TeacherCalls(home).find([]) == {}


def test_a_secret_in_an_answer_is_not_kept(home: Path) -> None:
    whole = {"choices": [{"message": {"content": f"your key is {KEY}"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    with serving(says(json.dumps(whole).encode())) as (url, _):
        model = teacher(url, home)
        assert model.generate([[{"role": "user", "content": "a"}]], max_new_tokens=4, subjects=["x"]) == ["your key is ***"]
    held = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert KEY.encode() not in held


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"choices": ' + b'{"a":' * 100_000,
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": -5000000, "completion_tokens": 1}}',
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 1e400, "completion_tokens": 1}}',
        b'{"choices": [{"message": {"content": "a"}}], "usage": [1, 2]}',
        b'{"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": 1e6}]}]}}]}',
        b'{"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": NaN}]}]}}]}',
        b'{"choices": [{"message": "a"}]}',
        b'{"choices": "a"}',
        b'"a"',
        b"1" * 100_000,
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_none_is_no_crash_and_no_discount(body: bytes, home: Path) -> None:
    with serving(says(body)) as (url, _):
        model = teacher(url, home)
        [choice] = model.choose([[{"role": "user", "content": "a"}]], ["A", "B"])
        assert choice.probabilities is None or 0 <= min(choice.probabilities) <= max(choice.probabilities) <= 1
    from datetime import UTC, datetime, timedelta

    spent = TeacherCalls(home).spent(datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1))
    assert spent.tokens >= 0


def test_a_pause_that_is_no_number_is_none() -> None:
    assert [_retry_after({"retry-after": said}) for said in ("nan", "inf", "-1", "9e9", "x")] == [0.0, 0.0, 0.0, 60.0, 0.0]


def test_an_address_shows_no_token() -> None:
    assert http.address("https://a:b@h/x?token=1") == "https://h/…"
    assert http.address("http://127.0.0.1:1/") == "http://127.0.0.1:1"
