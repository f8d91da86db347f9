"""The pointer always names a complete release or the base model, whatever is killed and in whatever order things happen."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import ReleaseError, ReleaseMoved
from alignment.release import (
    BASE,
    current,
    folder_of,
    list_releases,
    promote,
    quarantine,
    read_serving,
    register,
    rollback,
    serving,
    settle,
    verify,
)
from alignment.release.approval import override, promote_by_hand
from alignment.release.registry import history
from tests.conftest import NOW, child_environment

A, B, C, D = (letter * 16 for letter in "abcd")


def adapter(home: Path, name: str) -> Path:
    folder = home / f"adapter-{name}"
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(name.encode() * 100)
    (folder / "deep" / "config.json").write_text("{}")
    return folder


def add(home: Path, *names: str) -> None:
    for name in names:
        register(home, name, adapter(home, name), card=f"# {name}", manifest={"created_at": name, "night_id": "n"})


def up(home: Path, *names: str) -> None:
    """Promote by hand; nobody decided on these releases, so that the first time is an override."""
    for name in names:
        promote_by_hand(home, name, approval=False, actor="ann", reason="better", now=NOW)


def allow(home: Path, *names: str) -> None:
    for name in names:
        override(home, name, actor="ann", reason="a test", now=NOW)


def down(home: Path) -> str:
    return rollback(home, actor="ann", reason="worse", now=NOW)


def bar(home: Path, name: str) -> str:
    return quarantine(home, name, actor="ann", reason="leaks", now=NOW)


def status(home: Path) -> dict[str, str]:
    return {row["release_id"]: row["status"] for row in list_releases(home)}


def test_a_gate_promotes_only_over_what_it_compared_and_only_once(home: Path) -> None:
    add(home, A, B)
    allow(home, A, B)

    def gated(name: str, champion: str, reason: str) -> str:
        return promote(home, name, actor="gate", reason=reason, now=NOW, replacing=champion)

    gated(A, BASE, "gate 1")
    assert gated(A, BASE, "gate 1") == A  # the same night again, after a kill
    with pytest.raises(ReleaseError, match=r"compared with base, but a{16} is in production"):
        gated(B, BASE, "gate 2")
    down(home)
    with pytest.raises(ReleaseError, match="rolled back before"):
        gated(A, BASE, "gate 1")
    assert current(home) == BASE
    with pytest.raises(ReleaseMoved):
        gated(A, BASE, "gate 3")
    up(home, A)
    assert current(home) == A
    # What people barred while the gate ran is no error of the night, which would then fail at each try.
    down(home)
    bar(home, B)
    with pytest.raises(ReleaseMoved, match="is quarantined"):
        gated(B, BASE, "gate 4")


def test_of_two_gates_that_promote_at_once_one_wins(home: Path) -> None:
    add(home, A, B)
    allow(home, A, B)

    def gated(name: str) -> str:
        try:
            return promote(home, name, actor="gate", reason="r", now=NOW, replacing=BASE)
        except ReleaseMoved as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(gated, (A, B)), key=len)
    assert said[0] == BASE
    assert "is in production by now" in said[1]
    assert len(history(home)) == 1


@pytest.mark.parametrize("name", ["history.jsonl", ".current.part", ".serving.json.part"])
def test_a_full_disk_leaves_a_whole_release_in_production(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whichever write the disk has no more room for, the pointer names one whole release or the other, and the next try ends it."""
    add(home, A, B)
    up(home, A)
    real = os.fsync

    def full(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        up(home, B)
    assert current(home) == (B if name == ".serving.json.part" else A)
    verify(home, current(home))
    monkeypatch.setattr(os, "fsync", real)
    up(home, B)
    assert current(home) == B
    assert read_serving(home) == serving(home)
    assert [row["release_id"] for row in history(home)] == [A, B]


def test_at_first_the_base_model_is_in_production(home: Path) -> None:
    assert current(home) == BASE
    assert list_releases(home) == history(home) == []
    with pytest.raises(ReleaseError, match=r"nothing to roll back"):
        down(home)


def test_a_registered_release_is_whole_and_not_in_production(home: Path) -> None:
    add(home, A)
    folder = verify(home, A)
    assert (folder / "adapter" / "deep" / "config.json").is_file()
    assert json.loads((folder / "manifest.json").read_text())["night_id"] == "n"
    assert current(home) == BASE
    assert status(home) == {A: "kept"}


def test_registering_again_changes_nothing(home: Path) -> None:
    add(home, A)
    before = {path: path.stat().st_mtime_ns for path in folder_of(home, A).rglob("*")}
    register(home, A, adapter(home, A), card="other", manifest={})
    assert before == {path: path.stat().st_mtime_ns for path in folder_of(home, A).rglob("*")}


def test_a_registration_that_was_killed_is_repeated(home: Path) -> None:
    (home / "releases" / f".{A}.part" / "adapter").mkdir(parents=True)
    assert list_releases(home) == []
    add(home, A)
    verify(home, A)


@pytest.mark.parametrize("name", ["", "base", "../../etc", "A" * 16, "a" * 15, f"{A}/x"])
def test_names_that_are_no_release(home: Path, name: str) -> None:
    add(home, A)
    with pytest.raises(ReleaseError, match=rf"known: {A}"):
        up(home, name)
    with pytest.raises(ReleaseError):
        register(home, name, adapter(home, "x"), card="", manifest={})


def test_promoting_says_what_was_replaced(home: Path) -> None:
    add(home, A, B)
    allow(home, A, B)
    assert promote(home, A, actor="a", reason="r", now=NOW) == BASE
    assert promote(home, B, actor="a", reason="r", now=NOW) == A
    assert promote(home, B, actor="a", reason="r", now=NOW) == B
    assert [(row["event"], row["previous"], row["release_id"]) for row in history(home)] == [("promoted", BASE, A), ("promoted", A, B)]
    assert status(home) == {A: "kept", B: "in production"}


def test_rolling_back_walks_back(home: Path) -> None:
    add(home, A, B, C)
    up(home, A, B, C)
    assert [down(home), down(home), down(home)] == [B, A, BASE]
    with pytest.raises(ReleaseError, match=r"nothing to roll back"):
        down(home)
    assert set(status(home).values()) == {"kept"}


def test_a_release_promoted_twice_has_two_places(home: Path) -> None:
    add(home, A, B, C)
    up(home, A, B, A, C)
    assert [down(home), down(home), down(home), down(home)] == [A, B, A, BASE]


def test_promoting_after_a_rollback(home: Path) -> None:
    add(home, A, B, C)
    up(home, A, B)
    assert down(home) == A
    up(home, C)
    assert [down(home), down(home)] == [A, BASE]
    up(home, B)
    assert down(home) == BASE


def test_a_quarantined_release_leaves_production_and_stays_away(home: Path) -> None:
    add(home, A, B, C)
    up(home, A, B, C)
    assert bar(home, B) == C
    assert bar(home, C) == A
    assert status(home) == {A: "in production", B: "quarantined", C: "quarantined"}
    with pytest.raises(ReleaseError, match=r"quarantined and cannot be promoted"):
        up(home, C)
    verify(home, C)
    assert bar(home, A) == BASE
    assert all(folder_of(home, name).is_dir() for name in (A, B, C))


def test_a_quarantine_that_was_killed_half_way_is_finished(home: Path) -> None:
    add(home, A, B)
    up(home, A, B)
    (folder_of(home, B) / ".QUARANTINED.part").write_text('{"act')
    verify(home, B)
    (folder_of(home, B) / "QUARANTINED").write_text("{}")
    assert bar(home, B) == A


def test_a_quarantine_that_was_killed_half_way_is_finished_by_whoever_settles(home: Path) -> None:
    add(home, A, B)
    up(home, A, B)
    note = {"actor": "ben", "reason": "leaks", "recorded_at": "2026-01-02T03:04:05"}
    (folder_of(home, B) / "QUARANTINED").write_text(json.dumps(note))
    assert settle(home)["champion"] == A == current(home)
    told = {**note, "event": "rolled_back", "release_id": A, "previous": B, "reason": "quarantined: leaks", "seq": 3}
    assert history(home)[-1] == told


@pytest.mark.parametrize("edit", ["change", "remove", "add", "card", "manifest"])
def test_an_edited_release_is_refused(home: Path, edit: str) -> None:
    add(home, A, B)
    up(home, A)
    folder = folder_of(home, B)
    if edit == "change":
        (folder / "adapter" / "weights.bin").write_bytes(b"evil")
    elif edit == "remove":
        (folder / "adapter" / "deep" / "config.json").unlink()
    elif edit == "add":
        (folder / "adapter" / "adapter_model.bin").write_bytes(b"evil")
    elif edit == "card":
        (folder / "card.md").write_text("all is well")
    else:
        (folder / "manifest.json").write_text("{")
    with pytest.raises(ReleaseError, match=r"is not as it was registered: .*quarantine"):
        up(home, B)
    assert current(home) == A
    assert status(home) == {A: "in production", B: "kept"}


def test_rolling_back_never_lands_on_an_edited_release(home: Path) -> None:
    add(home, A, B, C)
    up(home, A, B, C)
    (folder_of(home, B) / "card.md").write_text("edited")
    assert bar(home, C) == A
    (folder_of(home, A) / "card.md").write_text("edited")
    with pytest.raises(ReleaseError, match=r"not as it was registered"):
        up(home, B)
    assert down(home) == BASE


def test_a_torn_history_line_costs_no_other(home: Path) -> None:
    add(home, A, B)
    up(home, A)
    with (home / "releases" / "history.jsonl").open("ab") as out:
        out.write('{"event": "promoted", "reason": "ü'.encode()[:-1])
    assert [row["release_id"] for row in history(home)] == [A]
    up(home, B)
    assert [row["release_id"] for row in history(home)] == [A, B]
    assert down(home) == A


def test_a_number_that_is_none_in_a_log_keeps_nobody_from_going_back(home: Path) -> None:
    from alignment.release import changes

    add(home, A, B)
    up(home, A)
    up(home, B)
    before = [row["seq"] for row in history(home)]
    by_hand = ({}, {"event": "canary_ended", "release_id": "a", "recorded_at": "b"}, {"recorded_at": NOW.isoformat()})
    (home / "releases" / "canaries.jsonl").write_text("".join(json.dumps({"seq": "x", **row}) + "\n" for row in by_hand))
    assert down(home) == A
    quarantine(home, A, actor="ann", reason="r", now=NOW)
    assert [row["seq"] for row in history(home)][: len(before)] == before
    assert history(home)[-1]["seq"] > before[-1]
    assert changes(home)


def test_a_step_that_was_announced_but_not_taken_does_not_count(home: Path) -> None:
    add(home, A, B, C)
    up(home, A, B)
    (home / "releases" / "current").write_text(A + "\n")
    assert [row["release_id"] for row in history(home)] == [A]
    up(home, C)
    assert [row["release_id"] for row in history(home)] == [A, C]
    assert down(home) == A


def test_a_reason_may_hold_any_text(home: Path) -> None:
    add(home, A, B)
    up(home, A)
    allow(home, B)
    promote(home, B, actor="änn", reason="a\nb\u2028c\u0085d\x0be", now=NOW)
    assert history(home)[-1]["reason"] == "a\nb\u2028c\u0085d\x0be"
    assert down(home) == A


STEPS = st.lists(st.one_of(st.tuples(st.just("up"), st.sampled_from([A, B, C])), st.just(("down", ""))), max_size=12)


@settings(max_examples=8)
@given(STEPS)
def test_rollback_undoes_promotions_like_a_stack(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]) -> None:
    home = tmp_path_factory.mktemp("home")
    add(home, A, B, C)
    stack = [BASE]
    for step, name in steps:
        if step == "up":
            up(home, name)
            if stack[-1] != name:
                stack.append(name)
        elif len(stack) > 1:
            stack.pop()
            assert down(home) == stack[-1]
        assert current(home) == stack[-1]


