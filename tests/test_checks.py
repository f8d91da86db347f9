"""The data checks name bad rows, stop bad batches, and never pass what they could not compute."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import data_checks.run as run
import flows.checks as checks
import flows.ingest as flow
from alignment.config import Settings, load_settings
from alignment.errors import CheckFailed
from alignment.ids import content_id
from alignment.records import GateDecision, TrainResult
from alignment.release.card import release_card
from alignment.sections import Checks, Train
from alignment.store import append, migrate, query, session
from alignment.train import TrainJob, write_job
from alignment.train.job import PAIRS
from data_checks import SUITES, Expectation, check, describe, training
from data_checks.docs import overall, write_docs
from data_checks.history import NO_HISTORY, TOO_FEW, judge
from tests.conftest import NOW, make_pair


def exchanges(rows: int = 4, **columns: Any) -> pd.DataFrame:
    values: dict[str, Any] = {
        "id": [f"{number:032x}" for number in range(rows)],
        "prompt": ["What is the time?"] * rows,
        "response": [f"answer {number}" for number in range(rows)],
        "created_at": pd.to_datetime(["2026-11-01"] * rows),
        "consent": [True] * rows,
        "user_id": ["u"] * rows,
    }
    return pd.DataFrame(values | columns)


def pairs(rows: int = 4, **columns: Any) -> pd.DataFrame:
    values: dict[str, Any] = {
        "id": [str(number) for number in range(rows)],
        "chosen": ["good"] * rows,
        "rejected": ["bad"] * rows,
        "side": ["harm", "helpful"] * (rows // 2),
        "split": ["train"] * rows,
        "judge_margin": [0.5] * rows,
        "differs": [1] * rows,
        "zero": 0,
    }
    return pd.DataFrame(values | columns)


def answers(rows: int = 100, **columns: Any) -> pd.DataFrame:
    values: dict[str, Any] = {
        "model_id": ["m"] * rows,
        "suite": ["harm"] * rows,
        "prompt_id": [str(number) for number in range(rows)],
        "outcome": [0, 1] * (rows // 2),
    }
    return pd.DataFrame(values | columns)


def given(rows: int = 20, **columns: Any) -> pd.DataFrame:
    """Return training inputs that are as they should be, but for `columns`."""
    values: dict[str, Any] = {
        "id": [str(number) for number in range(rows)],
        "side": ["harm", "helpful"] * (rows // 2),
        "split": ["train"] * rows,
        "consent": [True] * rows,
        "prompt": ["What is the time?"] * rows,
        "chosen": ["good"] * rows,
        "rejected": ["bad"] * rows,
        "differs": [True] * rows,
        "taught_differs": [True] * rows,
        "prompt_tokens": [9] * rows,
        "shorter_answer_tokens": [1] * rows,
        "longer_answer_tokens": [12] * rows,
        "tokens": [33] * rows,
    }
    return pd.DataFrame(values | columns)


def one(bad: Any, good: Any, *, number: int = 1) -> list[Any]:
    return [bad] * number + [good] * (20 - number)


GOOD = [("interactions", exchanges()), ("pairs", pairs()), ("eval_answers", answers()), ("training", given())]


@pytest.mark.parametrize(("suite", "frame"), GOOD)
def test_good_data_passes(suite: str, frame: pd.DataFrame) -> None:
    report = check(suite, frame, batch="b", now=NOW)
    assert (report.rejected, report.stops, report.warnings) == ({}, [], [])
    report.raise_on_stop("a test")
    assert len(report.results) == len(SUITES[suite])
    assert all(row["success"] for row in report.results)
    assert {row["rows_checked"] for row in report.results} == {len(frame)}


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        ("id", "short"),
        ("id", "G" * 32),
        ("prompt", ""),
        ("prompt", "x" * 200_001),
        ("response", ""),
        ("created_at", pd.Timestamp("2014-12-31")),
        ("consent", None),
    ],
)
def test_a_bad_row_is_named(column: str, bad: object) -> None:
    frame = exchanges()
    frame[column] = [*frame[column][:2], bad, frame[column][3]]
    report = check("interactions", frame, batch="b", now=NOW)
    assert list(report.rejected) == [2]
    assert report.rejected[2].endswith(f":{column}")
    assert report.stops == []


@pytest.mark.parametrize(
    ("suite", "frame"),
    [
        ("interactions", exchanges(0)),
        ("pairs", pairs(0)),
        ("pairs", pairs(id=["0", "0", "1", "2"])),
        ("pairs", pairs(differs=[1, 1, 0, 1])),
        ("pairs", pairs(chosen=["good", "", "good", "good"])),
        ("pairs", pairs(rejected=["", "bad", "bad", "bad"])),
        ("pairs", pairs(side=["harm", "helpful", "both", "harm"])),
        ("pairs", pairs(split=["train", "train", "test", "eval"])),
        ("pairs", pairs(judge_margin=[0.5, 0.0, 0.5, 0.5])),
        *(("pairs", pairs(**{name: [None, *pairs()[name][1:]]})) for name in ("chosen", "rejected", "side", "split", "judge_margin")),
        *(
            ("training", given(**{name: one(None, given()[name][1])}))
            for name in ("consent", "prompt", "chosen", "rejected", "side", "split")
        ),
        ("eval_answers", answers(0)),
        ("eval_answers", answers(prompt_id=["0", "0", *map(str, range(2, 100))])),
        ("eval_answers", answers(outcome=[2, *[0] * 99])),
        ("eval_answers", answers(outcome=[None] * 20 + [0] * 80)),
        ("training", given(0)),
        ("training", given(id=one("1", "1"))),
        ("training", given(consent=one(False, True))),
        ("training", given(prompt=one("", "text"))),
        ("training", given(chosen=one("", "good"))),
        ("training", given(rejected=one("", "bad"))),
        ("training", given(differs=one(False, True))),
        ("training", given(side=one("both", "harm"))),
        ("training", given(split=one("test", "train"))),
        ("training", given(split=["eval"] * 20)),
        ("training", given(prompt_tokens=one(0, 9))),
        ("training", given(shorter_answer_tokens=one(0, 1))),
        ("training", given(longer_answer_tokens=one(15, 12))),
        ("training", given(tokens=one(513, 512, number=11))),
    ],
)
def test_a_bad_batch_stops(suite: str, frame: pd.DataFrame) -> None:
    report = check(suite, frame, batch="b", now=NOW)
    assert report.stops
    with pytest.raises(CheckFailed, match=f"{suite}.* stops a test: .*Repair it and run again"):
        report.raise_on_stop("a test")


def test_a_few_unscored_answers_are_allowed() -> None:
    assert check("eval_answers", answers(outcome=[None] * 2 + [0] * 98), batch="b", now=NOW).stops == []


def test_warnings_do_not_stop() -> None:
    report = check("interactions", exchanges(response=["the same"] * 4), batch="b", now=NOW)
    assert len(report.warnings) == 1
    assert "response" in report.warnings[0]
    report.raise_on_stop("a test")
    assert check("pairs", pairs(side=["harm"] * 4), batch="b", now=NOW).warnings
    few_users = check("interactions", exchanges(user_id=["", "", "", "u"]), batch="b", now=NOW)
    assert (len(few_users.warnings), few_users.stops) == (1, [])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"tokens": one(513, 512, number=2)}, "at least 95% of the pairs fit [train] max_tokens = 512"),
        ({"taught_differs": one(False, True, number=2)}, "differ within [train] max_completion_tokens = 14"),
        ({"side": ["harm"] * 20}, "side has each of: harm, helpful"),
    ],
)
def test_training_inputs_warn(columns: dict[str, Any], words: str) -> None:
    report = check("training", given(**columns), batch="b", now=NOW)
    assert report.stops == []
    [warning] = report.warnings
    assert words in warning


def test_token_bounds_are_those_of_the_settings() -> None:
    frame = given(tokens=[600] * 20, longer_answer_tokens=[30] * 20)
    longer = training(Train(max_tokens=600, max_completion_tokens=30))
    assert check("training", frame, batch="b", now=NOW, expectations=longer).stops == []
    assert len(check("training", frame, batch="b", now=NOW).stops) == 2


def test_what_cannot_be_computed_stops() -> None:
    """A row check that raised names no rows; that must not read as a clean batch."""
    report = check("interactions", exchanges(created_at=["yesterday", "x", "y", "z"]), batch="b", now=NOW)
    assert any("created_at" in line and "could not be computed" in line for line in report.stops)
    # The exception's type only: its message may quote a row.
    assert [row["detail"]["error"] for row in report.results if row["detail"]["error"]] == ["MetricResolutionError"]


def test_results_quote_no_row() -> None:
    frame = pairs(side=["harm", "Ann's secret", "harm", "harm"], id=["Ann's secret"] * 4)
    report = check("pairs", frame, batch="b", now=NOW)
    assert report.stops
    assert "secret" not in json.dumps(report.results, default=str) + "".join(report.stops)
    commonest = Expectation("ExpectColumnMostCommonValueToBeInSet", {"column": "id", "value_set": ["x"]}, "warn")
    report = check("pairs", frame, batch="b", now=NOW, expectations=[commonest])
    assert len(report.warnings) == 1
    assert "secret" not in json.dumps(report.results, default=str)


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_no_warning_of_the_library_surfaces(category: type[Warning], monkeypatch: pytest.MonkeyPatch) -> None:
    validate = run._validate

    def warns(*arguments: Any) -> list[Any]:
        warnings.warn("an old way", category, stacklevel=1)
        return validate(*arguments)

    monkeypatch.setattr(run, "_validate", warns)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check("interactions", exchanges(), batch="b", now=NOW)
    assert caught == []


def test_no_frame_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's fingerprint of a frame takes as long as the checks; one that is renamed would come back unseen."""
    monkeypatch.setattr(pd.util, "hash_pandas_object", lambda *_, **__: pytest.fail("the frame was hashed"))
    assert check("interactions", exchanges(), batch="b", now=NOW).stops == []


