"""What every page says where there is little or nothing to show: an empty, busy, damaged or lost store, a first night that runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alignment.store import append, migrate, session
from dashboard import data, night_data
from flows.night import night_lock
from tests.dashboard_pages import PAGES, STORE_PAGES, opened, press, texts
from tests.dashboard_store import LAST, night_rows


def started(home: Path) -> Path:
    """Leave a first night that has begun, and done no more."""
    migrate(home)
    with session(home, write=True) as connection:
        append(connection, "night_events", [night_rows(0, 1)["night_events"][0]])
    return home


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Keep the store from everybody else, as a writer does."""
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with session(home, write=True):
            taken.set()
            release.wait(60)

    writer = threading.Thread(target=hold)
    writer.start()
    try:
        assert taken.wait(20)
        yield
    finally:
        release.set()
        writer.join()


def said(app: Any) -> str:
    """Return all words of a page that are not a table's."""
    return "\n".join(
        [*texts(app), *(element.value for kind in ("markdown", "caption", "subheader", "header", "title") for element in app.get(kind))]
    )


@pytest.mark.parametrize("page", STORE_PAGES)
def test_empty_store_says_what_to_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "nothing"))
    app = opened(page)
    assert not app.exception
    assert [code.value for code in app.code] == ["align nightly"]
    migrate(tmp_path / "schema only")
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "schema only"))
    app = opened(page)
    assert not app.exception
    assert [code.value for code in app.code] == ["align nightly"]


@pytest.mark.parametrize("page", STORE_PAGES)
def test_a_damaged_store_is_told(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store.duckdb").write_bytes(b"this is no database" * 100)
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path))
    app = opened(page)
    assert not app.exception
    assert app.subheader[-1].value == "The store cannot be read"
    assert "align doctor" in said(app)


@pytest.mark.parametrize("page", STORE_PAGES)
def test_a_lost_store_is_not_called_a_new_one(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "manifest.json").write_text("{}")
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path))
    app = opened(page)
    assert not app.exception
    assert "align doctor --rebuild" in said(app)


def test_a_busy_store_offers_to_try_again_on_every_page(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "READ_WAIT", 0.05)
    with held(own):
        pages = {page: opened(page) for page in STORE_PAGES}
    for page, app in pages.items():
        assert not app.exception, page
        assert app.subheader[-1].value == "The store is busy", page
    press(pages["overview"], "Try again")
    assert pages["overview"].header[0].value.endswith("Promoted]")


@pytest.mark.parametrize("page", PAGES)
def test_a_first_night_that_runs_is_told(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = started(tmp_path / "first")
    monkeypatch.setenv("ALIGN_HOME", str(home))
    with night_lock(home):
        app = opened(page)
        assert not app.exception
        assert not app.code
        words = said(app)
        assert "unning" in words
        # What is not counted yet has no tile.
        assert "–" not in {metric.value for metric in app.metric}


def test_before_the_store_is_there_the_first_night_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path))
    with night_lock(tmp_path):
        assert opened().title[0].value == "The first night is running"
    assert opened().title[0].value == "No night has run yet"


def test_a_night_that_was_stopped_says_how_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = started(tmp_path / "first")
    monkeypatch.setenv("ALIGN_HOME", str(home))
    app = opened("nights")
    assert app.header[0].value.endswith("Stopped]")
    assert [code.value for code in app.code] == ["align nightly"]


def test_a_night_that_another_took_the_place_of_is_not_to_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = started(tmp_path / "first")
    with session(home, write=True) as connection:
        append(connection, "night_events", [{"id": "o", "night_id": "older", "event": "started", "recorded_at": LAST.replace(hour=1)}])
    monkeypatch.setenv("ALIGN_HOME", str(home))
    app = opened("nights")
    app.selectbox[0].select_index(1).run()
    assert app.header[0].value.endswith("Left unfinished]")
    assert not app.code


def test_what_stopped_a_night_stands_on_its_page(own: Path) -> None:
    night = "later"
    error = "training stopped: out of memory <b>[x](https://evil.example/a)</b>"
    events = [
        {"id": f"{night}-{name}", "night_id": night, "event": name, "summary": told, "recorded_at": LAST.replace(hour=5 + hour)}
        for hour, (name, told) in enumerate((("started", {}), ("failed", {"stage": "train", "error": error})))
    ]
    run = {"id": "later-ingest", "night_id": night, "stage": "ingest", "seconds": 3.0, "counts": {"read": 7}, "finished_at": LAST}
    with session(own, write=True) as connection:
        append(connection, "night_events", events)
        append(connection, "stage_runs", [run])
    app = opened("nights")
    assert not app.exception
    assert app.header[0].value.endswith("Failed]")
    assert {error, "7 read"} <= set(texts(app))
    assert "Stopped in **train**, 2026-11-22 06:00 UTC" in said(app)
    assert [code.value for code in app.code] == ["align nightly"]
    states = [stage.state for stage in night_data.stages(night_data.nights()[0])]
    assert states == ["done", "stopped", "not yet", "not yet", "not yet"]
    # The night before it finished all the same, and its address leads to it.
    app.selectbox[0].select_index(1).run()
    assert app.header[0].value.endswith("Promoted]")
    assert "412 pairs · pairs by side: harm 214, helpful 198" in texts(app)
    assert app.query_params["night"] == night_rows(11, 12)["night_events"][0]["night_id"]
    table = app.dataframe[-1].value
    assert (table["State"].iloc[0], table["Failures"].iloc[0], len(table)) == ("Failed", "1", 13)


def test_wrong_settings_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_TRAIN__EPOCHS", "none")
    assert opened().subheader[0].value == "The settings are wrong"
