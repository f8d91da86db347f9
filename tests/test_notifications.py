"""People are told how a night ended: once, shortly, without anybody's words, and never at the night's expense."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment.config import Settings, load_settings
from alignment.errors import AlignError, ConfigError, NoSpace
from alignment.store import append, migrate, session
from flows.cli import app
from flows.doctor import _checks
from flows.notifications import Notification, check_receivers, message_of, send, tell, tell_end, tells_failure

SECRET = "s3cr3t-t0ken"
METRICS = [{"name": "unsafe_answers", "status": "fail"}, {"name": "capability", "status": "pass"}]
BLOCKED = {"night_id": "n1", "decision": "block", "state": "not released", "challenger": "c" * 16, "metrics": METRICS, "alarms": []}


class Receiver(ThreadingHTTPServer):
    """A webhook that keeps what it is sent, and answers with `status`, after `slow` seconds, without end, or with a redirect."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.status, self.slow, self.endless, self.location = 200, 0.0, False, ""

    def url(self, path: str = f"/hook/{SECRET}") -> str:
        return f"json://bot:{SECRET}@127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.server.seen.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        time.sleep(self.server.slow)
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        if not self.server.endless:
            self.send_header("Content-Length", "0")
        self.end_headers()
        with suppress(OSError):
            while self.server.endless:
                self.wfile.write(bytes(1 << 20))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def settings_for(monkeypatch: pytest.MonkeyPatch, *urls: str, timeout: float = 5, **more: str) -> Settings:
    monkeypatch.setenv("ALIGN_NOTIFY__URLS", json.dumps(urls))
    monkeypatch.setenv("ALIGN_NOTIFY__TIMEOUT", str(timeout))
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_a_blocked_night_is_one_short_message(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tell_end(settings_for(monkeypatch, receiver.url()), BLOCKED)
    [(path, sent)] = receiver.seen
    assert path == f"/hook/{SECRET}"
    assert sent["title"] == "align: blocked"
    assert sent["message"] == f"night: n1\nblocked: unsafe_answers: fail\nnext: align release show {'c' * 16}"
    assert capfd.readouterr() == ("", "")


APPROVE = "align gate --approve n1 --reason TEXT, or --refuse"
SHOW = f"align release show {'c' * 16}"


@pytest.mark.parametrize(
    ("changes", "events", "next_command"),
    [
        ({}, ("blocked",), SHOW),
        ({"decision": "insufficient evidence"}, ("insufficient evidence",), SHOW),
        ({"decision": "promote", "state": "released"}, ("promoted",), SHOW),
        (
            {"decision": "promote", "state": "waits for approval"},
            ("waits for approval",),
            APPROVE,
        ),
        ({"decision": "promote", "state": "not released"}, ("blocked",), SHOW),
        ({"decision": "nothing new", "state": "released"}, (), "align status"),
        ({"decision": "nothing new", "state": "released", "alarms": ["refusal"]}, ("drift alarm",), "align status"),
        ({"alarms": ["refusal"]}, ("blocked", "drift alarm"), SHOW),
    ],
)
def test_each_end_of_a_night_has_its_events_and_its_next_command(
    changes: dict[str, Any], events: tuple[str, ...], next_command: str
) -> None:
    told = message_of({**BLOCKED, **changes})
    assert (told.events, told.next) == (events, next_command)
    assert set(changes.get("alarms", [])) <= set(told.reasons)


def test_a_spent_budget_is_told_with_its_setting(receiver: Receiver, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(home)
    limit = {"verdict": "unscored", "detail": {"reason": "limit: [teacher] max_tokens_per_night = 9: 9 are spent or set aside"}}
    with session(home, write=True) as connection:
        append(connection, "votes", [{"id": "a", "night_id": "n1", **limit}, {"id": "b", "night_id": "n0", **limit}])
        append(connection, "author_outcomes", [{"id": "c", "night_id": "n1", "outcome": "limit"}])
    tell_end(settings_for(monkeypatch, receiver.url()), {**BLOCKED, "decision": "nothing new", "state": "released"})
    assert receiver.seen[0][1]["message"] == (
        "night: n1\nbudget spent: [candidates] author_budget or [teacher], [teacher] max_tokens_per_night\nnext: align status"
    )


def test_what_nobody_wants_to_know_and_a_night_without_news_are_not_told(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(monkeypatch, receiver.url(), ALIGN_NOTIFY__EVENTS='["failed"]')
    tell_end(settings, BLOCKED)
    tell_end(settings_for(monkeypatch, receiver.url(), ALIGN_NOTIFY__EVENTS='["blocked"]'), {**BLOCKED, "nothing_new": True})
    tell_end(settings_for(monkeypatch), BLOCKED)
    assert receiver.seen == []


def test_a_failure_is_told_by_its_kind_and_stage_and_stays_what_it_was(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(monkeypatch, receiver.url())
    with pytest.raises(NoSpace, match="words"), tells_failure(settings) as at:
        at["night"], at["stage"] = "n1", "train"
        raise NoSpace("words of a user")
    assert receiver.seen[0][1]["message"] == "night: n1\nfailed: NoSpace in train\nnext: align status, then align nightly to go on"
    with pytest.raises(KeyboardInterrupt), tells_failure(settings):
        raise KeyboardInterrupt  # who stops a night knows it
    assert len(receiver.seen) == 1


@pytest.mark.parametrize("fault", ["500", "hangs", "endless", "redirects", "refuses"])
def test_a_receiver_that_fails_costs_one_warning_and_its_deadline(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    url = receiver.url()
    receiver.status = {"500": 500, "redirects": 307}.get(fault, 200)
    receiver.slow, receiver.endless = (60.0 if fault == "hangs" else 0.0), fault == "endless"
    other = Receiver()
    receiver.location = f"http://127.0.0.1:{other.server_address[1]}/" if fault == "redirects" else ""
    if fault == "refuses":
        url = f"json://127.0.0.1:{other.server_address[1]}/{SECRET}"
        other.server_close()
    good = Receiver()
    thread = threading.Thread(target=good.serve_forever, args=(0.05,))
    thread.start()
    started = time.monotonic()
    try:
        tell(settings_for(monkeypatch, url, good.url(), timeout=4), Notification("n1", ("blocked",)))
    finally:
        good.shutdown()
        thread.join()
        good.server_close()
        other.server_close()
    # Starting Python and apprise takes some seconds of a busy machine.
    assert time.monotonic() - started < 4 + 30
    assert len(good.seen) == 1, "one receiver's fault is no other's"
    out, errors = capfd.readouterr()
    assert out == ""
    assert errors.strip() == "warning: blocked was not told to receiver 1 (json) of 2 in [notify] urls within 4 s; try 'align notify'"


def test_an_address_is_in_no_message_whatever_is_wrong_with_it(
    receiver: Receiver, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.status = 500
    run = CliRunner()
    said = []
    for urls in (
        json.dumps([receiver.url()]),
        json.dumps([f"unknown://{SECRET}"]),
        json.dumps([f"slack://{SECRET}"]),
        json.dumps([SECRET]),
        json.dumps({"a": SECRET}),
        json.dumps([receiver.url(), 5]),
        f'["json://{SECRET}',
    ):
        monkeypatch.setenv("ALIGN_NOTIFY__URLS", urls)
        done = run.invoke(app, ["notify"])
        assert done.exit_code == 1, urls
        said += [done.output, repr(done.exception)]
        try:
            settings = load_settings()
        except ConfigError as error:
            said.append(str(error))
            continue
        said += [repr(settings), str(settings.notify), json.dumps(settings.model_dump(mode="json"))]
        with suppress(AlignError):
            said.append(check_receivers(settings))
        tell(settings, Notification("n1", ("blocked",)))
    said += capfd.readouterr()
    assert SECRET not in "".join(said)
    for path in home.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_align_notify_sends_one_message(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_for(monkeypatch, receiver.url())
    done = CliRunner().invoke(app, ["notify", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == [{"receiver": 1, "scheme": "json", "ok": True}]
    assert receiver.seen[0][1]["title"] == "align: test"
    settings_for(monkeypatch)
    none = CliRunner().invoke(app, ["notify"])
    assert none.exit_code == 1
    assert "names nobody" in none.stderr


def test_doctor_says_who_is_notified_and_sends_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    look = dict(_checks(quick=True))["notify"]
    assert look(settings_for(monkeypatch)) == "nobody is notified; see [notify]"
    assert look(settings_for(monkeypatch, receiver.url(), "mailto://a:b@example.org")).startswith("json, mailto, of promoted")
    with pytest.raises(AlignError, match="does not know address 2 of 2"):
        look(settings_for(monkeypatch, receiver.url(), "unknown://x"))
    assert receiver.seen == []


def test_receivers_change_no_night(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    assert settings_for(monkeypatch, receiver.url()).fingerprint == settings_for(monkeypatch).fingerprint


def test_no_word_of_a_metric_name_can_forge_a_line() -> None:
    body = Notification("n1", ("blocked",), ("a\nnext: rm -rf /", *["x" * 500] * 50)).body
    assert len(body.splitlines()) == 3
    assert len(body) < 2500
    assert "and 31 more" in body


def test_two_receivers_are_told_at_the_same_time(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.slow = 1.5
    sent = send(
        settings_for(monkeypatch, *[receiver.url(f"/{number}") for number in range(4)], timeout=4), Notification("n1", ("blocked",))
    )
    assert [one.ok for one in sent] == [True] * 4
