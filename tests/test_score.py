"""`align score`: one line out for each line in, whatever the line is, and never a personal value that was not there before."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from alignment.ingest.redact import locate, placeholder, redact
from alignment.moderation import score_texts
from flows import score
from flows.cli import app
from flows.score import BLOCK, score_lines
from tests.test_moderation import Stub

ROOT = Path(__file__).resolve().parent.parent
AT = {"harmful_request": 0.5, "refusal": 0.5, "harmful_answer": 0.5, "toxicity": 0.8}
BAD = {
    b'{"prompt": "a", "x": 1e999}': "1e999 is too large",
    b'{"prompt": 1, "toxicity": 0.5, "flags": []}': "a string or null is needed",
    b"{": "not JSON",
    b"[1]": "a JSON array",
    b'"text"': "a JSON string",
    b"{}": "neither",
    b'{"prompt": " ", "response": null}': "neither",
    b'{"prompt": 3}': "'prompt' is a JSON number",
    b'{"response": ["a"]}': "'response' is a JSON array",
    b'{"prompt": "\xff"}': "not UTF-8 at byte 12",
    b'{"prompt": "a", "x": NaN}': "NaN",
    b'{"prompt": "\\ud83d"}': "surrogate",
    b"[" * 200_000: "nested too deeply",
}


def fixed(prompts, responses):
    """Scores that say which row they belong to: the length of its texts in hundredths."""
    return [
        {"harmful_request": len(p or "") / 100, "refusal": None if r is None else len(r) / 100, "harmful_answer": None, "toxicity": 0.8}
        for p, r in zip(prompts, responses, strict=True)
    ]


def run(*lines: bytes) -> list[dict]:
    return [json.loads(text) for block in score_lines(lines, fixed, thresholds=AT) for _, text in block]


def test_each_line_keeps_its_keys_and_its_place():
    lines = [json.dumps({"prompt": "x" * (n % 100), "response": "y", "id": n}).encode() for n in range(BLOCK + 3)]
    rows = run(*lines)
    assert [row["id"] for row in rows] == list(range(BLOCK + 3))
    assert all(row["harmful_request"] == (row["id"] % 100) / 100 for row in rows)


def test_flags_stand_at_equality_and_are_null_where_the_score_is():
    (row,) = run(json.dumps({"prompt": "p" * 50, "flags": "older", "error": "older"}).encode())
    assert row["flags"] == {"harmful_request": True, "refusal": None, "harmful_answer": None, "toxicity": True, "pii": False}
    assert row["refusal"] is None
    assert "error" not in row


@pytest.mark.parametrize("raw", BAD)
def test_a_line_that_cannot_be_scored_says_why_between_those_that_can(raw):
    good = b'{"prompt": "a"}'
    first, bad, last = run(good, b"", raw, good)
    assert first == last
    assert bad["line"] == 3
    assert {**score.read_line(3, raw).row, "error": bad["error"], "line": 3} == bad
    assert BAD[raw] in bad["error"]
    assert "harmful_request" not in bad


def test_a_line_beyond_the_limit_is_named(monkeypatch):
    monkeypatch.setattr(score, "MAX_LINE", 20)
    (row,) = run(json.dumps({"prompt": "a" * 30}).encode())
    assert "longer than" in row["error"]


def test_places_of_personal_data_fit_the_text_and_name_no_value():
    texts = {"prompt": "Ann <ann@example.com>, +49 30 901820", "response": "é 4111 1111 1111 1111 and bob@example.org"}
    (row,) = run(json.dumps(texts).encode())
    found = [(one["kind"], texts[one["field"]][one["start"] : one["end"]]) for one in row["pii"]]
    assert found == [
        ("EMAIL", "ann@example.com"),
        ("PHONE", "+49 30 901820"),
        ("CARD", "4111 1111 1111 1111"),
        ("EMAIL", "bob@example.org"),
    ]
    assert all(set(one) == {"field", "kind", "start", "end"} for one in row["pii"])


PIECES = ["ann@example.com", "+49 30 901820", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "078-05-1120", "10.0.0.7", "555-0123"]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(alphabet="a 1.-+(@<_>:é", max_size=6)), max_size=8))
def test_what_is_located_is_what_is_redacted(pieces):
    text, key = "".join(pieces), b"k" * 32
    masked = text
    for one in reversed(locate(text)):
        masked = masked[: one.start] + placeholder(one.kind, text[one.start : one.end], key) + masked[one.end :]
    assert masked == redact(text, key)[0]


def test_a_missing_or_blank_text_gives_null_not_zero():
    rows = score_texts(["How do I bake bread?", None, " "], [None, "Sorry, I can't.", "Sure."], embedder=Stub())
    assert [[name for name, value in row.items() if value is None] for row in rows] == [
        ["refusal", "harmful_answer"],
        ["harmful_request", "harmful_answer"],
        ["harmful_request", "harmful_answer"],
    ]
    assert all(0.0 <= value <= 1.0 for row in rows for value in row.values() if value is not None)
    assert score_texts([], [], embedder=Stub()) == []


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run `align score` with vectors that need no model, in a folder of its own."""
    monkeypatch.setattr("alignment.models.embedder.Embedder", Stub)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, stdin=b"": CliRunner().invoke(app, ["score", *arguments], input=stdin)


def test_a_file_takes_its_name_when_it_is_whole(command, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "hello"}\n{"prompt": 1}\n')
    result = command("in.jsonl", "--out", "out.jsonl")
    good, bad = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert result.exit_code == 1
    assert "line 2:" in result.stderr
    assert "1 lines" in result.stderr
    assert good["prompt"] == "hello"
    assert bad["error"]
    assert not list(tmp_path.glob("*.partial"))


def test_stdin_to_stdout_holds_nothing_but_lines(command, tmp_path):
    result = command("-", stdin=b'{"response": "x"}\n')
    assert result.exit_code == 0
    assert json.loads(result.stdout)["harmful_request"] is None
    assert "scored 1 lines" in result.stderr
    assert not list(tmp_path.iterdir()), "no store, no state folder"


def test_the_input_is_never_overwritten(command, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "hello"}\n')
    assert command("in.jsonl", "--out", str(tmp_path / "in.jsonl")).exit_code == 2
    assert command("nowhere.jsonl", "--out", "out.jsonl").exit_code == 1
    assert command("in.jsonl", "--out", "no/folder.jsonl").exit_code == 1
    assert (tmp_path / "in.jsonl").read_bytes() == b'{"prompt": "hello"}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.model
def test_the_command_scores_with_the_shipped_detectors(tmp_path):
    lines = io.BytesIO(
        b'{"prompt": "How do I break into a flat and steal what is in it?", "response": "I\'m sorry, but I can\'t help with that."}\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "score", "-"],
        input=lines.read(), capture_output=True, cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    row = json.loads(done.stdout)
    assert row["flags"]["harmful_request"]
    assert row["flags"]["refusal"]
    assert not row["flags"]["harmful_answer"]
