"""What the pages say of a night at work and of its end, from the lock and the rows that nights and stages by hand leave; no night runs."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from alignment.config import Settings
from alignment.errors import AlignError
from alignment.store import append, migrate, session
from dashboard import data, night_data, night_start
from flows.cli.serve import _dashboard_environment
from flows.night import night_lock, now, record_failure, record_night, record_stage
from tests.dashboard_pages import opened, texts


@pytest.fixture
def failed(home: Path) -> Path:
    """A state folder whose only night failed in its training an hour ago."""
    migrate(home)
    at = now() - timedelta(hours=1)
    told = {"started": {}, "failed": {"stage": "train", "error": "out of memory"}}
    events = [{"id": name, "night_id": "one", "event": name, "summary": said, "recorded_at": at} for name, said in told.items()]
    done = {"id": "i", "night_id": "one", "stage": "ingest", "seconds": 3.0, "counts": {}, "finished_at": at}
    with session(home, write=True) as connection:
        append(connection, "night_events", events)
        append(connection, "stage_runs", [done])
    return home


def said(app: Any) -> str:
    return "\n".join([*texts(app), *(one.value for kind in ("markdown", "caption", "success", "warning", "info") for one in app.get(kind))])


def test_a_night_that_failed_before_is_not_the_one_that_runs(failed: Path) -> None:
    with night_lock(failed):
        going = night_data.going()
        assert going is not None
        assert (going.night, going.stage) == (None, None)
        assert "Reading the logs, or a stage by hand" in said(opened("nights"))
        # It is resumed: the first row of this run.
        record_stage(failed, "one", "ingest", 2.0, {})
        data.forget()
        going = night_data.going()
        assert going is not None and going.night is not None
        assert (going.night["night_id"], going.stage) == ("one", "curate")


def test_a_stage_by_hand_on_a_finished_night_is_not_called_ingest(failed: Path) -> None:
    record_night(failed, "one", "finished", {"decision": "block"})
    with night_lock(failed):
        going = night_data.going()
        assert going is not None
        assert (going.night, going.stage) == (None, None)
        shown = said(opened("nights"))
    assert "Ingest: " not in shown
    assert "Reading the logs, or a stage by hand" in shown


def test_a_night_that_succeeds_between_two_looks_is_not_called_stopped(home: Path) -> None:
    migrate(home)
    with night_lock(home):
        record_night(home, "one", "started", {})
        app = opened("nights")
        assert night_data.going() is not None
        record_night(home, "one", "finished", {"decision": "block"})
    app.run()
    assert [one.value.split(":")[0] for one in app.success] == ["The night has ended"]
    assert not app.warning


def test_a_resumed_night_that_fails_again_points_to_its_page(failed: Path) -> None:
    with night_lock(failed):
        app = opened("nights")
        record_failure(failed, "one", "train", AlignError("out of memory again"))
    app.run()
    assert [one.value for one in app.warning] == ["The night has stopped before its end; below it says why."]
    assert any("out of memory again" in text for text in texts(app))


def answers(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script stand in for the command that starts a night."""
    run = subprocess.run
    monkeypatch.setattr(night_start.subprocess, "run", lambda _, **named: run([sys.executable, "-c", script], **named))


def test_a_night_of_a_page_starts_in_the_folder_that_the_dashboard_was_started_in(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_in = _dashboard_environment(Settings(home=home))["ALIGN_STARTED_IN"]
    monkeypatch.setenv("ALIGN_STARTED_IN", started_in)
    (tmp_path / "install").mkdir()
    monkeypatch.chdir(tmp_path / "install")
    answers("import json, os; print(json.dumps({'how': 'process', 'id': os.getcwd()}))", monkeypatch)
    assert night_start.start_night(actor="Ada", force=False).id == str(tmp_path)
    monkeypatch.setenv("ALIGN_STARTED_IN", str(tmp_path / "gone"))
    with pytest.raises(AlignError, match=r"the night was not started: No such file or directory: .*gone"):
        night_start.start_night(actor="Ada", force=False)


@pytest.mark.parametrize("answer", ["", "a night was started", "[]", "{}"])
def test_an_answer_that_is_no_started_night_is_told(answer: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(f"print({answer!r})", monkeypatch)
    with pytest.raises(AlignError, match="and not which night it started"):
        night_start.start_night(actor="Ada", force=False)
