"""Logs are hostile: whatever stands in them, reading does not crash and no line vanishes; nor does one when the reader is killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alignment.ingest import Batch
from alignment.store import query
from tests.conftest import ROOT, child_environment
from tests.test_ingest import ingest, line, said, take

LINES, LONG = 10_000, 50_000_000


def _cut(draw: random.Random, good: bytes) -> bytes:
    return good[: draw.randrange(1, len(good))]


def _wrong_type(draw: random.Random, good: bytes) -> bytes:
    row = json.loads(good)
    row[draw.choice(list(row))] = draw.choice([None, 3, True, [], {}, "x", [[]], {"a": {}}, -1e308, ["x"]])
    return json.dumps(row).encode()


def _bytes(draw: random.Random, good: bytes) -> bytes:
    place = draw.randrange(len(good))
    return (
        good[:place] + draw.choice([b"\x00", b"\xff\xfe", b"\x80", b"\r", b"\x01", b"\xed\xa0\x80", b"\xc0\xaf", b"\x1b[2J"]) + good[place:]
    )


def _deep(draw: random.Random, good: bytes) -> bytes:
    depth = draw.choice([10, 1000, 20_000])
    opened, closed = draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return (
        good[:-1]
        + b', "extra": '
        + opened * depth
        + b"1" * (opened != b"[")
        + closed * (depth if draw.random() < 0.7 else depth - 1)
        + b"}"
    )


def _twice(draw: random.Random, good: bytes) -> bytes:
    return good[:-1] + draw.choice([b', "response": "other"}', b', "messages": []}', b', "created_at": "x", "created_at": 1}'])


def _laughs(draw: random.Random, good: bytes) -> bytes:
    """A document that is small here and large where references are resolved, and one that only repeats itself."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return json.dumps(said(f"<?xml version='1.0'?><!DOCTYPE z [{laughs}]><z>&l9;</z>" + draw.choice(["", "{{x}}" * 5000]))).encode()


def _surrogate(draw: random.Random, good: bytes) -> bytes:
    return good.replace(b"In water", draw.choice([rb"\ud800", rb"\udc00\ud800", rb"\u0000", rb"\uFFFF", rb"\x", rb"\u12"]))


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (_cut, _wrong_type, _bytes, _deep, _twice, _laughs, _surrogate)


def mutated(count: int) -> Iterator[bytes]:
    draw = random.Random(0)
    for number in range(count):
        good = json.dumps(line(conversation_id=f"c{number}", response=f"In water, {number}")).encode()
        yield draw.choice(MUTATIONS)(draw, good).replace(b"\n", b" ")


def test_ten_thousand_mutated_lines_are_all_accounted_for(home: Path) -> None:
    parts = list(mutated(LINES))
    long = json.dumps(line(response="y" * LONG)).encode()
    parts[LINES // 2] = long
    # The bytes of a bare carriage return do not end a line.
    expected = sum(1 for part in parts if part.strip(b" \t\r\n"))
    batch = take(home, b"\n".join([*parts, json.dumps(line(response="last")).encode()]) + b"\n")
    assert batch.read == expected + 1 == batch.stored + batch.duplicate + batch.quarantined
    [counts] = query(home, "SELECT (SELECT count(*) FROM interactions) AS i, (SELECT count(*) FROM quarantine) AS q")
    assert (counts["i"], counts["q"]) == (batch.stored, batch.quarantined)
    reasons = Counter({row["reason"]: row["n"] for row in query(home, "SELECT reason, count(*) AS n FROM quarantine GROUP BY reason")})
    assert reasons["too_long"] == 1
    assert min(reasons["not_json"], reasons["not_utf8"], reasons["messages_not_a_list"]) > 50
    # Half of the mutations leave a usable line behind, and what they are is stored as it was read.
    assert batch.stored > LINES // 5
    [row] = query(home, "SELECT line_number, length(raw) AS shown FROM quarantine WHERE reason = 'too_long'")
    assert row == {"line_number": LINES // 2 + 1, "shown": 2000}
    assert query(home, "SELECT count(*) AS n FROM interactions WHERE response = 'last'") == [{"n": 1}]
    assert ingest(home, home / "log.jsonl") == Batch()


def test_the_first_of_duplicate_keys_counts_everywhere(home: Path) -> None:
    """Readers differ on which one counts; here what is checked is what is stored."""
    good = json.dumps(line(response="first")).encode()
    batch = take(home, good[:-1] + b', "response": "second"}\n')
    assert batch.stored + batch.quarantined == 1
    rows = query(home, "SELECT response FROM interactions")
    assert rows in ([], [{"response": "first"}])


@pytest.mark.timeout(600)
def test_killed_at_random_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    """`align bench kill` does it fifty times."""
    runs = int(os.environ.get("KILLS", "8"))
    code = f"from pathlib import Path; from bench.kill import run; print(run(Path({str(tmp_path / 'k')!r}), {runs}, rows=3000))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "lost=0, twice=0, unaccounted=0)" in done.stdout
    assert "killed_midway=0" not in done.stdout
