"""A state folder that the version before wrote (`states/026.tar.xz`, up to migration 026): migrated, and its next night goes on."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from alignment.store import migrate, query
from bench.tiny import make_tiny_model
from tests.test_flow import CONFIG, align, sample_lines

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1800)]
STATE = Path(__file__).parent / "states" / "026.tar.xz"
KEPT = (
    "interactions",
    "signals",
    "quarantine",
    "pairs",
    "judgements",
    "candidates",
    "seeds",
    "training_runs",
    "gate_decisions",
    "eval_answers",
)
"""Tables whose rows no later night may lose."""
OLD, NEW = 90, 40


def ids(home: Path, table: str) -> set[str]:
    return {row["id"] for row in query(home, f"SELECT id FROM {table}")}


def test_a_state_folder_of_the_version_before_is_migrated_and_its_next_night_goes_on(tmp_path: Path) -> None:
    with tarfile.open(STATE) as archive:
        archive.extractall(tmp_path, filter="data")
    home = tmp_path / "home"
    before = {table: ids(home, table) for table in KEPT}
    assert all(before.values())
    columns = {row["column_name"] for row in query(home, "DESCRIBE seeds")}
    migrate(home)
    assert {row["column_name"] for row in query(home, "DESCRIBE seeds")} - columns == {"before"}

    make_tiny_model(tmp_path / "tiny")
    (tmp_path / "align.toml").write_text(CONFIG.replace("budget = 16", "budget = 8").replace("pairs = 40", "pairs = 12"))
    lines = sample_lines(OLD)
    lines += [line for line in sample_lines(OLD + 2 * NEW) if line not in lines][:NEW]
    (tmp_path / "logs.jsonl").write_text("\n".join(lines) + "\n")
    output, _ = align(tmp_path, "home", "nightly", "--json")
    night = json.loads(output)
    assert not night.get("nothing_new")
    assert night["decision"] in ("promote", "block", "insufficient evidence")
    for table, known in before.items():
        assert known <= ids(home, table), table
    # A few of the sampled lines are the same exchange, or are quarantined.
    assert len(ids(home, "interactions") - before["interactions"] - ids(home, "seeds")) in range(NEW - 5, NEW + 1)
    assert len(ids(home, "training_runs")) == len(before["training_runs"]) + 1
    align(tmp_path, "home", "status")
