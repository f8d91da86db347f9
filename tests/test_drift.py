"""Drift that is there is named, with what drove it; a quiet stream, one loud person, a gap or an erased user are no drift."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alignment.config import load_settings
from alignment.drift import SIGNALS, DailyUsers, EDetectors, Measured, action, effect, gains_of, unit
from alignment.drift.detect import BETS, LAGS, VOLUME_TOLERANCE, blocks
from alignment.drift.explain import examples, slices, values_of
from alignment.drift.signals import CATEGORIES, LENGTHS, RATES
from alignment.errors import NightRunning
from alignment.ids import subject_key
from alignment.ingest.redact import redaction_key
from alignment.lineage import Subject, apply_erasure, plan_erasure
from alignment.moderation import corpora
from alignment.store import append, migrate, query, session, sql
from flows.monitor import ALL, monitor, report
from flows.night import record_night, record_stage
from tests.conftest import NOW

FIRST = date(2026, 9, 7)
Row = dict[str, Any]


def frame_of(per_day: int, days: int, rate: Callable[[int], float], seed: int = 0) -> pd.DataFrame:
    """Return users who come once, with refusals at `rate` of the day."""
    draw = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), per_day)
    lag = np.array([0, *LAGS])[np.searchsorted([8, 10, 11, 12], draw.integers(0, 16, len(day)), side="right")]
    refused = (draw.random(len(day)) < np.array([rate(one) for one in day])).astype(float)
    return pd.DataFrame({"day": [FIRST + timedelta(days=int(one)) for one in day], "baseline_lag": lag, "refusal": refused})


def alarms_of(frame: pd.DataFrame, days: int, run_length: float = 30) -> list[tuple[int, Any]]:
    traffic, detectors, found = DailyUsers(frame, FIRST, {}), EDetectors(run_length), []
    for number in range(days):
        day = FIRST + timedelta(days=number)
        detectors.take(day, {one.signal: gains_of(one, 0.01) for one in traffic.measure(day, detectors.floors)})
        found += [(number, raised) for raised in detectors.check()]
    return found


def test_a_block_is_a_difference_of_means_and_each_user_is_in_one() -> None:
    assert blocks(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx([0.5, 0.0])
    assert blocks(np.array([1.0, np.nan]), np.array([0.5])) == pytest.approx([0.5])
    assert len(blocks(np.array([np.nan]), np.array([0.5]))) == 0
    assert len(blocks(np.zeros(9999), np.ones(9999))) == 1000


def test_each_user_is_compared_once() -> None:
    """Values are their own row numbers, so that the sums of all days tell which rows were used."""
    frame = frame_of(20, 70, lambda _: 0.0)
    frame["refusal"] = frame.index / len(frame)
    used: Counter[str] = Counter()
    for number in range(70 + max(LAGS)):
        for one in DailyUsers(frame, FIRST, {}).measure(FIRST + timedelta(days=number)):
            used["current"] += one.users
            used["baseline"] += one.baseline_users
            used["sum"] += one.rate * one.users + one.baseline * one.baseline_users
    days = pd.Series([(one - FIRST).days for one in frame["day"]])
    # A user is compared if somebody of the other side is there: from the second week on, or up to four weeks before the end.
    compared = frame[((frame["baseline_lag"] == 0) & (days >= 7)) | ((frame["baseline_lag"] > 0) & (days + frame["baseline_lag"] < 70))]
    assert (used["current"], used["baseline"]) == ((compared["baseline_lag"] == 0).sum(), (compared["baseline_lag"] > 0).sum())
    assert used["sum"] == pytest.approx(compared["refusal"].sum())


def test_a_change_is_named_once_with_its_day_and_direction() -> None:
    for way, rates in (("up", (0.1, 0.25)), ("down", (0.25, 0.1))):
        found = alarms_of(frame_of(300, 90, lambda day, rates=rates: rates[int(day >= 50)]), 90)
        assert [(raised.signal, raised.direction) for _, raised in found] == [("refusal", way)]
        [(day, raised)] = found
        assert 50 <= day <= 56
        assert abs((raised.since - FIRST).days - 50) <= 2


def test_a_quiet_stream_and_a_change_within_the_tolerance_raise_no_alarm() -> None:
    """Of 20 streams of 80 days, 53 alarms would be allowed at a run length of 30; the e-detectors of absent signals leave far fewer."""
    assert sum(len(alarms_of(frame_of(100, 80, lambda _: 0.2, seed), 80)) for seed in range(20)) <= 2
    assert alarms_of(frame_of(2000, 80, lambda day: 0.1 + 0.01 * (day >= 50)), 80) == []


def test_weekends_that_differ_are_no_drift() -> None:
    assert alarms_of(frame_of(400, 80, lambda day: 0.4 if day % 7 > 4 else 0.1), 80) == []


def test_the_gains_of_a_day_by_hand() -> None:
    """D = 1 against d <= 0.01 gains log(1 + b 0.99 / 1.01); D = -1 loses log(1 - b) on that side."""
    up, down = gains_of(Measured("refusal", 1.0, 0.0, 1, 1, np.array([1.0])), 0.01)
    assert up == pytest.approx(np.log(1 + BETS * 0.99 / 1.01))
    assert down == pytest.approx(np.log(1 - BETS))
    assert gains_of(Measured("volume", 2, 1, 2, 1, np.array([VOLUME_TOLERANCE])), 0.0)[0] == pytest.approx(np.zeros(len(BETS)))


def test_one_signal_alone_needs_the_evidence_of_all() -> None:
    """The alarm is at a mean of 2 over all signals: one of them has to reach 2 x (signals) - (signals - 1) where the others stay at 1."""
    detectors, needed = EDetectors(2.0), 2 * len(SIGNALS) - (len(SIGNALS) - 1)
    detectors.take(FIRST, {"refusal": np.full((2, len(BETS)), np.log(needed - 0.01))})
    assert detectors.check() == []
    detectors = EDetectors(2.0)
    detectors.take(FIRST, {"refusal": np.full((2, len(BETS)), np.log(needed + 0.01))})
    [raised] = detectors.check()
    assert (raised.signal, raised.since, raised.value) == ("refusal", FIRST, pytest.approx(needed + 0.01))
    assert detectors.value == pytest.approx(1.0)
    assert detectors.floors == {"refusal": FIRST}


def test_an_effect_without_days_is_unknown() -> None:
    assert effect([]) == (0, 0.0, -1.0, 1.0)


def test_the_categories_and_columns_are_those_of_the_detectors_and_the_query(home: Path) -> None:
    assert corpora.CATEGORIES == CATEGORIES
    migrate(home)
    with session(home) as connection:
        found = connection.execute(sql("flows", "drift_users"), {"since": FIRST, "until": FIRST, "most": 9}).description
    assert {column[0] for column in found} == {"day", "baseline_lag", "prompt", *RATES, *LENGTHS}
    assert all(action(signal) for signal in SIGNALS)


def test_the_slices_and_examples_of_an_alarm() -> None:
    rows = [
        {"id": f"{new}{number}", "asker": f"u{number}", "day": FIRST, "new": new, "model": "m" if number < 10 else "n", "source": "logs"}
        | {"refusal": float(new and number < 10)}
        for new in (False, True)
        for number in range(16)
    ]
    frame = pd.DataFrame([*rows, {**rows[-16], "id": "again"}, {**rows[0], "model": "seldom", "new": True, "refusal": 1.0}])
    values = values_of(frame, "refusal")
    assert next((one.column, one.name, one.before, one.after) for one in slices(frame, values)) == ("model", "m", 0.0, 1.0)
    assert "seldom" not in {one.name for one in slices(frame, values)}
    shown = examples(frame, values, "refusal", "up")
    assert (len(shown), len(set(shown))) == (10, 10)
    assert set(shown) <= {f"True{number}" for number in range(10)} | {"again", "False0"}


def test_a_rate_that_fell_shows_flagged_exchanges_from_before_and_one_that_rose_only_flagged_ones() -> None:
    frame = pd.DataFrame({"id": ["old 1", "old 0", "new 1", "new 0"], "asker": list("abcd"), "new": [False, False, True, True]})
    values = pd.Series([1.0, 0.0, 1.0, 0.0])
    assert examples(frame, values, "refusal", "down") == ["old 1"]
    assert examples(frame, values, "refusal", "up") == ["new 1"]
    assert examples(frame, values, "labeler_agreement", "down") == ["new 0", "new 1"]
    assert examples(frame, values, "prompt_length", "down") == ["new 0", "new 1"]
    assert (unit("refusal"), unit("prompt_length"), unit("volume")) == ("share, 0 to 1", "mean rank, 0 to 1", "users a day")


# In the store ---------------------------------------------------------------------------------------------------------------------


def fill(home: Path, days: range, *, per_day: int = 150, rate: Callable[[int], float] = lambda _: 0.1, seed: int = 0) -> None:
    """Store exchanges of users who come once, with refusals at `rate` of the day."""
    migrate(home)
    redaction_key(home)
    exchanges, detections = [], []
    for day in days:
        draw = np.random.default_rng([seed, day])
        for number in range(per_day):
            name, at = f"e{seed}-{day}-{number}", datetime.combine(FIRST, datetime.min.time()) + timedelta(days=day, minutes=number)
            exchanges.append(exchange(name, f"u{seed}-{day}-{number}", at))
            detections.append(detection(name, bool(draw.random() < rate(day)), at))
    put(home, exchanges, detections)


def exchange(name: str, user: str, at: datetime, arrived: datetime | None = None) -> Row:
    messages = [{"role": "user", "content": "How do I bake a cake?"}]
    texts = {"messages": messages, "prompt": messages[0]["content"], "response": "Like this.", "model": "chat"}
    return {"id": name, "user_id": user, "created_at": at, "ingested_at": arrived or at, "consent": True, **texts}


def detection(name: str, flagged: bool, at: datetime) -> Row:
    return {"interaction_id": name, "detector": "refusal", "version": "1", "score": 0.5, "flagged": flagged, "detected_at": at}


def put(home: Path, exchanges: list[Row], detections: list[Row]) -> None:
    with session(home, write=True) as connection:
        append(connection, "interactions", exchanges)
        append(connection, "detections", detections, key=("interaction_id", "detector", "version"))


def night(home: Path, name: str) -> list[Row]:
    """Report, and record that the night finished."""
    alarms = report.fn(name)
    record_stage(home, name, "monitor", 1.0, {})
    record_night(home, name, "finished", {})
    return alarms


def stored(home: Path) -> dict[str, list[Row]]:
    return {table: query(home, f"SELECT * FROM {table} ORDER BY id") for table in ("drift_days", "drift_alarms", "drift_examples")}


def rise(day: int) -> float:
    return 0.1 if day < 40 else 0.4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Return how to set the time of the reports and of what they store."""

    def put_to(moment: datetime) -> None:
        for module in ("monitor", "night"):
            monkeypatch.setattr(f"flows.{module}.now", lambda: moment)

    return put_to


