"""What the command line says when it cannot start or is used wrongly, and that it prints ids whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from alignment.records import STAGES
from flows import cli
from flows.cli import base as shared


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


_ANYTHING = (str, list[str], Path)
"""Types of options for which any word will do."""


def commands(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the words and the command of each command and group of `align`."""
    found = group or get_command(cli.app)
    yield words, found
    for name, one in getattr(found, "commands", {}).items():
        yield from commands(one, (*words, name))


def wrong_lines() -> Iterator[tuple[str, ...]]:
    """Yield of every command what its own declaration refuses: an unknown command or option, a value of a wrong type, a missing one."""
    for words, one in commands():
        yield (*words, "--no-such-option")
        if hasattr(one, "commands"):
            yield (*words, "no-such-command")
        if any(each.required for each in one.params):
            yield words
        for each in one.params:
            if each.param_type_name == "option" and not each.is_flag and each.type_descriptor.annotation not in _ANYTHING:
                yield (*words, each.opts[0], "nonsense")


@pytest.mark.parametrize("line", list(wrong_lines()), ids=" ".join)
def test_misuse_of_a_command_exits_with_2(line: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli.app, list(line))
    assert (done.exit_code, "Traceback" in done.output) == (2, False), done.output


@pytest.mark.parametrize(
    "line",
    [
        "ingest --quarantine --replay",
        "ingest --explain f --logs f",
        "ingest --logs f --source s",
        "ingest --preset openai",
        "ingest --reason r",
        "ingest --logs f --preset nonsense",
        "gate --approve n --refuse n --reason r",
        "gate --approve n",
        "gate --reason r",
        "gate --override r --again",
        "gate --approve n --reason r",
        "dashboard --for ada",
        "release canary a --end --reason r",
        "release canary a",
        "release canary a --share 0.6 --reason r --actor ann",
        "release rollback --reason r",
        "release promote a --reason r --actor \u202e",
        "pairs flip 12345678 --reason r",
        "eval --suite harm --release base --out o --scorer help",
        "eval --suite s --release base --out o --format nonsense",
        "seeds add f --source s --licence l --format nonsense",
        "audit verify --head x",
        "compare a b --margin nan",
        "score f --out f",
    ],
)
def test_options_that_cannot_be_meant_exit_with_2(home: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(shared, "prepare", lambda *_, **__: None)
    done = CliRunner().invoke(cli.app, line.split())
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert not (home / "store.duckdb").exists()


@pytest.mark.parametrize(
    "line",
    [
        "release show nothing",
        "trace 12345678",
        "ingest --explain nowhere",
        "train --night nothing",
        "gate",
        "gate --night nothing",
        "eval --suite nothing --release base --out o",
        "compare nowhere nowhere",
        "score nowhere",
        "constitution check nowhere",
        "pairs export --out o",
    ],
)
def test_other_failures_exit_with_1_and_one_message(home: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(shared, "prepare", lambda *_, **__: None)
    monkeypatch.setattr("flows.serve.start_short_server", lambda _: None)
    done = CliRunner().invoke(cli.app, line.split())
    assert (done.exit_code, done.stderr.count("error: ")) == (1, 1), done.output


def test_every_stage_has_a_command_and_a_flow_of_its_name() -> None:
    from flows.stages import FLOWS

    assert STAGES == ("ingest", "curate", "train", "gate", "monitor") == tuple(FLOWS) == tuple(flow.name for flow in FLOWS.values())
    assert set(STAGES) <= get_command(cli.app).commands.keys()  # type: ignore[attr-defined]
