"""Who may be who on the dashboard, and what each may do: pages by server-side checks, names from sessions only."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from alignment.acting import Identity, account
from alignment.config import load_settings
from alignment.errors import AlignError, ConfigError, NotAllowed
from alignment.store import audit, query
from alignment.store.sign_in import LIFE, issue_token, redeem_token
from dashboard import identity, server, sessions
from dashboard.identity import actor, current, role_of
from flows import cli
from tests.conftest import NOW
from tests.dashboard_pages import APP, opened, press, texts
from tests.test_dashboard import waiting

REAL = current


def test_a_token_opens_one_session_within_the_hour(home: Path) -> None:
    token = issue_token(home, "ada", now=NOW)
    assert redeem_token(home, token + "x", now=NOW) is None
    assert redeem_token(home, token, now=NOW) == "ada"
    assert redeem_token(home, token, now=NOW) is None
    late = issue_token(home, "ada", now=NOW)
    assert redeem_token(home, late, now=NOW + LIFE) is None
    assert not list((home / "sign_in").iterdir())


def test_the_folder_does_not_hold_what_signs_in(home: Path) -> None:
    token = issue_token(home, "ada", now=NOW)
    [path] = (home / "sign_in").iterdir()
    assert token not in path.read_text() + path.name
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("token", ["", "../../etc/passwd", "\x00", "a" * 10**5, "é\ud800"])
def test_no_token_that_was_not_given_out_opens_anything(home: Path, token: str) -> None:
    issue_token(home, "ada", now=NOW)
    assert redeem_token(home, token, now=NOW) is None
    assert len(list((home / "sign_in").iterdir())) == 1


def test_a_session_ends_by_itself_and_by_hand() -> None:
    cookie = sessions.begin("ada", "token")
    assert (held := sessions.find(cookie)) is not None and held.name == "ada"
    sessions.end(cookie)
    assert sessions.find(cookie) is None
    assert sessions.find(sessions.begin("ada", "token", seconds=0)) is None
    assert sessions.find(None) is None and sessions.find("x") is None


@pytest.mark.parametrize(
    ("lists", "name", "by_token", "role"),
    [
        ({}, account(), True, "approver"),
        ({}, account(), False, None),  # an identity provider that calls somebody as this account does
        ({}, "ada@example.com", True, "viewer"),
        ({}, "ada@example.com", False, None),
        ({"approvers": ["ada@example.com"]}, account(), True, "viewer"),
        ({"approvers": ["ada@example.com"]}, "Ada@Example.com", False, "approver"),
        ({"reviewers": ["*@example.com"]}, "ada@example.com", False, "reviewer"),
        ({"reviewers": ["*@example.com"]}, "ada@evil.example@example.com", False, None),
        ({"reviewers": ["*@example.com"]}, "ada@notexample.com", False, None),
        ({"viewers": ["*"]}, "ada@example.com", False, None),
        ({"viewers": ["ada"], "approvers": ["ada"]}, "ada", False, "approver"),
        ({"reviewers": ["*@strasse.de", "eve@strasse.de"]}, "eve@straße.de", False, None),
        ({"reviewers": ["*@straße.de"]}, "eve@strasse.de", False, None),
        ({"reviewers": ["kim@example.com"]}, "\u212aim@example.com", False, None),  # the sign of Kelvin
        ({"reviewers": ["*@example.com"]}, "\u212aim@example.com", False, None),
        ({"reviewers": ["kim"]}, "\u212aim", False, None),
        ({"reviewers": ["Jürgen"]}, "Jürgen", False, "reviewer"),
    ],
)
def test_what_a_name_may_do(lists: dict[str, Any], name: str, by_token: bool, role: str | None) -> None:
    assert role_of(load_settings(dashboard=lists), name, by_token=by_token) == role


def signed_in(monkeypatch: pytest.MonkeyPatch, role: str | None) -> None:
    who = Identity("Vera", "oidc", role) if role else None  # type: ignore[arg-type]
    monkeypatch.setattr(identity, "current", lambda: who)


def test_without_a_session_a_page_shows_nothing_of_the_store(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "current", REAL)
    app = AppTest.from_file(APP, default_timeout=30).run()
    assert not app.exception
    assert [element.value for element in app.subheader] == ["This cannot be shown"]
    assert any("nobody is signed in" in text for text in texts(app))
    assert not app.header and not app.dataframe
    with pytest.raises(NotAllowed):
        actor()


@pytest.mark.parametrize("role", [None, "viewer"])
def test_a_button_pressed_by_who_may_not_does_nothing(own: Path, monkeypatch: pytest.MonkeyPatch, role: str | None) -> None:
    app = opened("review")
    signed_in(monkeypatch, role)  # since the page was drawn
    press(app, "Both bad")
    assert query(own, "SELECT * FROM verdicts") == []
    waiting(own)
    signed_in(monkeypatch, "approver")
    app = opened("gate")
    app.text_input(key="approval_reason").set_value("fine").run()
    signed_in(monkeypatch, role and "reviewer")
    press(app, "Approve and release")
    assert query(own, "SELECT * FROM gate_verdicts") == []


def test_who_may_only_look_sees_no_way_to_decide(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(own)
    signed_in(monkeypatch, "viewer")
    assert all(button.disabled for button in opened("review").button if button.label in ("Left", "Right", "Both bad", "Edit"))
    assert not [button for button in opened("gate").button if button.label in ("Approve and release", "Refuse")]


def test_a_person_at_the_terminal_gets_one_link_and_a_log_gets_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(home=home)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: False))
    assert "token=" not in server.welcome(settings, 8501, None)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    said = server.welcome(settings, 8501, None)
    [link] = re.findall(r"http\S+", said)
    assert link.startswith("http://127.0.0.1:8501/?token=")
    assert redeem_token(home, link.split("token=")[1], now=datetime.now(UTC).replace(tzinfo=None)) == account()
    [row] = audit.read(home)
    assert (row["action"], row["actor"], row["how"], row["details"]) == ("link_issued", account(), "account", {"for": account()})
    (home / "audit" / "key").unlink()
    said = server.welcome(settings, 8501, None)
    assert "token=" not in said and "audit log's key" in said


def test_a_port_that_is_taken_is_told_with_what_to_do(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(AlignError, match=r"--link.*--port"):
            server._refuse_a_taken_port("127.0.0.1", other.getsockname()[1])


def test_the_command_prints_a_link_for_a_name_and_records_that(home: Path) -> None:
    done = CliRunner().invoke(cli.app, ["dashboard", "--link", "--for", "ada@example.com", "--port", "9000"])
    assert done.exit_code == 0 and done.stdout.startswith("http://127.0.0.1:9000/?token=")
    token = done.stdout.strip().split("token=")[1]
    assert redeem_token(home, token, now=datetime.now(UTC).replace(tzinfo=None)) == "ada@example.com"
    [row] = audit.read(home)
    assert (row["action"], row["actor"], row["how"], row["details"]) == ("link_issued", account(), "account", {"for": "ada@example.com"})
    for words in (["--for", "ada"], ["--link", "--for", " "], ["--link", "--for", "a\nb"]):
        assert CliRunner().invoke(cli.app, ["dashboard", *words]).exit_code == 2


def test_only_our_own_names_are_allowed_unless_others_are_set(home: Path) -> None:
    own = {"127.0.0.1", "localhost", "[::1]"}
    assert server.allowed_hosts(load_settings(home=home)) == own
    assert server.allowed_hosts(load_settings(home=home, dashboard={"address": "0.0.0.0"})) == own
    more = {"address": "10.0.0.7", "hosts": ["Align.example.com"]}
    assert server.allowed_hosts(load_settings(home=home, dashboard=more)) == own | {"10.0.0.7", "align.example.com"}
    for host in ("*", "*.example.com", "http://x", "x:8501", "x/y", ""):
        with pytest.raises(ConfigError):
            load_settings(home=home, dashboard={"hosts": [host]})


def test_help_keeps_what_stands_in_brackets() -> None:
    shown = " ".join(CliRunner().invoke(cli.app, ["dashboard", "--help"]).stdout.split())
    assert "[serve] dashboard_port" in shown and "[dashboard] in align.toml" in shown


def test_a_token_made_for_a_name_that_is_too_old_is_removed(home: Path) -> None:
    issue_token(home, "old", now=datetime(2020, 1, 1))
    issue_token(home, "new", now=NOW + timedelta(days=1))
    assert len(list((home / "sign_in").iterdir())) == 1