def test_positions_count_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CHUNK_ROWS", 3)
    frame = exchanges(8)
    frame.loc[[1, 4, 7], "prompt"] = ""
    report = check("interactions", frame, batch="b", now=NOW)
    assert sorted(report.rejected) == [1, 4, 7]
    ids = [row["id"] for row in report.results]
    assert len(ids) == len(set(ids)) == 3 * len(SUITES["interactions"])


def test_results_have_the_same_ids_on_a_rerun() -> None:
    first, second = (check("pairs", pairs(), batch="b", now=NOW) for _ in range(2))
    assert [row["id"] for row in first.results] == [row["id"] for row in second.results]
    later = check("pairs", pairs(), batch="b", now=NOW + timedelta(seconds=1))
    assert {row["id"] for row in first.results}.isdisjoint(row["id"] for row in later.results)  # a repair is seen
    other = check("pairs", pairs(), batch="c", now=NOW)
    assert {row["id"] for row in first.results}.isdisjoint(row["id"] for row in other.results)


# A batch beside those before it -------------------------------------------------------------------------------------


def profile(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return what a source delivered `number` days before NOW."""
    values: dict[str, Any] = {
        "id": content_id("profile", number),
        "kind": "ingest",
        "source": "web",
        "run": str(number),
        "total": 1000,
        "stored": 900,
        "quarantined": 3,
        "hours": 24.0,
        "no_user_id": 0.05,
        "no_conversation_id": 0.0,
        "no_model": 0.0,
        "no_signals": 0.6,
        "flagged": 0.1,
        "smaller_side": None,
        "keys": ["messages", "model", "response"],
        "recorded_at": NOW - timedelta(days=number),
    }
    return values | changes


PAST = [profile(number) for number in (1, 2, 3)]


def found(now: dict[str, Any], earlier: list[dict[str, Any]] = PAST, **settings: Any) -> tuple[list[str], list[str], list[str]]:
    """Return the stops, the warnings and the notes of a comparison."""
    report = judge(now, earlier, Checks(**settings), now=NOW)
    return report.stops, report.warnings, [describe(row) for row in report.results if row["detail"].get("note")]


def test_a_usual_batch_passes_every_comparison() -> None:
    assert found(profile()) == ([], [], [])
    assert len(judge(profile(), PAST, Checks(), now=NOW).results) == 1 + 4 + 2 + 1


CHANGES = [
    ("volume_collapse", {"total": 249}, {"total": 250}, "at least 25% of the usual lines (1,000): not so, found 249"),
    ("volume_collapse", {"total": 0, "stored": 0, "no_user_id": None, "keys": None}, {"total": 250}, "of the usual lines"),
    ("null_surge", {"no_user_id": 0.16}, {"no_user_id": 0.14}, "exchanges without a user"),
    ("null_surge", {"no_conversation_id": 0.11}, {"no_conversation_id": 0.09}, "exchanges without a conversation"),
    ("null_surge", {"no_model": 0.11}, {"no_model": 0.09}, "exchanges without a model"),
    ("null_surge", {"no_signals": 0.71}, {"no_signals": 0.69}, "exchanges without any signal"),
    ("schema_change", {"keys": ["messages", "model", "response", "x"]}, {}, "no new key (here: x)"),
    ("schema_change", {"keys": ["messages", "response"]}, {}, "no key gone (here: model)"),
    ("label_imbalance", {"flagged": 0.26}, {"flagged": 0.24}, "web: the share flagged moves by at most 15% (usual 10.0%)"),
]


@pytest.mark.parametrize(("setting", "bad", "good", "words"), CHANGES)
def test_each_comparison_can_fail_as_severely_as_it_is_told(setting: str, bad: dict, good: dict, words: str) -> None:
    stops, warned, _ = found(profile(**bad))
    assert (len(stops), len(warned)) == (0, 1)
    assert words in warned[0]
    stops, warned, _ = found(profile(**bad), **{setting: "stop"})
    assert (len(stops), len(warned)) == (1, 0)
    assert found(profile(**bad), **{setting: "off"})[:2] == ([], [])
    assert found(profile(**good)) == ([], [], [])


def test_without_history_nothing_fails_and_that_is_recorded() -> None:
    alarming = profile(total=210, stored=205, no_user_id=1.0, flagged=0.9, keys=["other"])
    stops, warned, notes = found(
        alarming, PAST[:2], volume_collapse="stop", null_surge="stop", schema_change="stop", label_imbalance="stop"
    )
    assert (stops, warned) == ([], [])
    assert len(notes) == 8
    assert all(note.endswith(NO_HISTORY) for note in notes)
    assert len(found(alarming)[1]) == 5  # volume, users, both changes of keys, and flags


def test_small_batches_are_not_compared() -> None:
    stops, warned, notes = found(profile(total=190, stored=190, no_user_id=1.0, flagged=0.9, keys=["other"]), volume_floor=0.1)
    assert (stops, warned) == ([], [])
    assert sum(note.endswith(TOO_FEW) for note in notes) == 7
    assert found(profile(total=0), [profile(number, total=150) for number in (1, 2, 3)])[1] == []


def test_volume_is_compared_among_runs_that_waited_as_long_and_weekday_with_weekday() -> None:
    assert found(profile(total=10, hours=0.1))[1] == []  # minutes after the last run
    assert found(profile(total=10, hours=None))[1] == []  # the first run of a source
    backlog = [profile(1), profile(2), profile(3, hours=None, total=10**6)]
    assert found(profile(total=10), backlog)[1] == []
    # Weekends are quiet: after three of them a quiet weekend day is no collapse, and a quiet weekday still is.
    weeks = [profile(number, total=100 if (NOW - timedelta(days=number)).weekday() == 6 else 1000) for number in range(1, 29)]
    monday, sunday = NOW, NOW - timedelta(days=1)
    assert (monday.weekday(), sunday.weekday()) == (0, 6)
    assert len(found(profile(total=100, recorded_at=monday), weeks, min_rows=50)[1]) == 1
    assert found(profile(total=100, recorded_at=sunday), weeks[1:], min_rows=50)[1] == []


def test_a_rare_key_does_not_alarm_every_night() -> None:
    past = [profile(1), profile(2, keys=["messages", "model", "response", "rare"]), profile(3)]
    assert found(profile(), past)[1] == []
    assert found(profile(keys=["messages", "model", "response", "rare"]), past)[1] == []


def test_the_smaller_side_of_the_pairs_may_not_fall() -> None:
    past = [profile(number, kind="pairs", total=400, stored=400, smaller_side=0.4) for number in (1, 2, 3)]
    now = profile(kind="pairs", total=400, stored=400)
    assert found({**now, "smaller_side": 0.26}, past) == ([], [], [])
    assert found({**now, "smaller_side": 0.5}, past) == ([], [], [])
    assert len(found({**now, "smaller_side": 0.24}, past)[1]) == 1
    assert len(found({**now, "smaller_side": 0.24}, past, label_imbalance="stop")[0]) == 1


def test_keys_that_look_like_text_are_not_stored() -> None:
    kept = checks.plain_keys({"user_id:VARCHAR", "Ann lives in <b>Rome</b>", "a" * 65})
    assert "user_id:VARCHAR" in kept
    assert len(kept) == 3
    assert not any("Rome" in key or "aaa" in key for key in kept)


# From the store -----------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(home: Path) -> Settings:
    migrate(home)
    return load_settings()


def deliver(home: Path, at: datetime, lines: int, *, source: str | None = "web", users: bool = True, flagged: int = 0) -> None:
    """Store what an ingest run at `at` would: one file in two parts, its exchanges, one signal, and detections."""
    name = content_id(source, at)
    part = {"id": name, "path": f"/logs/{source}.jsonl", "source": source, "rows_quarantined": 1, "ingested_at": at}
    ids = [content_id(source, at, number) for number in range(lines)]
    exchange = {"source_file": name, "created_at": at, "ingested_at": at, "conversation_id": "c", "model": "m", "consent": True}
    rows = [{**exchange, "id": id_, "line_number": number, "user_id": "u" if users else ""} for number, id_ in enumerate(ids)]
    seen = {"detector": "toxicity", "version": "1", "detected_at": at}
    with session(home, write=True) as connection:
        append(connection, "source_files", [{**part, "rows_read": lines - 5}, {**part, "rows_read": 5}], key=("id", "rows_read"))
        append(connection, "interactions", rows)
        append(connection, "signals", [{"id": ids[0], "interaction_id": ids[0], "kind": "thumbs", "value": "up", "recorded_at": at}])
        marks = [{**seen, "interaction_id": id_, "flagged": number < flagged} for number, id_ in enumerate(ids)]
        append(connection, "detections", marks, key=("interaction_id", "detector", "version"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let a test set the time that the flows see."""
    return lambda at: monkeypatch.setattr(checks, "now", lambda: at)


def test_an_ingest_is_profiled_from_the_store(settings: Settings, clock: Any) -> None:
    clock(NOW)
    deliver(settings.home, NOW - timedelta(days=9), 50)
    deliver(settings.home, NOW - timedelta(minutes=1), 20, users=False, flagged=5)
    deliver(settings.home, NOW - timedelta(days=9), 30, source=None)
    report = checks.check_ingest(settings, since=NOW - timedelta(minutes=2), keys={"web": {"b", "a"}})
    assert report.stops == report.warnings == []
    logs, web = query(settings.home, "SELECT * FROM batch_profiles ORDER BY source")
    assert (web["total"], web["stored"], web["quarantined"], web["hours"]) == (20, 20, 2, None)
    assert (web["no_user_id"], web["no_model"], web["no_signals"], web["flagged"]) == (1.0, 0.0, 0.95, 0.25)
    assert json.loads(web["keys"]) == ["a", "b"]
    assert (logs["source"], logs["total"], logs["stored"], logs["no_user_id"], logs["keys"]) == ("logs", 0, 0, None, None)
    assert (settings.home / "data_docs" / "index.html").exists()
    assert query(settings.home, "SELECT DISTINCT suite FROM check_results") == [{"suite": "ingest_history"}]


def test_a_source_that_falls_silent_is_told(settings: Settings, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(9, 4, -1):
        at = NOW - timedelta(days=day)
        clock(at)
        deliver(settings.home, at, 250)
        assert checks.check_ingest(settings, since=at).warnings == []
    clock(NOW - timedelta(days=4))
    silent = NOW - timedelta(days=4, minutes=1)
    [warning] = checks.check_ingest(settings, since=silent).warnings
    assert warning == "web: at least 25% of the usual lines (250): not so, found 0"
    assert checks.check_ingest(settings, since=silent, sources=["app"]).results == []  # a run that did not look for it
    monkeypatch.setenv("ALIGN_CHECKS__VOLUME_COLLAPSE", "stop")
    with pytest.raises(CheckFailed, match="'ingest_history' stops what was read: web: at least 25%"):
        checks.check_ingest(load_settings(), since=silent)
    assert query(settings.home, "SELECT count(*) AS n FROM batch_profiles") == [{"n": 6}]  # the same run is one run


def reading(monkeypatch: pytest.MonkeyPatch, clock: Any, at: datetime, *, accept: bool = False) -> Any:
    """Run the ingest flow at `at` without its detectors."""
    clock(at)
    monkeypatch.setattr(flow, "now", lambda: at)
    for name in ("read_file", "read_small_files"):
        monkeypatch.setattr(flow, name, getattr(getattr(flow, name), "fn", getattr(flow, name)))
    for name in ("moderate_new", "redact_deeply"):
        monkeypatch.setattr(flow, name, lambda: 0)
    return flow.ingest.fn(accept=accept)


def test_a_run_without_new_lines_is_compared_too(settings: Settings, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(9, 4, -1):
        at = NOW - timedelta(days=day)
        clock(at + timedelta(minutes=1))
        deliver(settings.home, at, 250, source="logs")
        checks.check_ingest(settings, since=at)
    (settings.home / "redaction.key").write_bytes(b"k")
    (settings.home / "empty.jsonl").touch()
    monkeypatch.setenv("ALIGN_INGEST__LOGS", json.dumps([str(settings.home / "empty.jsonl")]))
    monkeypatch.setenv("ALIGN_CHECKS__VOLUME_COLLAPSE", "stop")
    for minutes in (1, 2):  # trying again is no way round it
        with pytest.raises(CheckFailed, match=r"logs: at least 25% .* found 0.*align ingest --accept"):
            reading(monkeypatch, clock, NOW - timedelta(days=4) + timedelta(minutes=minutes))
    assert reading(monkeypatch, clock, NOW - timedelta(days=4) + timedelta(minutes=3), accept=True)["read"] == 0
    assert reading(monkeypatch, clock, NOW - timedelta(days=4) + timedelta(minutes=4))["read"] == 0


@pytest.mark.parametrize("killed", [False, True])
def test_a_stop_holds_for_what_was_stored(settings: Settings, clock: Any, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    monkeypatch.setenv("ALIGN_CHECKS__NULL_SURGE", "stop")
    monkeypatch.setenv("ALIGN_CHECKS__SCHEMA_CHANGE", "stop")
    stopping = load_settings()
    for day in range(9, 3, -1):
        at = NOW - timedelta(days=day)
        clock(at + timedelta(minutes=1))
        deliver(settings.home, at, 250, users=day != 4)
        if day > 4:
            checks.check_ingest(stopping, since=at, keys={"web": {"a"}})
    if not killed:
        with pytest.raises(CheckFailed, match=r"without a user .*no new key"):
            checks.check_ingest(stopping, since=at, keys={"web": {"a", "b"}})
    later = at + timedelta(days=1)
    clock(later + timedelta(minutes=1))
    with pytest.raises(CheckFailed, match="without a user" if killed else r"without a user .*no new key"):
        checks.check_ingest(stopping, since=later)
    assert checks.check_ingest(stopping, since=later + timedelta(minutes=2), accept=True).warnings
    clock(later + timedelta(minutes=4))
    assert checks.check_ingest(stopping, since=later + timedelta(minutes=3)).stops == []


class Letters:
    """A tokenizer with a token a letter, which knows no template."""

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.fixture
def ready(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> TrainJob:
    """Store ten pairs with their exchanges, and write them for a training process."""
    import alignment.models.local as local

    def render(_: object, messages: Any, *, add_generation_prompt: bool) -> str:
        return "".join(f"<{one['role']}>{one['content']}" for one in messages) + ("<assistant>" if add_generation_prompt else "")

    monkeypatch.setattr(local, "load_tokenizer", lambda _: Letters())
    monkeypatch.setattr(local, "render", render)
    made = [make_pair(number, side="harm" if number % 2 else "helpful") for number in range(10)]
    with session(settings.home, write=True) as connection:
        append(connection, "interactions", [{"id": pair.interaction_id, "consent": True} for pair in made])
        append(connection, "pairs", [{"id": pair.id, "interaction_id": pair.interaction_id, "side": pair.side} for pair in made])
        append(connection, "pair_sets", [{"id": pair.id, "night_id": "n", "pair_id": pair.id, "split": "train"} for pair in made])
    return write_job(settings.home / "training", Path("base"), "b", settings.home / "cache", made, settings.train)


def withdraw(home: Path, number: int) -> None:
    row = {"id": "no", "interaction_id": content_id("exchange", number), "kind": "no_consent", "value": "true", "recorded_at": NOW}
    with session(home, write=True) as connection:
        append(connection, "signals", [row])


def test_what_training_is_given_is_checked_in_the_store(settings: Settings, ready: TrainJob) -> None:
    assert checks.check_training(settings, "n", ready).stops == []
    assert checks.consent_of(settings, ready.folder) == (10, 0)
    [row] = query(settings.home, "SELECT total, smaller_side FROM batch_profiles WHERE kind = 'pairs'")
    assert row == {"total": 10, "smaller_side": 0.5}


def test_a_pair_without_consent_stops_training(settings: Settings, ready: TrainJob) -> None:
    withdraw(settings.home, 3)
    with pytest.raises(CheckFailed, match="'training' stops the training of night n: every pair has consent: not so for 1 of 10 rows"):
        checks.check_training(settings, "n", ready)
    assert checks.consent_of(settings, ready.folder) == (10, 1)
    [row] = query(settings.home, "SELECT rows_failed FROM check_results WHERE column_name = 'consent' AND rows_failed > 0")
    assert row == {"rows_failed": 1}


def test_a_pair_that_the_store_does_not_know_has_no_consent(settings: Settings, ready: TrainJob) -> None:
    path = ready.folder / PAIRS
    stranger = json.loads(path.read_text().splitlines()[0]) | {"id": "unknown"}
    path.write_text(path.read_text() + json.dumps(stranger) + "\n")
    assert checks.consent_of(settings, ready.folder) == (11, 1)


def test_training_and_the_gate_ask_for_consent(settings: Settings, ready: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.gate as gating
    import flows.train as train

    withdraw(settings.home, 3)
    with pytest.raises(CheckFailed, match=r"1 of 10 pairs of the training run .* lack consent by now; nothing is released"):
        gating._consented(settings, "n", str(ready.folder))
    started: list[object] = []
    monkeypatch.setattr(train, "load_pairs", lambda *_: [])
    monkeypatch.setattr(train, "write_job", lambda *_: ready)
    monkeypatch.setattr(train, "base_path", lambda _: Path("base"))
    monkeypatch.setattr(train, "folder_id", lambda _: "b")
    monkeypatch.setattr(train, "_run", started.append)
    with pytest.raises(CheckFailed, match="every pair has consent"):
        train.fit.fn("n")
    assert started == []


def test_weights_that_learnt_from_erased_pairs_are_not_gated(settings: Settings, ready: TrainJob) -> None:
    """An erasure takes the pairs out of the run's file, and out of no weights."""
    import flows.gate as gating

    run = {"id": content_id("n", ready.folder.name), "night_id": "n", "summary": {"pairs_given": 10}, "finished_at": NOW}
    with session(settings.home, write=True) as connection:
        append(connection, "training_runs", [run])
    assert gating._consented(settings, "n", str(ready.folder)) == (10, 0)
    path = ready.folder / PAIRS
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(CheckFailed, match=r"1 of 10 pairs of the training run .* were erased since; nothing is released"):
        gating._consented(settings, "n", str(ready.folder))


def test_the_card_says_what_the_store_counted() -> None:
    decision = GateDecision("d", "base", "x", "block", (), ())
    result = TrainResult("r", Path("a"), 2, 1, 1.0, 0.5, 0.1, 1.0)
    card = release_card("x", "base", decision, [make_pair(1)], result, given=412, without_consent=0)
    assert "0 of 412 pairs lack consent" in card


# Data Docs ----------------------------------------------------------------------------------------------------------


def test_data_docs_need_no_network_and_quote_no_row(tmp_path: Path) -> None:
    bad = exchanges(response=["Ann's secret"] * 4, prompt=["", "Ann's secret", "x", "y"])
    rows = check("interactions", bad, batch="b", now=NOW).results
    rows += check("pairs", pairs(side=["harm", "Ann's secret", "harm", "harm"]), batch="b", now=NOW).results
    rows += judge(profile(source="<script>x</script>", total=1), PAST, Checks(), now=NOW).results
    rows += judge(profile(), [], Checks(), now=NOW).results
    index = write_docs(tmp_path / "docs", rows)
    written = {path.name: path.read_text() for path in index.parent.iterdir()}
    assert set(written) == {"index.html", "interactions.html", "pairs.html", "ingest_history.html"}
    for text in written.values():
        assert "secret" not in text
        assert "<script" not in text
        assert "//" not in text
        assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert "prompt has 1 to 200,000 characters: not so for 1 of 4 rows" in written["interactions.html"]
    assert "values must never be null" in written["interactions.html"]  # as Great Expectations says it
    assert "no history yet" in written["ingest_history.html"]
    assert 'href="pairs.html"' in written["index.html"]
    assert "Failed" in written["index.html"]


def test_only_what_ran_is_written_again(tmp_path: Path) -> None:
    rows = check("pairs", pairs(), batch="b", now=NOW).results
    write_docs(tmp_path, rows)
    page = tmp_path / "pairs.html"
    page.write_text("as it was")
    write_docs(tmp_path, rows, only={"interactions"})
    assert page.read_text() == "as it was"
    write_docs(tmp_path, rows, only={"pairs"})
    assert "2 rows" in page.read_text()


def test_a_run_is_as_good_as_its_worst_result() -> None:
    good = check("interactions", exchanges(), batch="b", now=NOW).results
    assert overall(good) == "passed"
    assert overall(check("interactions", exchanges(prompt=["", "a", "b", "c"]), batch="b", now=NOW).results) == "quarantined"
    assert overall(check("interactions", exchanges(response=["a"] * 4), batch="b", now=NOW).results) == "warned"
    assert overall(check("interactions", exchanges(0), batch="b", now=NOW).results) == "failed"
    assert overall(judge(profile(), [], Checks(), now=NOW).results) == "not compared"
