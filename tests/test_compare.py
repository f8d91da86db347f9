"""`align compare`: what cannot be meant is refused, what is no evidence releases nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from alignment.errors import InputError
from alignment.evals.compare import compare, read_outcomes
from alignment.evals.seals import seal
from flows import cli

pytestmark = pytest.mark.fast

Row = dict[str, Any]


def rows(number: int = 400, failures: int = 80, size: int = 1) -> list[Row]:
    return [{"id": f"p{i}", "cluster": f"c{i // size}", "outcome": int(i < failures)} for i in range(number)]


def write(path: Path, lines: list[Row]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(tmp_path: Path, old: list[Row], new: list[Row], *options: str) -> Result:
    files = (str(write(tmp_path / "old.jsonl", old)), str(write(tmp_path / "new.jsonl", new)))
    return CliRunner().invoke(cli.app, ["compare", *files, *options])


def test_it_says_decision_effect_interval_power_and_reasons(tmp_path: Path) -> None:
    result = run(tmp_path, rows(), rows(failures=40), "--kind", "superior", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["decision"] == "promote"
    assert found["effect"] == pytest.approx(-0.1)
    low, high = found["interval"]
    assert low < -0.1 < high < 0
    assert (found["n"], found["clusters"], found["worse"], found["better"], found["unscored"]) == (400, 400, 0, 40, 0)
    assert 0 < found["power"]["detectable"] < 0.1
    assert found["power"]["statement"].startswith("these 400 prompts in 400 clusters detect a fall of ")
    assert found["reasons"] == [f"failures: fell by 10.0 points, at least {-100 * high:.1f} points with confidence"]


@pytest.mark.parametrize(
    ("old", "new", "options", "word", "code"),
    [
        (rows(), rows(), (), "promote", 0),
        (rows(), rows(), ("--kind", "superior"), "insufficient evidence", 3),
        (rows(), rows(failures=140), (), "block", 3),
        (rows(), rows(failures=96), (), "block", 3),
        (rows(), rows(failures=83, number=400)[::-1], ("--margin", "0.01"), "insufficient evidence", 3),
        (rows(), rows(failures=96), ("--margin", "0.1"), "promote", 0),
        (rows(size=20), rows(size=20), (), "insufficient evidence", 3),
        (rows(size=40), rows(size=40), ("--margin", "1"), "insufficient evidence", 3),
        (rows(40), rows(40), ("--margin", "1"), "insufficient evidence", 3),
        (rows(), rows()[20:], (), "insufficient evidence", 3),
        (rows()[20:], rows(), (), "insufficient evidence", 3),
        (rows(), [{**row, "outcome": None} if i % 20 == 0 else row for i, row in enumerate(rows())], (), "insufficient evidence", 3),
        (
            rows(),
            [{**row, "outcome": None} if i % 20 == 0 else row for i, row in enumerate(rows())],
            ("--max-unscored", "0.1"),
            "promote",
            0,
        ),
    ],
)
def test_decisions_and_exit_status(tmp_path: Path, old: list[Row], new: list[Row], options: tuple[str, ...], word: str, code: int) -> None:
    result = run(tmp_path, old, new, *options)
    assert result.stdout.startswith(word), result.stdout
    assert result.exit_code == code


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ([], "it has no rows"),
        ([{"id": "p0", "outcome": 1}], "line 1: 'cluster' missing"),
        ([{"id": "p0", "cluster": "c0"}], "line 1: 'outcome' missing"),
        ([*rows(), rows()[3]], "line 401: id 'p3' was there before"),
        ([{**rows()[0], "outcome": 0.5}], "outcome = 0.5; 0, 1 or null"),
        ([{**rows()[0], "outcome": True}], "outcome = True"),
        ([{**rows()[0], "outcome": "1"}], "outcome = '1'"),
        ([{**rows()[0], "outcome": float("nan")}], "outcome = nan"),
        ([{**rows()[0], "id": None}], "id = None"),
        ([{**rows()[0], "cluster": ["c"]}], "cluster = ['c']"),
        ([{**rows()[0], "cluster": "another"}], "1 ids are in another cluster in each file, such as 'p0' ('c0' and 'another')"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, new: list[Row], message: str) -> None:
    for files in ((rows(), new), (new, rows())):
        result = run(tmp_path, *files)
        assert result.exit_code == 1
        assert message.replace("'c0' and 'another'", "") in result.stderr.replace("'c0' and 'another'", "").replace(
            "'another' and 'c0'", ""
        )


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"[1]\n", b"nonsense\n", b'{"id": "1"'])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.jsonl"):
        read_outcomes(path)
    with pytest.raises(InputError, match="cannot read"):
        read_outcomes(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("key", ["prompt", "suite", "suite_version", "scorer", "scorer_version", "max_new_tokens"])
def test_what_was_made_otherwise_is_stale(tmp_path: Path, key: str) -> None:
    old, new = ([{**row, key: value} for row in rows()] for value in ("a", "b"))
    assert run(tmp_path, old, old).exit_code == 0
    result = run(tmp_path, old, new)
    assert result.exit_code == 3
    assert f"400 answers: stale: {key} differs between the files" in result.stdout
    # Other keys are nobody's business.
    assert run(tmp_path, [{**row, "note": "a"} for row in rows()], [{**row, "note": "b"} for row in rows()]).exit_code == 0


@pytest.mark.parametrize("side", [0, 1])
def test_an_edited_row_is_told(tmp_path: Path, side: int) -> None:
    files = [[seal(row) for row in rows()] for _ in range(2)]
    assert run(tmp_path, *files).exit_code == 0
    files[side][0]["outcome"] = 0
    result = run(tmp_path, *files)
    assert result.exit_code == 3
    assert "1 answers: the row was edited after it was sealed" in result.stdout
    assert "(id 'p0')" in result.stdout
    # Taking the seal off as well does not help, nor does a whole row of the other file.
    del files[side][0]["digest"]
    result = run(tmp_path, *files)
    assert result.exit_code == 3
    assert "1 answers: the row has no seal, unlike others of its file (id 'p0')" in result.stdout


def test_a_row_of_another_release_does_not_count(tmp_path: Path) -> None:
    old, new = ([seal({**row, "release": name}) for row in rows()] for name in ("a", "b"))
    assert run(tmp_path, old, new).exit_code == 0
    result = run(tmp_path, old, [*new[:7], old[7], *new[8:]])
    assert result.exit_code == 3
    assert "1 answers: the row is of another release than the first of its file (id 'p7')" in result.stdout


def test_a_file_that_lost_rows_is_no_evidence(tmp_path: Path) -> None:
    """As few as the share that may be missing, and each left as it was sealed."""
    old, new = ([seal({**row, "rows": 400}) for row in rows()] for _ in range(2))
    assert run(tmp_path, old, new).exit_code == 0
    result = run(tmp_path, old, new[4:])
    assert result.exit_code == 3
    assert "396 answers: the row was sealed as one of 400, the file has 396" in result.stdout


def test_what_only_one_sealed_file_says_differs(tmp_path: Path) -> None:
    old, new = ([seal({**row, **more}) for row in rows()] for more in ({"scorer_version": "1"}, {}))
    result = run(tmp_path, old, new)
    assert result.exit_code == 3
    assert "400 answers: stale: scorer_version differs between the files (id 'p0', 'p1', 'p2')" in result.stdout


def test_files_without_seals_are_called_unsealed(tmp_path: Path) -> None:
    sealed = [seal(row) for row in rows()]
    assert run(tmp_path, rows(), rows()).stdout.count("unsealed") == 2
    assert "unsealed" not in run(tmp_path, sealed, sealed).stdout
    found = json.loads(run(tmp_path, sealed, rows(), "--json").stdout)
    assert (found["decision"], found["unsealed"]) == ("insufficient evidence", [str(tmp_path / "new.jsonl")])
    assert "the row has no seal, unlike those of the other file" in found["reasons"][0]


def test_clusters_count(tmp_path: Path) -> None:
    """The same outcomes: harmless as 400 prompts, chance as 25 clusters that changed as one."""
    found = [
        compare(
            read_outcomes(write(tmp_path / "a", rows(size=size))), read_outcomes(write(tmp_path / "b", rows(failures=64, size=size))),
            kind="superior", margin=0, confidence=0.95, max_unscored=0,
        )
        for size in (1, 16)
    ]  # fmt: skip
    assert [one.decision for one in found] == ["promote", "insufficient evidence"]


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    for options in (("--margin", "-1"), ("--margin", "nan"), ("--confidence", "2"), ("--kind", "better"), ("--max-unscored", "1.5")):
        assert run(tmp_path, rows(), rows(), *options).exit_code == 2, options
