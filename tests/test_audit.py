"""The audit log: nothing that is changed, taken out, put in or cut goes unnamed, and nothing that a kill does is called tampering."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alignment.acting import Identity, account, acting
from alignment.errors import StoreError
from alignment.store import audit
from alignment.store.audit_chain import Head
from tests.conftest import child_environment

pytestmark = pytest.mark.fast


def log_of(home: Path) -> Path:
    return home / "audit" / "log.jsonl"


def lines_of(home: Path) -> list[str]:
    return log_of(home).read_text().splitlines()


def write(home: Path, lines: list[str], end: str = "\n") -> None:
    log_of(home).write_text("\n".join(lines) + end)


@pytest.fixture
def five(home: Path) -> Path:
    with acting(Identity("ada", "oidc", "approver")):
        for number in range(1, 6):
            audit.append(home, "promote", f"release-{number}", actor="ada", reason=f"because {number}", details={"share": 0.1})
    return home


def test_a_row_says_who_and_how_that_is_known(five: Path) -> None:
    audit.append(five, "promote", "release-6", actor="nightly gate")
    rows = audit.read(five)
    assert [(row["number"], row["actor"], row["how"], row["role"]) for row in rows[-2:]] == [
        (5, "ada", "oidc", "approver"),
        (6, "nightly gate", "service", "service"),
    ]
    assert {row["account"] for row in rows} == {account()}
    assert rows[4]["reason"] == "because 5" and rows[4]["details"] == {"share": 0.1}
    found = audit.verify(five)
    assert (found.rows, found.problem) == (6, None)


def test_only_the_owner_can_read_the_log_and_its_key(five: Path) -> None:
    assert (five / "audit").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (five / "audit").iterdir()} == {0o600}


def changed(lines: list[str], number: int, **fields: object) -> list[str]:
    return [json.dumps({**json.loads(line), **fields}) if at == number else line for at, line in enumerate(lines, 1)]


TAMPERING: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "another actor": (lambda lines: changed(lines, 3, actor="eve"), "row 3"),
    "another way of knowing": (lambda lines: changed(lines, 3, how="account"), "row 3"),
    "another reason": (lambda lines: changed(lines, 2, words={"reason": "x", "details": {}}), "row 2"),
    "a reason taken out": (lambda lines: changed(lines, 2, words=None, salt=None), "row 2"),
    "a row taken out": (lambda lines: lines[:2] + lines[3:], "row 3"),
    "rows swapped": (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "row 2"),
    "a row twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], "row 4"),
    "the first rows cut": (lambda lines: lines[2:], "row 1"),
    "the last row cut": (lambda lines: lines[:-1], "row 5"),
    "all but one cut": (lambda lines: lines[:1], "row 2"),
    "all rows cut": (lambda lines: [], "row 1"),
    "the last row cut in half": (lambda lines: [*lines[:-1], lines[-1][:40]], "row 5"),
    "a row unreadable": (lambda lines: [*lines[:2], "{", *lines[3:]], "row 3"),
    "a line put in": (lambda lines: [*lines[:2], "{}", *lines[2:]], "row 3"),
    "a line put at the end": (lambda lines: [*lines, "{}", ""], "row 6"),
    "a second value of a key": (lambda lines: [lines[0], lines[1].replace('{"number"', '{"actor": "eve", "number"'), *lines[2:]], "row 2"),
}


@pytest.mark.parametrize("what", TAMPERING)
@pytest.mark.parametrize("then", ["at once", "after another act"])
def test_tampering_is_named_with_its_first_row_however_late(five: Path, what: str, then: str) -> None:
    tamper, named = TAMPERING[what]
    cut = what == "the last row cut in half"
    write(five, tamper(lines_of(five)), end="" if cut else "\n")
    if then == "after another act":
        audit.append(five, "promote", "release-6", actor="ada")
    problem = audit.verify(five).problem
    assert problem is not None and problem.startswith(f"{named}:"), problem


@pytest.mark.parametrize("gone", ["head.json", "log.jsonl"])
@pytest.mark.parametrize("then", ["at once", "after another act"])
def test_a_part_of_the_log_that_is_removed_is_missed(five: Path, gone: str, then: str) -> None:
    (five / "audit" / gone).unlink()
    if then == "after another act":
        audit.append(five, "promote", "release-6", actor="ada")
    assert audit.verify(five).problem


def test_a_head_that_was_edited_to_fit_a_cut_is_not_believed(five: Path) -> None:
    write(five, lines_of(five)[:3])
    row = json.loads(lines_of(five)[2])
    head = five / "audit" / "head.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "number": 3, "seal": row["seal"]}))
    assert "row 4" in str(audit.verify(five).problem)


def test_a_log_that_is_removed_whole_is_missed(five: Path) -> None:
    (five / "audit").rename(five / "elsewhere")
    assert "gone" in str(audit.verify(five).problem)
    audit.append(five, "promote", "release-6", actor="ada")
    assert str(audit.verify(five).problem).startswith("row 1: before it the log")


def test_a_folder_put_back_to_an_earlier_state_is_told_by_a_head_kept_elsewhere(home: Path, tmp_path: Path) -> None:
    import shutil

    audit.append(home, "promote", "one", actor="ada")
    shutil.copytree(home / "audit", tmp_path / "earlier")
    audit.append(home, "promote", "two", actor="ada")
    kept = audit.verify(home).head
    shutil.rmtree(home / "audit")
    shutil.copytree(tmp_path / "earlier", home / "audit")
    assert audit.verify(home).problem is None  # what the log alone cannot tell
    assert str(audit.verify(home, expected=kept).problem).startswith("row 2:")
    assert audit.verify(home, expected=Head(1, audit.verify(home).head.seal)).problem is None


def test_without_its_key_nothing_is_appended_or_believed(five: Path) -> None:
    (five / "audit" / "key").unlink()
    with pytest.raises(StoreError, match="key"):
        audit.append(five, "promote", "x", actor="ada")
    with pytest.raises(StoreError, match="key"):
        audit.verify(five)


@pytest.mark.parametrize("cut", [1, 50, 300])
def test_a_row_that_a_kill_cut_short_is_no_tampering(five: Path, cut: int) -> None:
    whole = log_of(five).read_bytes()
    audit.append(five, "promote", "release-6", actor="ada")
    row = log_of(five).read_bytes()[len(whole) :]
    head = five / "audit" / "head.json"
    # Killed within the write: the head still says row 5.
    log_of(five).write_bytes(whole + row[:cut])
    key = (five / "audit" / "key").read_bytes()
    last = json.loads(whole.splitlines()[-1])
    head.write_bytes(audit._head(key, Head(5, last["seal"])))
    found = audit.verify(five)
    assert (found.rows, found.torn, found.problem) == (5, 1, None)
    # A second kill at the same place, and then an act that is whole.
    log_of(five).write_bytes(log_of(five).read_bytes() + b"\n" + row[:cut])
    audit.append(five, "promote", "release-7", actor="ada")
    found = audit.verify(five)
    assert (found.rows, found.torn, found.problem) == (6, 2, None)


def test_kills_between_a_row_and_its_head_are_no_tampering(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = []
    real = audit._write_head

    def killed(folder: Path, key: bytes, head: Head) -> None:
        heads.append(head)
        if head.number in heads_lost:
            raise KeyboardInterrupt
        real(folder, key, head)

    heads_lost = {6, 7}
    monkeypatch.setattr(audit, "_write_head", killed)
    with pytest.raises(KeyboardInterrupt):
        audit.append(five, "promote", "a", actor="ada")
    assert audit.verify(five).problem is None
    heads_lost = {7}
    with pytest.raises(KeyboardInterrupt):
        audit.append(five, "promote", "b", actor="ada")
    found = audit.verify(five)
    assert (found.rows, found.problem) == (7, None)
    heads_lost = set()
    audit.append(five, "promote", "c", actor="ada")
    found = audit.verify(five)
    assert (found.rows, found.problem) == (8, None)


def test_processes_that_append_at_once_never_fork_the_chain(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from alignment.store import audit\n"
        "for n in range(25): audit.append(Path(sys.argv[1]), 'act', str(n), actor=sys.argv[2])"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(home), f"p{n}"], env=child_environment()) for n in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    found = audit.verify(home)
    assert (found.rows, found.problem) == (75, None)
    assert [row["number"] for row in audit.read(home)] == list(range(1, 76))


def test_an_erasure_takes_words_out_and_the_chain_holds(five: Path) -> None:
    audit.append(five, "quarantine", "release-2", actor="ada", reason="user u-17 complained")
    assert audit.withhold(five, names_a_person=lambda text: "u-17" in text, actor="ada") == 1
    found = audit.verify(five)
    assert (found.rows, found.withheld, found.problem) == (7, 1, None)
    assert b"u-17" not in log_of(five).read_bytes()
    rows = audit.read(five)
    assert rows[5]["reason"] is None and rows[6]["action"] == "words_withheld" and rows[6]["subject"] == "6"
    assert audit.withhold(five, names_a_person=lambda text: "u-17" in text, actor="ada") == 0


def test_a_full_disk_costs_the_reserve_and_not_the_act(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = audit._write

    def full(path: Path, data: bytes) -> None:
        if (five / "audit" / "reserve").exists():
            raise OSError(28, os.strerror(28))
        real(path, data)

    monkeypatch.setattr(audit, "_write", full)
    audit.append(five, "rollback", "release-1", actor="ada")
    assert audit.verify(five).rows == 6


def test_hostile_and_endless_words_stay_one_row(home: Path) -> None:
    audit.append(home, "promote", "x\n" * 5000, actor="a\u2028b\ud800" * 3000, reason="\U0001f600" * 10**5, details={"x": "y" * 10**6})
    audit.append(home, "promote", "y", actor="ada")
    found = audit.verify(home)
    assert (found.rows, found.problem) == (2, None)
    assert len(lines_of(home)) == 2
