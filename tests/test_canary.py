"""A canary holds a share only while the pointer stays; its test errs no more often than it says, however often it is looked at."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
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
from alignment.release.canary import (
    Rules,
    Traffic,
    Users,
    block_differences,
    users_of,
    watch,
)
from alignment.statistics.betting import BETS, confidence_sequence, first_crossing, log_capital, lower_bound
from alignment.store import append, migrate, query, session
from bench.canary import Truth, monitored, repeated_z_test, stream
from bench.release import _cut_short, kill, make_registry
from flows import cli
from flows.canary import check, look
from flows.cli import base
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
    assert np.exp(log_capital(np.array([1.0]), 0.0)) == pytest.approx([1 + BETS.mean()])
    # A fair D of -1 or 1 leaves the capital where it was, on average.
    capitals = [np.exp(log_capital(np.array(signs), 0.0))[-1] for signs in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0))]
    assert np.mean(capitals) == pytest.approx(1)


def test_the_sequence_and_the_decision_agree() -> None:
    draw = np.random.default_rng(5)
    differences = (draw.random(600) < 0.3).astype(float) - (draw.random((600, 9)) < 0.1).mean(axis=1)
    after = first_crossing(differences, 0.0, 0.025)
    assert after is not None
    assert lower_bound(differences[:after], 0.025) >= -1e-4
    assert lower_bound(differences[: after - 1], 0.025) < 0
    points = confidence_sequence(differences, 0.05)
    assert all(point.low <= point.diff <= point.high for point in points)
    assert points[-1].blocks == 600
    assert points[-1].low < 0.2 < points[-1].high


def people(*rows: tuple[int, int, float]) -> Users:
    """Users as (bin, canary, value), in the order in which they came."""
    bins, side, value = zip(*rows, strict=True)
    return Users(np.array(bins), np.array(side), np.array(value))


def test_a_block_ends_with_the_first_user_of_the_other_side_and_never_crosses_a_bin() -> None:
    # By hand: mean(1, 0, 0) against 1; the two who are left in bin 0 and the one alone in bin 1 are in no block; then 0 against mean(1, 0).
    rows = (0, 0, 1.0), (0, 0, 0.0), (0, 0, 0.0), (0, 1, 1.0), (0, 1, 1.0), (0, 1, 1.0), (1, 0, 1.0), (2, 1, 1.0), (2, 1, 0.0), (2, 0, 0.0)
    assert block_differences(people(*rows)).tolist() == pytest.approx([2 / 3, 1 / 2])
    assert block_differences(people((0, 0, 1.0), (1, 1, 0.0))).tolist() == []
    assert block_differences(users_of(Traffic(*[np.zeros(0, dtype=np.int64)] * 4))).tolist() == []


def exchanges(*rows: tuple[int, int, int, int]) -> Traffic:
    """Exchanges as (user, bin, canary, failed), in the order in which they came."""
    return Traffic(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))


def test_a_user_counts_once_for_the_side_and_the_bin_that_they_met_first() -> None:
    found = users_of(exchanges((5, 0, 1, 0), (3, 0, 0, 1), (5, 0, 1, 1), (5, 1, 1, 1), (3, 2, 1, 0), (9, 2, 1, 1)))
    # Nothing tells yet whether users stay on a side: the first outcome counts, and what comes in later bins never does.
    assert [column.tolist() for column in found] == [[0, 0, 2], [1, 0, 1], [0.0, 1.0, 1.0]]


@pytest.mark.parametrize(("moved", "value"), [(0, 0.5), (2, 0.5), (3, 0.0)])
def test_a_users_share_of_failures_counts_once_earlier_bins_show_that_users_stay_on_a_side(moved: int, value: float) -> None:
    before = [row for user in range(20) for row in ((user, 0, 1, 0), (user, 0, int(user >= moved), 0))]
    later = [(90, 1, 1, 0), (90, 1, 1, 1), (91, 1, 0, 0), (91, 1, 0, 1), (90, 2, 1, 1), (91, 2, 0, 1)]
    assert users_of(exchanges(*before, *later)).value[-2:].tolist() == [value, value]
    assert users_of(exchanges(*before[:38], *later)).value[-2:].tolist() == [0.0, 0.0]  # 19 users say too little


@pytest.mark.parametrize("each", [1, 5, 20])
@pytest.mark.parametrize("share", [(0.05, 0.05), (0.5, 0.5), (0.05, 0.5)])
def test_identical_models_are_rarely_rolled_back_however_users_cluster_and_shares_drift(each: int, share: tuple[float, float]) -> None:
    draw = np.random.default_rng([each, *(int(100 * one) for one in share)])
    streams = [stream(Truth("same", 0.0, ("roll back",), each, share), 8000, draw) for _ in range(60)]
    assert sum(monitored(one, RULES)[0] == "roll back" for one in streams) <= 4  # of 60 at 2.5%, more come in 0.4% of runs


def test_a_repeated_z_test_on_exchanges_errs_often_where_users_send_several() -> None:
    draw = np.random.default_rng(1)
    streams = [stream(Truth("same", 0.0, ("roll back",), 20), 8000, draw) for _ in range(60)]
    assert sum(repeated_z_test(one, RULES) == "roll back" for one in streams) > 12


def test_first_answers_that_fail_more_often_do_not_count_against_the_side_that_gives_fewer_later_ones() -> None:
    draw = np.random.default_rng(4)
    truth = Truth("same", 0.0, ("roll back",), 5, by_exchange=True, first=4.0)
    streams = [stream(truth, 20_000, draw) for _ in range(20)]
    assert sum(monitored(one, RULES)[0] == "roll back" for one in streams) <= 2


@pytest.mark.parametrize(("rise", "decision"), [(0.15, "roll back"), (-0.08, "promote"), (0.0, "keep watching")])
def test_replayed_streams_are_decided(rise: float, decision: str) -> None:
    replayed = stream(Truth("x", rise, ()), 6000, np.random.default_rng(2))
    found = watch(replayed, RULES)
    assert found.decision == monitored(replayed, RULES)[0] == decision
    assert found.canary_exchanges + found.champion_exchanges == 6000
    assert found.blocks == len(block_differences(users_of(replayed)))


def test_what_is_worse_by_less_than_the_margin_is_rolled_back_and_little_evidence_decides_nothing() -> None:
    both = exchanges(*((user, user // 200, user % 2, int(user % 10 in (1, 3, 5, 0))) for user in range(4000)))  # 60% against 20%
    wide = Rules(0.05, 0.9, 0.0, 1)
    assert first_crossing(-block_differences(users_of(both)), -wide.margin, wide.alpha / 2) is not None
    assert watch(both, wide).decision == "roll back"
    assert watch(Traffic(*[np.zeros(0, dtype=np.int64)] * 4), RULES).decision == "keep watching"
    pairs = exchanges(*(row for user in range(0, 300, 2) for row in ((user, 0, 1, 0), (user + 1, 0, 0, 1))))
    few = watch(pairs, RULES)
    assert few.decision == "keep watching"
    assert "150 of at least 200" in few.reason
    apart = watch(exchanges((1, 0, 1, 0), (2, 1, 0, 0)), RULES)
    assert (apart.decision, apart.blocks) == ("keep watching", 0)
    assert "no time bin has users of both sides (1 users of the canary and 1 of the champion)" in apart.reason


def traffic(home: Path, rates: dict[str, float], *, each: dict[str, int], user: str = "", known: datetime | None = None) -> None:
    """Store exchanges that were served by releases, of which a share was flagged as harmful; all came in when they were `known`."""
    migrate(home)
    draw = np.random.default_rng(len(rates))
    exchanges, detections = [], []
    order = draw.permutation([name for name, number in each.items() for _ in range(number)])
    for number, name in enumerate(order):
        moment = NOW + timedelta(seconds=number + 1)
        one = f"{user}{name}{number}"
        came = {"created_at": moment, "ingested_at": known or moment}
        exchanges.append({"id": one, "user_id": user or f"u{number}", "model": str(name), **came})
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
    # Of 300 users of the canary those that come right after another one have no neighbour to be compared with.
    assert 250 < kept["blocks"] < 300
    assert json.loads(kept["curve"])[-1][0] == kept["blocks"]
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
    assert (found["done"], found["blocks"]) == ("nothing", 0)
    assert found["canary_exchanges"] + found["champion_exchanges"] == 1000


def looked(home: Path) -> Traffic:
    """What the next look at the canary would read."""
    held = current_canary(home)
    assert held is not None
    rows: list[Traffic] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.canary.watch", lambda read, rules: rows.append(read) or watch(read, rules))
        look(load_settings(), held)
    return rows[0]


def test_a_conversation_stands_in_for_a_user_and_an_exchange_for_a_conversation(home: Path) -> None:
    add(home, A)
    begin(home, A)
    traffic(home, {A: 0.0, "base": 0.0}, each={A: 3, "base": 3})
    with session(home, write=True) as connection:
        connection.execute("UPDATE interactions SET user_id = CASE model WHEN 'base' THEN NULL ELSE '' END")
        connection.execute("UPDATE interactions SET conversation_id = 'c' WHERE model <> 'base'")
    found = looked(home)
    assert len(set(found.user[found.canary == 1].tolist())) == 1
    assert len(set(found.user[found.canary == 0].tolist())) == 3
    with session(home, write=True) as connection:
        # A user who goes by the name of a conversation is somebody else.
        connection.execute("UPDATE interactions SET user_id = 'c' WHERE model = 'base'")
    assert len(set(looked(home).user.tolist())) == 2


def test_what_comes_in_late_leaves_what_a_look_compared_as_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(home, A)
    begin(home, A)
    traffic(home, {A: 0.0, "base": 0.0}, each={A: 30, "base": 30})
    with session(home, write=True) as connection:
        connection.execute("UPDATE interactions SET created_at = created_at + INTERVAL 5 HOUR WHERE user_id < 'u3'")
    before = looked(home)
    assert len(set(before.bin.tolist())) == 2
    monkeypatch.setattr("flows.canary.now", lambda: NOW + timedelta(hours=9))
    check.fn()
    traffic(home, {A: 1.0, "base": 1.0}, each={A: 6, "base": 6}, user="late", known=NOW + timedelta(hours=10))
    after = looked(home)
    number = len(before.user)
    assert [column[:number].tolist() for column in after[1:]] == [column.tolist() for column in before[1:]]
    assert len(after.user) == number + 12
    assert min(after.bin[number:]) > max(before.bin)
    assert block_differences(users_of(after))[: len(block_differences(users_of(before)))].tolist() == pytest.approx(
        block_differences(users_of(before)).tolist()
    )


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
    monkeypatch.setattr(base, "prepare", lambda *_, **__: None)
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
        assert result.exit_code == 2
        assert "error: " in result.stderr