@pytest.mark.timeout(90)
def test_killed_at_any_point_the_pointer_names_a_whole_release(home: Path) -> None:
    add(home, A, B, C)
    allow(home, A, B, C)
    code = """
    import sys, random
    from datetime import datetime
    from pathlib import Path
    from alignment.release import promote, rollback, register, current
    home, seed = Path(sys.argv[1]), int(sys.argv[2])
    draw, now = random.Random(seed), datetime(2026, 1, 1)
    print("ready", flush=True)
    while True:
        if draw.random() < 0.6 or current(home) == "base":
            promote(home, draw.choice(sys.argv[3:]), actor="a", reason="r" * 200, now=now)
        else:
            rollback(home, actor="a", reason="r", now=now)
        name = "%016x" % draw.getrandbits(64)
        register(home, name, home / f"adapter-{sys.argv[3]}", card="c", manifest={})
    """
    draw = random.Random(7)
    for seed in range(20):
        worker = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(home), str(seed), A, B, C],
            env=child_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout and worker.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0, 0.05))
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        here = current(home)
        assert here == BASE or verify(home, here)
        for row in list_releases(home):
            verify(home, row["release_id"])
        steps = history(home)
        assert (steps[-1]["release_id"] if steps else BASE) == here
        assert all(after["previous"] == before["release_id"] for before, after in zip(steps, steps[1:], strict=False))
    # The way back is still whole.
    for _ in range(200):
        if current(home) == BASE:
            break
        down(home)
    assert current(home) == BASE
