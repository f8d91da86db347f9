"""The whole loop in processes of its own, with a tiny model made on the fly."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from alignment.gate_floor import BUNDLED
from alignment.records import STAGES
from alignment.store import query
from bench.tiny import make_tiny_model

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1800)]
CONFIG = """
[ingest]
logs = ["logs.jsonl"]
[model]
path = "tiny"
[candidates]
harm_budget = 16
helpful_budget = 16
max_new_tokens = 8
[labels]
min_margin = 0.05
[seeds]
pairs = 40
[train]
epochs = 1
lora_rank = 4
max_completion_tokens = 24
max_tokens = 1500
checkpoint_steps = 1
[gate]
max_new_tokens = 8
max_prompts = 50
unsafe = "few prompts and short answers make a test quick"
[pairs]
eval_share = 0.2
"""


def sample_lines(number: int) -> list[str]:
    """Real requests of the sample traffic with made-up answers."""
    import gzip

    rng = random.Random(1)
    path = Path(str(files("alignment.samples") / "traffic.jsonl.gz"))
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return rng.sample(lines, number)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a configuration and a log, as a user would have it."""
    folder = tmp_path_factory.mktemp("workplace")
    make_tiny_model(folder / "tiny")
    (folder / "align.toml").write_text(CONFIG)
    (folder / "logs.jsonl").write_text("\n".join(sample_lines(260)) + "\n")
    return folder


def start(workplace: Path, home: str, *arguments: str, program: str = "tests.remembering") -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ALIGN_", "PREFECT_"))}
    return subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        cwd=workplace,
        env={**clean, "ALIGN_HOME": str(workplace / home), "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def align(workplace: Path, home: str, *arguments: str, status: int = 0, program: str = "tests.remembering") -> tuple[str, str]:
    process = start(workplace, home, *arguments, program=program)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == status, errors[-4000:] + output[-2000:]
    return output, errors


def pairs_of(workplace: Path, home: str) -> list[dict[str, object]]:
    return query(
        workplace / home,
        "SELECT pairs.id, chosen, rejected, side, category, judge_margin, cluster_id, pair_sets.split, night_id "
        "FROM pairs JOIN pair_sets ON pair_id = pairs.id ORDER BY pairs.id",
    )


@pytest.fixture(scope="module")
def whole_night(workplace: Path) -> dict[str, object]:
    output, _ = align(workplace, "whole", "nightly", "--json")
    return json.loads(output)


def test_what_is_edited_during_a_night_is_for_the_next(tmp_path: Path) -> None:
    """From the first headline on neither the settings nor the constitution can be read any more; every stage is as it was planned."""
    make_tiny_model(tmp_path / "tiny")
    shutil.copy(str(files("alignment.labels") / "constitution.yaml"), tmp_path / "own.yaml")
    (tmp_path / "align.toml").write_text(CONFIG.replace("[labels]", "[labels]\nconstitution = 'own.yaml'"))
    (tmp_path / "logs.jsonl").write_text("\n".join(sample_lines(120)) + "\n")
    process = start(tmp_path, "home", "nightly", "--json")
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip() == "ingest":
            break
    for name in ("align.toml", "own.yaml"):
        (tmp_path / name).write_text("[train]\nepochs = 'never'\n")
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-4000:]
    night = json.loads(output)
    assert night["stages"].keys() == set(STAGES)
    assert night["train"]["pairs"] > 10
    align(tmp_path, "home", "status", status=1)


def test_a_night_runs_from_logs_to_a_verdict(workplace: Path, whole_night: dict) -> None:
    counts = whole_night["counts"]
    assert counts["read"] == counts["stored"] + counts["duplicate"] + counts["quarantined"] == 260
    assert counts["pairs"] == len(pairs_of(workplace, "whole")) > 10
    assert whole_night["decision"] in ("promote", "block", "insufficient evidence")
    assert {metric["name"] for metric in whole_night["metrics"]} == set(BUNDLED)
    # A random model cannot have become safer: nothing is released.
    assert whole_night["decision"] != "promote"
    assert whole_night["release_id"] == "base"
    events = query(workplace / "whole", "SELECT event FROM release_events ORDER BY event")
    assert [row["event"] for row in events] == ["blocked", "registered"]


def test_a_second_night_without_news_does_nothing(workplace: Path, whole_night: dict) -> None:
    before = query(workplace / "whole", "SELECT count(*) AS n FROM stage_runs")
    output, errors = align(workplace, "whole", "nightly", "--json")
    assert json.loads(output)["nothing_new"] is True
    assert "trained nothing, called no model" in errors
    assert query(workplace / "whole", "SELECT count(*) AS n FROM stage_runs") == before


def test_a_night_killed_in_every_stage_ends_with_the_same_pairs(workplace: Path, whole_night: dict) -> None:
    # Placeholders of personal data differ between state folders unless these share their key.
    (workplace / "killed").mkdir()
    shutil.copy(workplace / "whole" / "redaction.key", workplace / "killed")
    for stage in STAGES:
        process = start(workplace, "killed", "nightly")
        for line in process.stderr or ():
            if line.strip() == stage:
                break
        else:
            pytest.fail(f"the night ended before stage {stage}: {process.stdout.read() if process.stdout else ''}")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    output, _ = align(workplace, "killed", "nightly", "--json")
    night = json.loads(output)
    assert night["night_id"] == whole_night["night_id"]
    assert pairs_of(workplace, "killed") == pairs_of(workplace, "whole")
    assert night["challenger"] == whole_night["challenger"]


def test_two_nights_at_once_do_not_overlap(workplace: Path) -> None:
    import fcntl

    home = workplace / "locked"
    home.mkdir()
    with (home / ".night.lock").open("w") as handle:
        handle.write("4242")
        handle.flush()
        fcntl.flock(handle, fcntl.LOCK_EX)
        _, errors = align(workplace, "locked", "nightly", status=1)
    assert "another night is running" in errors
    assert "4242" in errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "nothing to label"),
        ("not json\n" * 25, "are unusable"),
    ],
)
def test_logs_that_cannot_be_used_stop_the_night_with_one_message(workplace: Path, tmp_path: Path, line: str, message: str) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(line)
    _, errors = align(workplace, "bad", "nightly", "--logs", str(bad), status=1)
    assert message in errors
    assert str(bad) in errors
    assert "Traceback" not in errors
    assert errors.count("error:") == 1


def test_a_missing_log_is_named(workplace: Path) -> None:
    _, errors = align(workplace, "bad", "nightly", "--logs", "nowhere/*.jsonl", status=1)
    assert "no log file matches 'nowhere/*.jsonl'" in errors
    assert "Traceback" not in errors
