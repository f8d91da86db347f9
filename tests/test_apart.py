"""Damage that ends the process which reads it is a finding, and costs a rebuild only what lies there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import StoreBusy, StoreCrashed
from alignment.store import integrity, query, restore
from alignment.store.integrity import store_findings
from alignment.store.isolated import apart
from tests.filled import everything, fill


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _busy() -> None:
    raise StoreBusy("locked")


def test_what_is_done_apart_comes_back() -> None:
    assert apart(int, "7") == 7
    with pytest.raises(StoreBusy, match="locked"):
        apart(_busy)
    with pytest.raises(StoreCrashed, match="ended the process"):
        apart(_die)


def test_a_crash_is_a_finding(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "apart", lambda *_, **__: apart(_die))
    assert store_findings(home) == ["reading the store ended the process that read it"]


def test_after_a_crash_each_part_is_read_by_itself(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home, rows=300)
    before = everything(home)

    def crashing(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        verdicts = function.__name__ == "_salvage_range" and "verdicts" in arguments
        if function.__name__ == "_salvaged" or verdicts:
            raise StoreCrashed("reading the store ended the process that read it")
        return function(*arguments, **options)

    monkeypatch.setattr(restore, "apart", crashing)
    target = tmp_path / "new"
    found = restore.restore(home, target)
    assert found.store["verdicts"] == 0 < found.expected["verdicts"]
    assert query(target, "SELECT count(*) AS n FROM pairs") == query(home, "SELECT count(*) AS n FROM pairs")
    assert everything(home) == before
