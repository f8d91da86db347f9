"""Which night a stage belongs to, and what its summary counts."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment.config import Settings, load_settings
from alignment.errors import ConfigError, InputError, TrainingError
from alignment.ids import content_id
from alignment.labels import load_constitution
from alignment.labels.check import constitution_text
from alignment.records import Side
from alignment.store import append, migrate, query, session, sql
from flows.cli import app
from flows.gate import trained_challenger
from flows.labelled import selected
from flows.night import night_ids, night_lock, only_night, plan_night, stage, unfinished
from tests.conftest import NOW, make_interaction


def put(home: Path, table: str, *rows: dict[str, Any]) -> None:
    migrate(home)
    with session(home, write=True) as connection:
        append(connection, table, rows)


def event(night: str, name: str, hours: int) -> dict[str, Any]:
    return {"id": f"{night}-{name}", "night_id": night, "event": name, "recorded_at": NOW + timedelta(hours=hours)}


def test_only_the_last_night_can_be_unfinished(home: Path) -> None:
    put(home, "night_events", event("given up", "started", 0), event("second", "started", 1))
    assert unfinished(home) == "second"
    put(home, "night_events", event("second", "finished", 2))
    assert unfinished(home) is None
    assert night_ids(home) == ["second", "given up"]


def test_a_night_has_read_what_came_since_the_one_before(home: Path) -> None:
    put(home, "night_events", event("first", "started", 0), event("first", "finished", 2), event("second", "started", 4))
    for hours, rows in ((1, 5), (3, 7), (5, 11)):
        put(home, "source_files", {"id": str(hours), "rows_read": rows, "rows_stored": rows, "ingested_at": NOW + timedelta(hours=hours)})

    def read(night: str) -> int:
        return query(home, sql("flows", "night_read"), {"night_id": night})[0]["read"]

    # The first night's own end does not hide its files; a file of a killed attempt counts with the next.
    assert read("second") == 18
    assert read("first") == 23


def test_a_stage_shares_the_lock_of_its_night(home: Path) -> None:
    with night_lock(home), night_lock(home):
        pass
    with night_lock(home):
        pass


def test_a_night_reads_its_settings_and_its_constitution_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own, config = tmp_path / "own.yaml", tmp_path / "align.toml"
    own.write_text(constitution_text()[1])
    config.write_text("[train]\nepochs = 3\n")
    settings = load_settings()
    with only_night(settings):
        before = load_constitution(str(own))
        config.write_text("[train]\nepochs = 'never'\n")
        own.write_text("no constitution")
        # A stage takes the lock of its night again.
        with only_night(load_settings()):
            assert load_settings() is settings
            assert load_constitution(str(own)) is before
        assert load_settings().train.epochs == 3
    with pytest.raises(ConfigError):
        load_settings()
    with pytest.raises(ConfigError):
        load_constitution(str(own))


def test_a_look_at_the_lock_refuses_no_night(home: Path) -> None:
    looking = os.open(home / ".night.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, (looking,)).start()
    with night_lock(home):
        pass


def test_what_stops_a_stage_is_stored_with_its_night(home: Path) -> None:
    migrate(home)
    for error, told in (
        (TrainingError("no memory left; ask ada@example.org"), "no memory left"),
        (KeyboardInterrupt(), "stopped by the person"),
    ):
        with pytest.raises(type(error)), stage(home, "n", "train"):
            raise error
        newest = query(home, sql("dashboard", "night_failures"), {"night": "n"})[0]
        assert newest["stage"] == "train"
        assert newest["error"].startswith(told)
        assert "ada@example.org" not in newest["error"]
    assert query(home, "SELECT count(*) AS n FROM stage_runs") == [{"n": 0}]
    # Where the store is not to be had, the error is the one that stopped the stage.
    (home / "store.duckdb").write_bytes(b"x" * 9000)
    with pytest.raises(TrainingError), stage(home, "n", "train"):
        raise TrainingError("no memory left")


def test_what_was_stored_when_the_gate_was_called_release_is_the_gates(home: Path) -> None:
    migrate(home, upto=25)
    with session(home, write=True) as connection:
        rows = [{"id": name, "night_id": "n", "stage": name, "seconds": 2.0, "finished_at": NOW} for name in ("release", "train")]
        append(connection, "stage_runs", rows)
        failed = {**event("n", "failed", 1), "summary": {"stage": "release", "error": "no memory left"}}
        append(connection, "night_events", [failed])
    migrate(home)
    ran = [[row["stage"] for row in query(home, sql("dashboard", name), given)] for name, given in _READERS.items()]
    assert [sorted(stages) for stages in ran] == [["gate", "train"], ["gate", "train"], ["gate"]]
    settings = Settings(home=home, model={"path": str(weights(home))})  # type: ignore[arg-type]
    ended = {**event(plan_night(settings).id, "finished", 2), "summary": {"stages": {"train": 1.0, "release": 2.0}}}
    put(home, "night_events", ended)
    night = plan_night(settings)
    assert night.finished == {"stages": {"train": 1.0, "gate": 2.0}}


_READERS: dict[str, dict[str, Any]] = {
    "stages": {"night": "n"},
    "night_stages": {"limit": 9},
    "night_failures": {"night": "n"},
}


def test_the_gate_takes_what_was_trained_last(home: Path) -> None:
    put(home, "night_events", event("first", "started", 0), event("second", "started", 1))
    with pytest.raises(InputError, match="no trained challenger; run 'align ingest'"):
        trained_challenger(home)
    for hours, (night, run) in enumerate((("first", "a"), ("second", "b"), ("first", "c"))):
        (home / "training" / run).mkdir(parents=True)
        put(home, "training_runs", {"id": content_id(night, run), "night_id": night, "finished_at": NOW + timedelta(hours=hours)})
    assert trained_challenger(home) == ("first", str(home / "training" / "c"))
    assert trained_challenger(home, "second") == ("second", str(home / "training" / "b"))
    shutil.rmtree(home / "training" / "b")
    with pytest.raises(InputError, match="'align train --night second'"):
        trained_challenger(home, "second")
    with pytest.raises(InputError, match="'align train --night third'"):
        trained_challenger(home, "third")


def test_the_gate_by_hand_neither_trains_nor_monitors(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home, "night_events", event("n", "started", 0))
    trained = {"id": "t", "night_id": "n", "stage": "train", "seconds": 1.0, "counts": {"folder": "a", "steps": 3}, "finished_at": NOW}
    put(home, "stage_runs", trained)
    (home / "training" / "a").mkdir(parents=True)
    put(home, "training_runs", {"id": content_id("n", "a"), "night_id": "n", "finished_at": NOW})
    asked: list[str] = []
    decided = {"decision": "block", "state": "not released", "metrics": [], "release_id": "base"}
    monkeypatch.setattr("flows.serve.start_short_server", lambda _: None)
    monkeypatch.setattr("flows.cli.base.prepare", lambda *_, **__: None)
    monkeypatch.setattr("flows.stages.FLOWS", {"gate": lambda night: asked.append(night) or decided})
    done = CliRunner().invoke(app, ["gate", "--json"])
    assert (done.exit_code, json.loads(done.stdout), asked) == (3, decided, ["n"])
    rows = query(home, "SELECT stage, counts FROM stage_runs WHERE id <> 't'")
    assert [(row["stage"], json.loads(row["counts"])) for row in rows] == [("gate", {"decision": "block"})]
    # The night has ended: stages by hand belong to the next one.
    assert unfinished(home) is None
    [ended] = query(home, "SELECT summary FROM night_events WHERE event = 'finished'")
    summary = json.loads(ended["summary"])
    assert (summary["stages"].keys(), summary["train"]["steps"], summary["alarms"]) == ({"train", "gate"}, 3, None)


def test_a_renamed_principle_leaves_its_exchanges_to_its_successor(home: Path) -> None:
    one = make_interaction("x")
    row = {"id": one.id, "conversation_id": "c", "user_id": "u", "created_at": NOW, "model": "m", "prompt": one.prompt}
    put(home, "interactions", {**row, "messages": list(one.messages), "response": "no", "consent": True})
    refused = {"interaction_id": one.id, "detector": "refusal", "version": "1", "score": 0.6, "detected_at": NOW}
    with session(home, write=True) as connection:
        append(connection, "detections", [refused], key=("interaction_id", "detector", "version"))
    chosen = {"interaction_id": one.id, "side": "helpful", "category": "ordinary", "principle_id": "was-renamed", "position": 0}
    put(home, "selections", {**chosen, "id": "s", "night_id": "n"})
    [(found, complained)] = selected(Settings(home=home), "n")
    assert (found.principle_id, found.side, found.declined, complained) == ("be-helpful", Side.HELPFUL, True, False)
    [(found, _)] = selected(Settings(home=home, moderation={"refusal": 0.7}), "n")  # type: ignore[arg-type]
    assert not found.declined


def weights(home: Path, content: bytes = b"weights") -> Path:
    """Return a folder with the bytes of a base model, enough to tell it from another."""
    (home / "base").mkdir(parents=True, exist_ok=True)
    (home / "base" / "model.safetensors").write_bytes(content)
    return home / "base"


def test_another_base_in_the_same_folder_makes_another_night(home: Path) -> None:
    migrate(home)
    settings = Settings(home=home, model={"path": str(weights(home))})  # type: ignore[arg-type]
    first = plan_night(settings).id
    assert plan_night(settings).id == first
    weights(home, b"other weights")
    assert plan_night(settings).id != first