@pytest.fixture
def risen(home: Path) -> Path:
    fill(home, range(46), rate=rise)
    return home


def test_a_night_names_the_alarm_its_slices_and_its_exchanges(risen: Path) -> None:
    [row] = report.fn("n1")
    assert (row["signal"], row["direction"], row["night_id"]) == ("refusal", "up", "n1")
    assert row["low"] < 0.3 < row["high"]
    assert row["low"] > 0
    assert [(one["column"], one["name"]) for one in json.loads(row["slices"])] == [("model", "chat"), ("source", "")]
    named = query(risen, "SELECT interaction_id FROM drift_examples ORDER BY position")
    assert len(named) == 10
    flagged = {one["interaction_id"] for one in query(risen, "SELECT interaction_id FROM detections WHERE flagged")}
    assert {one["interaction_id"] for one in named} <= flagged
    [latest, *_] = query(risen, sql("alignment.store", "drift_latest"))
    assert (latest["signal"], latest["alarm"], latest["since"]) == ("refusal", True, row["since"])


def test_a_second_night_adds_nothing_and_night_by_night_is_as_all_at_once(home: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The rise is small, so that its alarm comes some nights after its first day."""

    def small(day: int) -> float:
        return 0.1 if day < 40 else 0.27

    fill(home, range(47), rate=small)
    night(home, "n1")
    before = stored(home)
    assert night(home, "n2") == []
    assert stored(home) == before

    other = tmp_path / "other"
    monkeypatch.setenv("ALIGN_HOME", str(other))
    for days in (range(30), range(30, 41), range(41, 42), range(42, 43), range(43, 44), range(44, 45), range(45, 46), range(46, 47)):
        fill(other, days, rate=small)
        report.fn("n")
    measured = ("day", "signal", "rate", "baseline", "users", "gains", "value")
    assert [[row[name] for name in measured] for row in stored(other)["drift_days"]] == [
        [row[name] for name in measured] for row in before["drift_days"]
    ]
    explained = ("day", "signal", "since", "rate", "baseline", "effect", "low", "high", "users", "slices")
    assert [[row[name] for name in explained] for row in stored(other)["drift_alarms"]] == [
        [row[name] for name in explained] for row in before["drift_alarms"]
    ]
    assert len(before["drift_alarms"]) == 1


def test_a_day_is_measured_once_a_later_one_has_begun(home: Path) -> None:
    fill(home, range(20), per_day=20)
    report.fn("n")
    [span] = query(home, "SELECT min(day) AS first, max(day) AS last FROM drift_days")
    assert span == {"first": FIRST + timedelta(days=6), "last": FIRST + timedelta(days=18)}


def test_a_missing_day_is_no_alarm_and_stops_nothing(home: Path) -> None:
    fill(home, range(30))
    fill(home, range(32, 45))
    assert report.fn("n") == []
    days = {row["day"] for row in query(home, "SELECT DISTINCT day FROM drift_days WHERE signal = 'refusal'")}
    assert FIRST + timedelta(days=30) not in days
    assert FIRST + timedelta(days=43) in days


def test_one_user_who_writes_ten_thousand_lines_raises_no_alarm(home: Path) -> None:
    fill(home, range(40), per_day=60)
    start = datetime.combine(FIRST, datetime.min.time())
    ats = [start + timedelta(days=30 + number % 9, seconds=number) for number in range(10_000)]
    put(
        home,
        [exchange(f"loud{number}", "loud", at) for number, at in enumerate(ats)],
        [detection(f"loud{number}", True, at) for number, at in enumerate(ats)],
    )
    assert report.fn("n") == []
    counted = query(home, "SELECT max(users) AS most FROM drift_days WHERE signal = 'refusal'")
    assert counted[0]["most"] < 61


def test_a_user_counts_once_in_each_of_their_weeks(home: Path) -> None:
    migrate(home)
    start = datetime.combine(FIRST, datetime.min.time())
    daily = [(f"{user}-{day}", f"user{user}", start + timedelta(days=day)) for user in range(40) for day in range(28)]
    put(home, [exchange(*one) for one in daily], [detection(name, False, at) for name, _, at in daily])
    with session(home) as connection:
        rows = connection.execute(
            sql("flows", "drift_users"), {"since": FIRST, "until": FIRST + timedelta(days=28), "most": 999}
        ).to_arrow_table()
    per_day = Counter(rows.column("day").to_pylist())
    # Each has three or four whole weeks in 28 days, and the 40 users begin theirs on all seven weekdays.
    assert 3 * 40 <= rows.num_rows <= 4 * 40
    assert max(per_day.values()) <= 15


def test_after_an_erasure_no_alarm_names_the_users_exchanges_and_nights_go_on(risen: Path) -> None:
    report.fn("n1")
    [first, *_] = query(risen, "SELECT interaction_id FROM drift_examples ORDER BY position")
    user = first["interaction_id"].replace("e", "u", 1)
    plan = plan_erasure(risen, Subject((user,), subject_key(b"k", user), subject_key(b"k", user)), nights={})
    assert plan.rows["drift_examples"] == 1
    apply_erasure(risen, plan, reason="asked", actor="dpo", now=NOW)
    assert len(query(risen, "SELECT * FROM drift_examples")) == 9
    fill(risen, range(46, 49), rate=rise)
    report.fn("n2")
    assert query(risen, "SELECT max(day) AS day FROM drift_days")[0]["day"] == FIRST + timedelta(days=47)


def test_an_empty_store_has_no_drift(home: Path) -> None:
    migrate(home)
    assert report.fn("n") == []
    fill(home, range(3), per_day=2)
    assert report.fn("n") == []
    assert load_settings().drift.run_length == 30


def test_the_value_of_all_signals_is_stored_for_each_measured_day(home: Path) -> None:
    fill(home, range(20), per_day=20)
    report.fn("n")
    rows = query(home, "SELECT value FROM drift_days WHERE signal = ?", [ALL])
    assert len(rows) == 13
    assert all(row["value"] > 0 for row in rows)


# As of the moment a day closed ----------------------------------------------------------------------------------------------------


def at(day: int, hour: int = 0) -> datetime:
    return datetime.combine(FIRST, datetime.min.time()) + timedelta(days=day, hours=hour)


def test_a_source_whose_lines_come_after_their_day_closed_raises_no_alarm(home: Path, clock: Any) -> None:
    """Source a refuses 60%, source b nothing and at length, and b comes two days late: as baseline only, each day would differ from it."""
    migrate(home)
    draw = np.random.default_rng(0)

    def come(days: range) -> None:
        lines = [
            (f"{source}-{day - late}-{number}", at(day - late, 1), at(day, 2), draw.random() < rate)
            for day in days
            for source, late, rate in (("a", 0, 0.6), ("b", 2, 0.0))
            for number in range(80)
        ]
        put(
            home,
            [
                exchange(name, f"user {name}", written, came) | {"response": "Like this." * (1 + 9 * name.startswith("b"))}
                for name, written, came, _ in lines
            ],
            [detection(name, bool(hit), came) for name, _, came, hit in lines],
        )

    come(range(34))
    with session(home, write=True) as connection:
        closed = [{"id": f"{day}", "day": at(day), "signal": ALL, "recorded_at": at(day + 1, 3)} for day in range(6, 33)]
        append(connection, "drift_days", closed)
    for day in range(34, 40):
        come(range(day, day + 1))
        clock(at(day, 3))
        assert report.fn(f"n{day}") == []
    found = query(home, "SELECT signal, max(day)::DATE AS day, avg(baseline) AS baseline FROM drift_days GROUP BY signal ORDER BY signal")
    assert {row["day"] for row in found if row["signal"] != "volume"} == {FIRST + timedelta(days=38)}
    baseline = {row["signal"]: row["baseline"] for row in found}
    assert (baseline["refusal"], baseline["response_length"]) == (pytest.approx(0.6, abs=0.1), 0.5)
    assert query(home, "SELECT DISTINCT baseline FROM drift_days WHERE signal = 'volume'") == [{"baseline": 80.0}]


def test_a_clock_that_is_ahead_does_not_close_today(home: Path, clock: Any) -> None:
    fill(home, range(20), per_day=20)
    clock(at(19, 12))
    put(home, [exchange("ahead", "ahead", at(20, 5))], [])
    report.fn("n")
    assert query(home, "SELECT max(day) AS day FROM drift_days") == [{"day": FIRST + timedelta(days=18)}]


def test_what_is_said_of_an_exchange_after_its_day_closed_changes_no_baseline(home: Path) -> None:
    """Other versions, guards, votes and thumbs come later for the older of two days; the last of each before counts."""
    migrate(home)
    put(home, [exchange("old", "u", at(0)), exchange("open", "v", at(1))], [])
    said = [
        ("harmful_request", "1", True, 1), ("harmful_request", "2", False, 9), ("guard:g", "1", True, 1), ("guard:g", "2", False, 2),
        ("guard:new", "1", True, 9),
    ]  # fmt: skip
    votes = [("x", "a", 1), ("x", "b", 2), ("y", "b", 1), ("y", "a", 9)]
    for name in ("old", "open"):
        rows = [detection(name, flagged, at(1, hour)) | {"detector": who, "version": version} for who, version, flagged, hour in said]
        put(home, [], rows)
        given = [
            {"id": f"{name} {n}", "labeler": who, "verdict": what, "created_at": at(1, hour)} for n, (what, who, hour) in enumerate(votes)
        ]
        with session(home, write=True) as connection:
            append(connection, "votes", [{**row, "interaction_id": name} for row in given])
    with session(home, write=True) as connection:
        append(connection, "drift_days", [{"id": "d", "day": FIRST, "signal": ALL, "recorded_at": at(1, 5)}])
    found = query(
        home,
        "SELECT id, harmful_request, guard, labeler_agreement FROM traffic_values($since, $until) ORDER BY id",
        {"since": FIRST, "until": FIRST + timedelta(days=2)},
    )
    assert [tuple(row.values()) for row in found] == [("old", 1, 0, 1), ("open", 0, 1, 0)]


def test_one_line_of_1970_is_not_where_drift_begins(home: Path) -> None:
    fill(home, range(20), per_day=20)
    old = datetime(1970, 1, 1)
    put(home, [exchange("old", "old", old)], [])
    report.fn("n")
    days = {row["day"] for row in query(home, "SELECT DISTINCT day FROM drift_days")}
    assert days == {FIRST + timedelta(days=day) for day in range(6, 19)}


def test_many_lines_of_1970_do_not_make_it_measure_the_empty_years_after(home: Path) -> None:
    fill(home, range(20), per_day=20)
    old = datetime(1970, 1, 1)
    put(home, [exchange(f"old{number}", f"old{number}", old) for number in range(9)], [])
    report.fn("n")
    [found] = query(home, "SELECT count(DISTINCT day) AS n, max(day) AS last FROM drift_days")
    assert found == {"n": 23 + 19, "last": FIRST + timedelta(days=18)}


def test_an_alarm_is_returned_until_a_night_that_finished_has_told_it(risen: Path) -> None:
    """A report by hand, and a night that was killed after its last stage, told nobody."""
    assert [row["signal"] for row in report.fn("by-hand")] == ["refusal"]
    assert [row["signal"] for row in report.fn("killed")] == ["refusal"]
    record_stage(risen, "killed", "monitor", 1.0, {})
    record_night(risen, "earlier", "finished", {})
    assert [row["signal"] for row in night(risen, "n1")] == ["refusal"]
    assert report.fn("n2") == []


def test_drift_is_not_measured_by_hand_while_a_night_runs(home: Path) -> None:
    migrate(home)
    hold = "import sys, pathlib, flows.night as n\nwith n.night_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(NightRunning):
            monitor.fn()
        other.communicate("\n")
