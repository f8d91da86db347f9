"""What may be served: by the records alone, in the order of numbers, and through every door that serves."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from alignment.config import Settings
from alignment.errors import ReleaseError, StoreError
from alignment.records import GateDecision
from alignment.release import (
    BASE,
    champion,
    current,
    current_canary,
    folder_of,
    history,
    promote,
    register,
    right_of,
    rollback,
    settle,
    start_canary,
    verify,
)
from alignment.release.approval import canary_by_hand, override, promote_by_hand, say
from alignment.release.disk import RESERVE
from alignment.release.rights import Decided, Records, Word, may_serve
from alignment.store import append, migrate, query, session, store_path
from alignment.store.evidence import export
from flows import decision as deciding
from tests.conftest import NOW
from tests.test_approval import NIGHT, decided
from tests.test_canary import served
from tests.test_registry import A, B, C, add, bar, down, up

GATE = Decided("d", 7, "n", "promote", False, None)


def word(verdict: str, **changes: Any) -> Word:
    return replace(Word(verdict, "d", 7, "w", "ann", "looked", 9), **changes)


def records(decision: Decided | None = GATE, *words: Word, **changes: Any) -> Records:
    return replace(Records("w", "m", None, decision, words), **changes)


@pytest.mark.parametrize(
    ("known", "approval", "by"),
    [
        (records(), False, "gate"),
        (records(), True, None),
        (records(replace(GATE, waits=True)), False, None),
        (records(replace(GATE, waits=True), word("approved")), False, "approval"),
        (records(GATE, word("approved")), True, "approval"),
        (records(replace(GATE, decision="block")), False, None),
        (records(replace(GATE, decision="insufficient evidence")), False, None),
        (records(replace(GATE, decision="block"), word("approved")), False, None),
        (records(replace(GATE, decision="block"), word("overridden")), False, "override"),
        (records(replace(GATE, decision="block"), word("overridden", reason=" ")), False, None),
        (records(replace(GATE, decision="block"), word("overridden", actor="")), False, None),
        (records(replace(GATE, decision="block"), word("overridden", decision_id="c")), False, None),
        (records(replace(GATE, decision="block"), word("overridden", decision_seq=6)), False, None),
        (records(replace(GATE, decision="block"), word("overridden", weights="x")), False, None),
        (records(replace(GATE, decision="block"), word("overridden", weights=None, decision_seq=None)), False, "override"),
        (records(GATE, word("refused")), False, None),
        (records(GATE, word("refused", seq=9), word("overridden", seq=10)), False, "override"),
        (records(GATE, word("overridden", seq=9), word("refused", seq=10)), False, None),
        (records(None), False, None),
        (records(None, word("overridden", decision_id=None, decision_seq=0)), False, "override"),
        (records(GATE, word("overridden", decision_id=None, decision_seq=0)), True, None),
        (records(quarantined="leaks"), False, None),
        (records(GATE, word("overridden"), quarantined="leaks"), False, None),
        (records(replace(GATE, model_id="m")), False, "gate"),
        (records(replace(GATE, model_id="another")), False, None),
        (records(replace(GATE, model_id="another"), word("overridden")), False, None),
        (records(replace(GATE, weakened="a demo")), False, "gate"),
    ],
)
def test_a_right_is_told_by_the_records_alone(known: Records, approval: bool, by: str | None) -> None:
    right = may_serve(A, known, approval=approval)
    assert (right.allowed, right.by) == (by is not None, by or "nothing")
    assert right.why
    assert ("a demo" in right.why) == bool(known.decision and known.decision.weakened)


def test_the_base_model_may_always_be_served() -> None:
    assert may_serve(BASE, None, approval=True).by == "base"
    assert not may_serve(A, None).allowed


# Every door -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def blocked(home: Path) -> Path:
    """A state folder whose release `a…` the gate has blocked."""
    migrate(home)
    add(home, A, B)
    decided(home, "block", challenger=A)
    return home


def test_what_the_gate_blocked_is_served_through_no_door(blocked: Path) -> None:
    by: dict[str, Any] = {"actor": "gate", "reason": "r", "now": NOW}
    doors = [
        lambda: promote(blocked, A, **by),
        lambda: promote(blocked, A, **by, replacing=BASE),
        lambda: start_canary(blocked, A, share=0.5, **by),
        lambda: promote_by_hand(blocked, A, approval=False, **{**by, "actor": " "}),
        lambda: canary_by_hand(blocked, A, share=0.1, approval=False, **{**by, "reason": ""}),
    ]
    for door in doors:
        with pytest.raises(ReleaseError, match=r"may not be served|needs a name and a reason"):
            door()
    assert (current(blocked), current_canary(blocked)) == (BASE, None)
    canary_by_hand(blocked, A, share=0.1, approval=False, actor="ann", reason="we watch it", now=NOW)
    assert served(blocked) == {"champion": BASE, "canary": A, "share": 0.1}
    # The share may shrink under the same override; more traffic, and production, take another one.
    start_canary(blocked, A, share=0.05, actor="ben", reason="less", now=NOW)
    assert served(blocked)["share"] == 0.05
    for door in (lambda: start_canary(blocked, A, share=0.2, **by), lambda: promote(blocked, A, **by)):
        with pytest.raises(ReleaseError, match="may not be served"):
            door()
    assert settle(blocked, now=NOW)["canary"] == A
    [row] = query(blocked, "SELECT actor, reason, decision_seq, weights FROM gate_verdicts")
    assert (row["actor"], row["reason"], row["decision_seq"]) == ("ann", "we watch it", 1)
    assert row["weights"] == right_weights(blocked, A)


def right_weights(home: Path, name: str) -> str:
    from alignment.release.contents import look

    return look(folder_of(home, name), name).weights


def save(home: Path, word: Any, name: str, challenger: str = A, night_id: str = NIGHT, **gate: Any) -> None:
    settings = Settings.model_validate({"home": home, "gate": gate})
    deciding.save_decision(settings, night_id, GateDecision(name, BASE, challenger, word, ("r",), ()), [], model_id=None)


def test_an_override_says_nothing_of_a_newer_decision(blocked: Path) -> None:
    up(blocked, A)  # over the gate
    assert champion(blocked) == A
    save(blocked, "block", "newer", night_id="another night")
    assert current(blocked) == BASE
    assert [row["event"] for row in history(blocked)] == ["promoted", "withdrawn"]
    with pytest.raises(ReleaseError, match="the gate said 'block' on night another night"):
        start_canary(blocked, A, share=0.1, actor="gate", reason="r", now=NOW)


def test_a_decision_that_comes_by_another_way_takes_effect_when_the_registry_is_settled(blocked: Path) -> None:
    up(blocked, A)
    decided(blocked, "insufficient evidence", challenger=A, night="another night")
    with pytest.raises(ReleaseError, match="is in production, but may not be served"):
        champion(blocked)
    assert settle(blocked, now=NOW) == {"champion": BASE, "canary": None, "share": 0.0}
    row = history(blocked)[-1]
    assert (row["event"], row["actor"], row["release_id"]) == ("withdrawn", "registry", BASE)
    assert "the gate said 'insufficient evidence'" in row["reason"]
    # A gate that says promote later is no machine that undoes what people did.
    decided(blocked, challenger=A, night="a third night")
    assert promote(blocked, A, actor="gate", reason="r", now=NOW, replacing=BASE) == BASE


def test_rolling_back_skips_what_lost_its_right(home: Path) -> None:
    migrate(home)
    add(home, A, B, C)
    up(home, A, B, C)
    decided(home, "block", challenger=B)
    assert down(home) == A
    up(home, C)
    bar(home, A)
    assert down(home) == BASE


def test_a_store_that_cannot_tell_gives_no_right(home: Path) -> None:
    add(home, A, B)
    up(home, A, B)
    (home / "store.duckdb").write_bytes(b"no database")
    assert down(home) == BASE


def test_a_store_that_was_lost_is_not_one_in_which_nobody_decided(home: Path) -> None:
    add(home, A)
    up(home, A)
    export(home)
    store_path(home).unlink()
    with pytest.raises(StoreError, match="is gone, but there is more of it beside it"):
        settle(home, now=NOW)
    assert current(home) == A


def test_a_canary_whose_files_were_changed_goes_out(home: Path) -> None:
    migrate(home)
    add(home, A)
    decided(home, "promote", challenger=A)
    start_canary(home, A, share=0.2, actor="ann", reason="r", now=NOW)
    card = folder_of(home, A) / "card.md"
    card.write_text("another card")
    assert settle(home, now=NOW)["canary"] is None


def test_an_old_override_is_no_word_on_other_weights(home: Path) -> None:
    add(home, A)
    override(home, A, actor="ann", reason="fine", now=NOW)
    assert right_of(home, A).by == "override"
    manifest = folder_of(home, A) / "manifest.json"
    told = json.loads(manifest.read_text())
    weights = folder_of(home, A) / "adapter" / "weights.bin"
    weights.write_bytes(b"evil")
    from alignment.release.contents import digest

    told["files"]["adapter/weights.bin"] = digest(weights)
    manifest.write_text(json.dumps(told))
    assert verify(home, A)  # all digests fit
    assert not right_of(home, A).allowed


# Order by numbers -----------------------------------------------------------------------------------------------------


def test_what_is_last_does_not_hang_on_the_clock(home: Path) -> None:
    migrate(home)
    add(home, A, B)
    decided(home, "promote", challenger=A)
    decided(home, "block", challenger=A, night="later", moment=NOW - timedelta(days=400))
    assert not right_of(home, A).allowed
    say(home, "later", "overridden", actor="ann", reason="fine", now=NOW - timedelta(days=500))
    assert current(home) == A
    promote_by_hand(home, B, approval=False, actor="ann", reason="r", now=NOW - timedelta(days=600))
    assert rollback(home, actor="ann", reason="r", now=NOW - timedelta(days=700)) == A
    events = query(home, "SELECT event, release_id FROM release_events WHERE actor = 'ann' ORDER BY seq")
    assert [(row["event"], row["release_id"]) for row in events] == [("promoted", A), ("promoted", B), ("rolled_back", A)]
    from alignment.release import changes
    from alignment.store import sql

    assert [row["seq"] for row in changes(home)] == [1, 2, 3]
    assert query(home, sql("dashboard", "production"), {"release": A})[0]["event"] == "rolled_back"
    assert query(home, sql("dashboard", "decisions"), {"limit": 1, "decision": None})[0]["decision"] == "block"


def test_two_changes_at_one_time_are_two(home: Path) -> None:
    from alignment.release import changes

    add(home, A)
    for _ in range(2):
        up(home, A)
        down(home)
    assert len({row["id"] for row in changes(home)}) == 4


def test_an_old_store_gets_numbers_and_what_people_promoted_by_name_stays(home: Path) -> None:
    migrate(home, upto=18)
    event = {"event": "promoted", "night_id": None}
    rows = [
        {"id": "e1", "release_id": A, "actor": "ann", "reason": "better", **event, "recorded_at": NOW + timedelta(hours=2)},
        {"id": "e2", "release_id": B, "actor": "unknown", "reason": "better", **event, "recorded_at": NOW},
        {"id": "e3", "release_id": C, "actor": "ann", "reason": "better", **event, "recorded_at": NOW + timedelta(hours=3)},
    ]
    with session(home, write=True) as connection:
        decision = {"id": "d", "night_id": "n", "challenger": C, "decision": "block", "decided_at": NOW + timedelta(hours=1)}
        append(connection, "gate_decisions", [decision])
        append(connection, "release_events", rows)
    migrate(home)
    add(home, A, B, C)
    order = query(home, "SELECT id, seq FROM release_events UNION ALL SELECT id, seq FROM gate_decisions ORDER BY seq")
    assert [row["id"] for row in order] == ["e2", "d", "e1", "e3"]
    assert [right_of(home, name).by for name in (A, B, C)] == ["override", "nothing", "nothing"]


# What lies in a release ----------------------------------------------------------------------------------------------


def plant(home: Path, kind: str) -> Path:
    folder = folder_of(home, A) / "adapter"
    target = folder / "extra"
    if kind == "symlink":
        target.symlink_to("/etc/hostname")
    elif kind == "link in place":
        target = folder / "weights.bin"
        (home / "aside").write_bytes(target.read_bytes())
        target.unlink()
        target.symlink_to(home / "aside")
    elif kind == "hard link":
        target = folder / "weights.bin"
        os.link(target, home / "second name")
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "linked folder":
        (folder / "deep").rename(home / "deep")
        target = folder / "deep"
        target.symlink_to(home / "deep")
    return target


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["symlink", "link in place", "hard link", "fifo", "linked folder"])
def test_links_and_special_files_are_refused_by_name(home: Path, kind: str) -> None:
    add(home, A)
    path = plant(home, kind)
    for door in (verify, right_of):
        with pytest.raises(ReleaseError, match=f"{path.name}' is (a link|a hard link|no plain file)"):
            door(home, A)
    with pytest.raises(ReleaseError, match=path.name):
        register(home, B, folder_of(home, A) / "adapter", card="", manifest={})


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "adapter/../../outside", "adapter//weights.bin", ""])
def test_a_manifest_names_nothing_outside_its_folder(home: Path, name: str) -> None:
    add(home, A)
    (home / "releases" / "outside").write_text("x")
    path = folder_of(home, A) / "manifest.json"
    told = json.loads(path.read_text())
    told["files"][name] = "0" * 64
    path.write_text(json.dumps(told))
    with pytest.raises(ReleaseError, match=r"manifest\.json missing, changed or added"):
        verify(home, A)


@pytest.mark.parametrize("name", ["current", "history.jsonl", "canary.json", ".current.part"])
def test_the_registrys_own_files_are_no_links(home: Path, name: str) -> None:
    add(home, A)
    override(home, A, actor="ann", reason="r", now=NOW)
    aside = home / "aside"
    aside.write_text("base\n")
    (home / "releases" / name).symlink_to(aside)
    if name == "canary.json":
        assert current_canary(home) is None
        return
    with pytest.raises(ReleaseError, match="is a link or no plain file"):
        promote(home, A, actor="ann", reason="r", now=NOW)
    assert aside.read_text() == "base\n"


def test_an_id_belongs_to_its_files(home: Path) -> None:
    add(home, A)
    (home / "adapter-x").mkdir()
    (home / "adapter-x" / "weights.bin").write_bytes(b"other weights")
    with pytest.raises(ReleaseError, match="was registered with other files"):
        register(home, A, home / "adapter-x", card="", manifest={})


# A full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """Yield a file system of 32 MiB of its own."""
    import subprocess

    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill_up(folder: Path) -> None:
    """Write until nothing more fits."""
    with (folder / "filler").open("wb", buffering=0) as out:
        for size in (2**20, 4096, 1):
            try:
                while True:
                    out.write(b"\0" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC


@pytest.mark.parametrize("act", ["rollback", "quarantine"])
def test_the_way_back_works_on_a_full_disk(small_disk: Path, act: str) -> None:
    home = small_disk / "home"
    home.mkdir()
    migrate(home)
    add(home, A, B, C)
    up(home, A, B)
    fill_up(small_disk)
    with pytest.raises(Exception, match=r"full|No space left"):
        promote_by_hand(home, C, approval=False, actor="ann", reason="r" * 9000, now=NOW)
    if act == "rollback":
        assert down(home) == A
    else:
        assert bar(home, B) == A
    assert (current(home), served(home)["champion"]) == (A, A)
    rows = query(home, "SELECT event, release_id FROM release_events ORDER BY seq")
    assert ("rolled_back", A) in [(row["event"], row["release_id"]) for row in rows]
    assert right_of(home, A).allowed
    # Some of it is set aside again, and once there is room all of it.
    reserve = home / "releases" / ".reserve"
    assert reserve.stat().st_size == RESERVE // 2
    (small_disk / "filler").unlink()
    settle(home, now=NOW)
    assert reserve.stat().st_size == RESERVE


def test_nothing_is_served_without_a_right_in_random_sequences() -> None:
    from bench.serving import run

    found = run(4, seed=11)
    assert found.wrong == []
    assert found.released > 0
    assert found.killed > 0
