"""What the command line says when it cannot start, and that it prints ids whole."""

from __future__ import annotations

import shutil
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from flows import cli
from flows import command as shared


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_full_disk_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    # It sets environment variables, which would outlive this test.
    monkeypatch.setattr(shared, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**30, 2**30, 3 * 2**20))
    for command in ("nightly", "ingest", "serve"):
        result = CliRunner().invoke(cli.app, [command])
        assert result.exit_code == 1
        assert "only 3 MiB are free" in result.stderr
        assert "64 are needed" in result.stderr
    # Rolling back must work on a full disk: it is not asked for room.
    assert "MiB" not in CliRunner().invoke(cli.app, ["release", "rollback", "--reason", "x", "--actor", "ann"]).stderr


def test_ids_are_never_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shared, "out", shared.Console(width=60, highlight=False))
    row: dict[str, Any] = {"release_id": "0123456789abcdef", "status": "in production", "reason": "because " * 20}
    shared.print_rows([row], as_json=False)
    assert "0123456789abcdef" in capsys.readouterr().out


def test_a_table_that_is_too_wide_is_turned_instead_of_breaking_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shared, "out", shared.Console(width=60, highlight=False))
    names = ("precision", "pairs_per_second", "reference_seconds", "prompt", "completion", "gibibytes")
    shared.print_rows([dict.fromkeys(names, f"{way}[b]") for way in ("stock", "random", "shared_prefix")], as_json=False)
    printed = capsys.readouterr().out
    assert all(name.replace("_", " ") in printed for name in names)
    assert printed.count("shared_prefix[b]") == len(names)
    assert max(map(len, printed.splitlines())) <= 60
