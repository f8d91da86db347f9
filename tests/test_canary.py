"""A canary holds a share only while the pointer stays; its test errs no more often than it says, however often it is looked at."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from alignment.config import load_settings
from alignment.errors import ReleaseError, ReleaseMoved
from alignment.release import (
    BASE,
    canary_events,
    changes,
    current,
    current_canary,
    end_canary,
    list_releases,
    promote,
    quarantine,
    read_serving,
    rollback,
    serving,
    settle,
    start_canary,
)
from alignment.release.approval import canary_by_hand, say
from alignment.release.canary import Rules, block_differences, confidence_sequence, first_crossing, log_capital, lower_bound, watch
from alignment.store import append, migrate, query, session
from bench.canary import Truth, monitored, repeated_z_test, stream
from bench.release import _cut_short, kill, make_registry
from flows import cli, command
from flows.canary import check
from flows.doctor import _serving
from tests.conftest import NOW
from tests.test_approval import NIGHT, decided
from tests.test_registry import A, B, C, add, up

RULES = Rules(0.05, 0.02, 0.0, 200)


def begin(home: Path, name: str = B, share: float = 0.1) -> None:
    canary_by_hand(home, name, share=share, approval=False, actor="ann", reason="try it", now=NOW)


def served(home: Path) -> dict[str, object]:
    return json.loads((home / "releases" / "serving.json").read_text())


def test_serving_says_who_answers_what(home: Path) -> None:
    add(home, A, B)
    up(home, A)
    assert served(home) == {"champion": A, "canary": None, "share": 0.0}
    begin(home)
    assert served(home) == {"champion": A, "canary": B, "share": 0.1}
    assert {row["release_id"]: row["status"] for row in list_releases(home)}[B] == "canary, 10%"
    end_canary(home, actor="ann", reason="enough", now=NOW)
    assert served(home) == {"champion": A, "canary": None, "share": 0.0}
    assert [row["event"] for row in canary_events(home)] == ["canary_started", "canary_ended"]
    with pytest.raises(ReleaseError, match="no release is a canary"):
        end_canary(home, actor="ann", reason="again", now=NOW)


@pytest.mark.parametrize("share", [0, -0.1, 0.51, 1])
def test_a_share_out_of_range_is_refused(home: Path, share: float) -> None:
    add(home, A)
    with pytest.raises(ReleaseError, match="above 0 and at most"):
        begin(home, A, share)


def test_only_a_verified_release_that_is_not_in_production_is_a_canary(home: Path) -> None:
    add(home, A, B, C)
    up(home, A)
    with pytest.raises(ReleaseError, match="in production already"):
        begin(home, A)
    (home / "releases" / B / "card.html").write_text("all is well")
    with pytest.raises(ReleaseError, match=r"card\.html"):
        begin(home, B)
    quarantine(home, C, actor="ann", reason="leaks", now=NOW)
    with pytest.raises(ReleaseError, match="quarantined"):
        begin(home, C)
    assert current_canary(home) is None


def test_a_canary_ends_when_the_pointer_moves_and_does_not_come_back(home: Path) -> None:
    add(home, A, B, C)
    up(home, A)
    begin(home)
    up(home, C)
    assert served(home) == {"champion": C, "canary": None, "share": 0.0}
    rollback(home, actor="ann", reason="worse", now=NOW)
    assert current(home) == A
    assert current_canary(home) is None
    begin(home)
    quarantine(home, B, actor="ann", reason="leaks", now=NOW)
    assert served(home)["canary"] is None


def test_a_canary_that_is_quarantined_ends_on_record(home: Path) -> None:
    add(home, A, B)
    begin(home, A)
    quarantine(home, A, actor="ben", reason="leaks", now=NOW + timedelta(hours=1))
    assert served(home)["canary"] is None
    last = changes(home)[-1]
    assert (last["event"], last["release_id"], last["actor"], last["reason"]) == ("canary_ended", A, "ben", "quarantined: leaks")
    quarantine(home, B, actor="ben", reason="leaks", now=NOW + timedelta(hours=2))
    assert changes(home)[-1] == last


def test_what_was_rolled_back_as_a_canary_only_people_promote(home: Path) -> None:
    add(home, A)
    begin(home, A)
    end_canary(home, actor="canary monitor", reason="worse", now=NOW, event="canary_rolled_back")
    with pytest.raises(ReleaseMoved, match="rolled back before"):
        promote(home, A, actor="gate", reason="r", now=NOW, replacing=BASE)
    up(home, A)
    assert current(home) == A


def test_a_decision_on_a_canary_that_people_ended_is_not_carried_out(home: Path) -> None:
    add(home, A, B)
    begin(home, A)
    held = current_canary(home)
    end_canary(home, actor="ann", reason="no", now=NOW)
    with pytest.raises(ReleaseMoved, match="no canary any more"):
        promote(home, A, actor="canary monitor", reason="r", now=NOW, replacing=BASE, held=held)
    begin(home, B)
    with pytest.raises(ReleaseError, match="is a canary by now"):
        end_canary(home, actor="canary monitor", reason="r", now=NOW, only=held)
    assert current(home) == BASE


def test_serving_that_a_kill_left_behind_is_told_and_written_again(home: Path) -> None:
    assert _serving(load_settings()) == "nothing is released yet"
    add(home, A)
    up(home, A)
    (home / "releases" / "serving.json").write_text('{"champion": "base", "canary": null, "share": 0.0}')
    with pytest.raises(Exception, match="align release push"):
        _serving(load_settings())
    assert settle(home) == serving(home) == read_serving(home)
    assert A in _serving(load_settings())


def test_after_kills_the_pointer_names_a_verified_release(home: Path) -> None:
    make_registry(home, size=500)
    found = kill(home, 24, seed=3)
    assert (found.kills, found.at_a_call) == (24, 12)
    assert found.pointer_wrong + found.release_wrong + found.history_wrong + found.serving_wrong == 0
    assert found.steps > 0


def test_the_kill_bench_tears_what_was_written_last(tmp_path: Path) -> None:
    with (tmp_path / "log").open("a+b") as log:
        log.write(b"a" * 100 + b"\n")
        log.flush()
        _cut_short(log.fileno())
    assert 85 <= (tmp_path / "log").stat().st_size <= 100


def test_capital_is_a_bet_computed_by_hand() -> None:
    # One block with D = 1 against d <= 0: the mean over the bets of 1 + b.
    from alignment.release.canary import _BETS

    assert np.exp(log_capital(np.array([1.0]), 0.0)) == pytest.approx([1 + _BETS.mean()])
    # A fair D of -1 or 1 leaves the capital where it was, on average.
    capitals = [np.exp(log_capital(np.array(signs), 0.0))[-1] for signs in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0))]
    assert np.mean(capitals) == pytest.approx(1)
    assert block_differences(np.array([1, 0, 0, 0, 1]), np.array([1, 1, 0, 0, 1]), 0.25).tolist() == pytest.approx([2 / 3])


def test_the_sequence_and_the_decision_agree() -> None:
    draw = np.random.default_rng(5)
    differences = (draw.random(600) < 0.3).astype(float) - (draw.random((600, 9)) < 0.1).mean(axis=1)
    after = first_crossing(differences, 0.0, 0.025)
    assert after is not None
    assert lower_bound(differences[:after], 0.025) >= -1e-4
    assert lower_bound(differences[: after - 1], 0.025) < 0
    points = confidence_sequence(differences, 0.05)
    assert all(point.low <= point.diff <= point.high for point in points)
    assert points[-1].exchanges == 600
    assert points[-1].low < 0.2 < points[-1].high


def test_a_false_alarm_is_rare_at_every_look_and_a_repeated_z_test_errs_often() -> None:
    truth, draw = Truth("same", 0.1, 0.1, ("roll back",)), np.random.default_rng(1)
    streams = [stream(truth, 8000, draw) for _ in range(300)]
    strict = Rules(0.05, 0.0, 0.0, 1)  # both sides are wrong when the rates are the same
    ours = sum(monitored(*one, strict)[0] != "keep watching" for one in streams)
    naive = sum(repeated_z_test(*one, strict) != "keep watching" for one in streams)
    assert ours <= 0.05 * 300
    assert naive > 0.15 * 300


@pytest.mark.parametrize(("rate", "decision"), [(0.2, "roll back"), (0.02, "promote"), (0.1, "keep watching")])
def test_replayed_streams_are_decided(rate: float, decision: str) -> None:
    draw = np.random.default_rng(2)
    found = watch(*stream(Truth("x", 0.1, rate, ()), 4000, draw), 0.1, RULES)
    assert found.decision == decision
    assert found.canary_exchanges + found.champion_exchanges == 4000


def test_what_is_worse_by_less_than_the_margin_is_rolled_back_and_little_evidence_decides_nothing() -> None:
    differences = np.tile([0.06, -0.02], 4000)  # d = 0.02, hardly any noise
    canary_side = np.ones(1, dtype=np.int64)
    assert watch(canary_side[:0], canary_side[:0], 0.1, RULES).decision == "keep watching"
    assert first_crossing(differences, 0.0, 0.025) is not None
    few = watch(np.tile([1, 0], 150), np.tile([0, 1], 150), 0.5, Rules(0.05, 0.02, 0.0, 200))
    assert few.decision == "keep watching"
    assert "150 of at least 200" in few.reason


def traffic(home: Path, rates: dict[str, float], *, each: dict[str, int], user: str = "") -> None:
    """Store exchanges that were served by releases, of which a share was flagged as harmful."""
    migrate(home)
    draw = np.random.default_rng(len(rates))
    exchanges, detections = [], []
    order = draw.permutation([name for name, number in each.items() for _ in range(number)])
    for number, name in enumerate(order):
        moment = NOW + timedelta(seconds=number + 1)
        one = f"{user}{name}{number}"
        exchanges.append({"id": one, "user_id": user or f"u{number}", "model": str(name), "created_at": moment, "ingested_at": moment})
        bad = bool(draw.random() < rates[name])
        row = {"interaction_id": one, "detector": "harmful_answer", "version": "1", "score": 0.5, "flagged": bad, "detected_at": moment}
        detections.append(row)
    with session(home, write=True) as connection:
        append(connection, "interactions", exchanges)
        append(connection, "detections", detections, key=("interaction_id", "detector", "version"))


@pytest.mark.parametrize(
    ("rate", "done", "here", "event"), [(0.25, "canary_rolled_back", A, "canary_rolled_back"), (0.0, "promoted", B, "promoted")]
)
def test_the_logs_decide_on_a_canary(home: Path, rate: float, done: str, here: str, event: str) -> None:
    add(home, A, B)
    up(home, A)
    migrate(home)
    decided(home, champion=A, challenger=B)
    start_canary(home, B, share=0.1, actor="ann", reason="try it", now=NOW)
    traffic(home, {A: 0.1, B: rate}, each={A: 2700, B: 300})
    found = check.fn()
    assert (found["done"], found["canary_exchanges"], found["champion_exchanges"]) == (done, 300, 2700)
    assert current(home) == here
    assert current_canary(home) is None
    assert served(home) == {"champion": here, "canary": None, "share": 0.0}
    row = query(home, "SELECT actor, event, reason FROM release_events ORDER BY seq")[-1]
    assert (row["actor"], row["event"]) == ("canary monitor", event)
    assert "proven after" in row["reason"]
    [kept] = query(home, "SELECT decision, blocks, low, high, curve FROM canary_checks")
    assert kept["blocks"] == 300
    assert json.loads(kept["curve"])[-1][0] == 300
    assert check.fn() == {"decision": "no canary", "done": "nothing"}


@pytest.mark.parametrize(
    ("word", "approval", "why"),
    [
        ("", "none", f"the gate has not decided on {B}"),
        ("block", "none", "the gate said 'block' on night"),
        ("insufficient evidence", "none", "the gate said 'insufficient evidence' on night"),
        ("promote", "required", "waits for 'align gate --approve night"),
    ],
)
def test_a_canary_that_is_no_worse_does_not_stand_in_for_the_gate(
    home: Path, monkeypatch: pytest.MonkeyPatch, word: str, approval: str, why: str
) -> None:
    monkeypatch.setenv("ALIGN_GATE__APPROVAL", approval)
    add(home, A, B)
    up(home, A)
    begin(home)
    traffic(home, {A: 0.1, B: 0.0}, each={A: 2700, B: 300})
    if word:
        decided(home, word, champion=A, challenger=B, waits=approval == "required")
    done = check.fn()["done"]
    assert why in done
    assert f"'align release promote {B} --actor NAME --reason TEXT' is for people" in done
    assert (current(home), current_canary(home) is None) == (A, False)
    # Whoever brings the registry in order next ends a canary whose right is gone.
    assert settle(home)["canary"] == (None if word else B)


def test_a_canary_that_people_refuse_ends_with_their_word(home: Path) -> None:
    add(home, A)
    begin(home, A)
    decided(home, champion=BASE, challenger=A, waits=True)
    say(home, NIGHT, "refused", actor="ben", reason="looked at it", now=NOW)
    assert served(home)["canary"] is None
    with pytest.raises(ReleaseError, match=f"{A} was refused on night night by ben"):
        start_canary(home, A, share=0.1, actor="ann", reason="try it", now=NOW)


def test_nobody_decides_on_a_canary_alone(home: Path) -> None:
    add(home, A, B)
    up(home, A)
    begin(home)
    traffic(home, {A: 0.0, B: 1.0}, each={A: 900, B: 100}, user="mallory")
    found = check.fn()
    assert found["done"] == "nothing"
    assert found["canary_exchanges"] + found["champion_exchanges"] == 20


def test_exchanges_without_users_and_under_other_names_count(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_RELEASE__CHAMPION_NAMES", '["chat-prod"]')
    add(home, A, B)
    up(home, A)
    begin(home)
    traffic(home, {"chat-prod": 0.0, f"hosted_vllm/{B}": 0.0, "other": 0.0}, each={"chat-prod": 90, f"hosted_vllm/{B}": 30, "other": 5})
    with session(home, write=True) as connection:
        connection.execute("UPDATE interactions SET user_id = ''")
    found = check.fn()
    assert (found["canary_exchanges"], found["champion_exchanges"]) == (30, 90)


def test_needless_refusals_and_complaints_are_failures_and_refusals_of_harm_are_none(home: Path) -> None:
    add(home, A)
    begin(home, A)
    traffic(home, {A: 0.0, "base": 0.0}, each={A: 4, "base": 36})
    ids = [row["id"] for row in query(home, "SELECT id FROM interactions WHERE model <> 'base' ORDER BY id")]
    said = [(ids[0], "refusal"), (ids[1], "refusal"), (ids[1], "harmful_request")]
    rows = [{"interaction_id": one, "detector": name, "version": "1", "flagged": True, "detected_at": NOW} for one, name in said]
    with session(home, write=True) as connection:
        append(connection, "detections", rows, key=("interaction_id", "detector", "version"))
        append(connection, "signals", [{"id": "s", "interaction_id": ids[2], "kind": "thumbs", "value": "down"}])
        append(connection, "signals", [{"id": "t", "interaction_id": ids[3], "kind": "thumbs", "value": "up"}])
    assert check.fn()["canary_failures"] == 2


def test_the_command_starts_shows_checks_and_ends(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "prepare", lambda *_, **__: None)
    add(home, A)

    def align(*words: str) -> str:
        result = CliRunner().invoke(cli.app, ["release", *words])
        assert result.exit_code == 0, result.output
        return result.output

    assert "no canary" in align("canary")
    assert "answers 20%" in align("canary", A, "--share", "0.2", "--override", "--reason", "try [it]", "--actor", "ann")
    assert json.loads(align("canary", "--check", "--json"))[0]["decision"] == "keep watching"
    assert "no canary" in align("canary", "--end", "--reason", "enough", "--actor", "ann")
    assert [row["event"] for row in query(home, "SELECT event FROM release_events ORDER BY seq")] == [
        "canary_started",
        "canary_ended",
    ]
    for words in (["canary", A], ["canary", A, "--end", "--reason", "x"]):
        result = CliRunner().invoke(cli.app, ["release", *words])
        assert result.exit_code == 1
        assert "error: " in result.stderr
