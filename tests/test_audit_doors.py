"""Whoever goes through a door, the command line, a flow or a page, leaves a row; and the command line knows who that is."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment import acting
from alignment.acting import Identity, account
from alignment.config import Settings
from alignment.errors import InputError
from alignment.lineage import record_export
from alignment.release import current, end_canary, promote, quarantine, rollback, start_canary
from alignment.release.approval import say
from alignment.release.pointer import current_canary
from alignment.store import audit, migrate, store_path
from alignment.store.sign_in import issue_token

# `hooks` too: imported in a test that puts `killed` in the place of `settle`, it would keep that.
from flows import cli, evaluate, hooks, ingest, rebuild  # noqa: F401
from flows.cli import base
from flows.cli import release as cli_release
from tests.conftest import NOW
from tests.test_approval import NIGHT, decided
from tests.test_erase import exchange, put, remove
from tests.test_registry import A, B, add, allow

pytestmark = pytest.mark.fast

WORDS: dict[str, Any] = {"actor": "ann", "reason": "because", "now": NOW}


def rows(home: Path) -> list[tuple[str, str, str, str]]:
    return [(row["action"], row["subject"], row["actor"], row["how"]) for row in audit.read(home)]


DOORS: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]]]] = {
    "promote": (lambda home: promote(home, A, **WORDS), [("promoted", A)]),
    "roll back": (lambda home: rollback(home, **WORDS), [("rolled_back", "base")]),
    "begin a canary": (lambda home: start_canary(home, B, share=0.1, **WORDS), [("canary_started", B)]),
    "end a canary": (lambda home: end_canary(home, **WORDS), [("canary_ended", B)]),
    "quarantine": (lambda home: quarantine(home, B, **WORDS), [("quarantined", B)]),
}


def test_each_change_of_what_is_served_leaves_a_row_under_whoever_is_acting(home: Path) -> None:
    add(home, A, B)
    allow(home, A, B)
    for how in ("oidc", "service"):
        for through, left in DOORS.values():
            if through is DOORS["quarantine"][0] and how == "oidc":
                continue  # for good
            before = len(rows(home))
            if how == "oidc":
                with acting.acting(Identity("ann", "oidc", "approver")):
                    through(home)
            else:
                through(home)
            assert rows(home)[before:] == [(action, subject, "ann", how) for action, subject in left]
    assert audit.verify(home).problem is None
    assert {row["reason"] for row in audit.read(home) if row["action"] != "overridden"} == {"because"}


def test_what_cannot_be_recorded_is_not_done(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(home, A, B)
    allow(home, A, B)
    promote(home, A, **WORDS)
    (home / "audit" / "key").unlink()
    doors: list[Callable[[], object]] = [
        lambda: promote(home, B, **WORDS),
        lambda: rollback(home, **WORDS),
        lambda: quarantine(home, A, **WORDS),
        lambda: start_canary(home, B, share=0.1, **WORDS),
    ]
    for through in doors:
        with pytest.raises(Exception, match="audit log's key"):
            through()
    assert current(home) == A
    assert current_canary(home) is None


class Killed(Exception):
    """Stands for a kill in the moment in which the effect would begin."""


def killed(*_: object, **__: object) -> Any:
    raise Killed


EFFECTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a link": ("secrets.token_urlsafe", lambda home: issue_token(home, "ada", now=NOW), "link_issued"),
    "a push": ("alignment.release.settle", lambda _: cli_release.release_push(), "pushed"),
    "logs let in": ("flows.ingest._read_sources", lambda _: ingest.ingest.fn(["x.jsonl"], accept=True), "checks_accepted"),
    "answers": ("flows.evaluate.rewriting", lambda home: evaluate.discard_broken(Settings(home=home)), "answers_discarded"),
    "a rebuild": ("flows.rebuild._unfinished", lambda home: rebuild.rebuild(Settings(home=home)), "rebuild_started"),
}


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_row_is_there_before_the_effect(home: Path, monkeypatch: pytest.MonkeyPatch, effect: str) -> None:
    begins, through, action = EFFECTS[effect]
    monkeypatch.setattr(begins, killed)
    monkeypatch.setattr(evaluate, "query", lambda *_: [{"id": "an answer"}])
    with pytest.raises(Killed):
        copy_context().run(through, home)
    [row] = audit.read(home)
    assert (row["action"], row["actor"]) == (action, account())


def test_a_persons_word_on_the_gate_and_an_export_leave_rows(home: Path, tmp_path: Path) -> None:
    migrate(home)
    add(home, A)
    name = decided(home, "block")
    say(home, NIGHT, "overridden", **WORDS)
    record_export(home, tmp_path / "out", night_id=None, now=NOW)
    assert rows(home) == [
        ("overridden", A, "ann", "service"),
        ("promoted", A, "ann", "service"),
        ("pairs_exported", "all nights", account(), "service"),
    ]
    assert audit.read(home)[0]["details"] == {"decision": name, "night": NIGHT}
    assert store_path(home).exists()


class Terminal:
    def __init__(self, there: bool) -> None:
        self.there = there

    def isatty(self) -> bool:
        return self.there


@pytest.mark.parametrize(
    ("uid", "shell", "there", "named", "who"),
    [
        (1000, "/bin/bash", True, "", ("ann", "account")),
        (1000, "/bin/bash", True, "unknown", ("unknown", "flag")),
        (1000, "/bin/bash", True, " ben ", ("ben", "flag")),
        (1000, "/bin/bash", False, "ben", ("ben", "flag")),
        (1000, "/bin/bash", False, "", None),
        (0, "/bin/bash", True, "", None),
        (998, "/usr/sbin/nologin", True, "", None),
        (1000, "/usr/sbin/nologin", True, "", None),
        (0, "/bin/bash", True, "ann\n", ("ann", "flag")),
        (0, "/bin/bash", True, "x\x1b[31m", None),
    ],
)
def test_who_answers_for_an_override(
    monkeypatch: pytest.MonkeyPatch, uid: int, shell: str, there: bool, named: str, who: tuple[str, str] | None
) -> None:
    monkeypatch.setenv("USER", "somebody else")
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="ann", pw_shell=shell))
    monkeypatch.setattr(base.sys, "stdin", Terminal(there))
    with acting.acting(Identity("x", "account", "operator")):
        if who is None:
            with pytest.raises(InputError, match="--actor"):
                base.answering(named)
        else:
            name = base.answering(named)
            assert (name, acting.identity_of(name).how) == who


def test_the_command_line_asks_who_answers_and_records_name_and_account(home: Path) -> None:
    add(home, A)

    def align(*words: str) -> Any:
        return CliRunner().invoke(cli.app, list(words))

    refused = align("release", "promote", A, "--reason", "better")
    assert refused.exit_code == 2 and "--actor NAME" in refused.stderr
    assert current(home) == "base" and not (home / "audit").exists()
    assert align("release", "rollback", "--reason", "x").exit_code == 2
    assert align("release", "promote", A, "--reason", "better", "--actor", "ann").exit_code == 0
    [row] = [row for row in audit.read(home) if row["action"] == "promoted"]
    assert (row["actor"], row["how"], row["account"], row["reason"]) == (
        "ann",
        "flag",
        account(),
        "overridden after no decision of the gate: better",
    )
    # Nobody acts any more once the command has ended.
    assert acting.identity_of("ann").how == "service"
    shown = align("audit", "verify")
    assert shown.exit_code == 0 and "unbroken" in shown.stdout
    head = shown.stdout.split("head ")[1].strip()
    assert align("audit", "verify", "--head", head).exit_code == 0
    assert align("audit", "verify", "--head", f"1:{'0' * 64}").exit_code == 1
    assert align("audit", "verify", "--head", "x").exit_code == 2
    assert "ann" in align("audit", "list").stdout
    log = home / "audit" / "log.jsonl"
    log.write_text(log.read_text().replace('"ann"', '"eve"'))
    broken = align("audit", "verify")
    assert broken.exit_code == 1 and "BROKEN at row 1" in broken.stdout


def test_an_act_is_listed_by_the_name_that_the_help_gives(home: Path) -> None:
    audit.append(home, "promoted", A, actor="ann")
    shown = " ".join(CliRunner().invoke(cli.app, ["audit", "list", "--help"]).stdout.replace("│", "").split())
    named = shown.split("only this act, such as ")[1].split()[0]
    assert A[:8] in CliRunner().invoke(cli.app, ["audit", "list", "--action", named]).stdout


def test_an_erasure_takes_a_person_out_of_the_log_and_leaves_the_chain_whole(home: Path) -> None:
    migrate(home)
    put(home, "interactions", exchange("one", "user-17"), exchange("two", "user-18"))
    audit.append(home, "promoted", A, actor="ann", reason="user-17 complained")
    audit.append(home, "promoted", B, actor="ann", reason="user-18 did not")
    remove(home, "user-17")
    found = audit.verify(home)
    assert (found.withheld, found.problem) == (1, None)
    assert b"user-17" not in b"".join(path.read_bytes() for path in (home / "audit").iterdir())
    assert [row["action"] for row in audit.read(home)] == ["promoted", "promoted", "erased", "words_withheld"]
    assert [row["reason"] for row in audit.read(home)][:2] == [None, "user-18 did not"]
