"""A backup taken in the middle of a real night: restored, that night goes on under its id and decides as the undisturbed one did.

Whoever is notified learns of the end of both.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from alignment.release import list_releases, verify
from alignment.store import query
from alignment.store.integrity import evidence_findings, store_findings
from bench.tiny import make_tiny_model
from tests.test_flow import CONFIG, align, sample_lines, start
from tests.test_notifications import SECRET, Receiver
from tests.test_notifications import receiver as receiver
from tests.test_old_state import STATE

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1800)]

EVENTS = {"promote": "promoted", "block": "blocked", "insufficient evidence": "insufficient evidence"}


def pairs(home: Path, night: str) -> list[dict[str, object]]:
    return query(home, "SELECT pair_id FROM pair_sets WHERE night_id = ? ORDER BY pair_id", [night])


def test_a_night_goes_on_from_a_backup_that_was_taken_while_it_ran(tmp_path: Path, receiver: Receiver) -> None:
    with tarfile.open(STATE) as archive:
        archive.extractall(tmp_path, filter="data")
    make_tiny_model(tmp_path / "tiny")
    told = f"[notify]\nurls = ['{receiver.url()}']\n"
    (tmp_path / "align.toml").write_text(CONFIG.replace("budget = 16", "budget = 8").replace("pairs = 40", "pairs = 12") + told)
    (tmp_path / "logs.jsonl").write_text("\n".join(sample_lines(130)) + "\n")
    process = start(tmp_path, "home", "nightly", "--json")
    assert process.stderr is not None
    taken = []
    for line in process.stderr:
        if (stage := line.strip()) in ("ingest", "curate", "train", "gate"):
            # The night goes on meanwhile: nothing reads what it says for some seconds, and it says little.
            output, _ = align(tmp_path, "home", "backup", f"{stage}.tar.gz", "--json")
            assert json.loads(output)[0]["held_seconds"] >= 0
            taken.append(stage)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-4000:]
    undisturbed = json.loads(output)
    assert taken == ["ingest", "curate", "train", "gate"]

    # The last one holds a finished training run of a night that has not been decided.
    home = tmp_path / "restored"
    align(tmp_path, "restored", "restore", "gate.tar.gz", "--to", "restored")
    assert store_findings(home) == evidence_findings(home) == []
    output, _ = align(tmp_path, "restored", "nightly", "--json")
    night = json.loads(output)
    assert (night["night_id"], night["decision"]) == (undisturbed["night_id"], undisturbed["decision"])
    assert pairs(home, night["night_id"]) == pairs(tmp_path / "home", night["night_id"])
    assert {**night["train"], "folder": ""} == {**undisturbed["train"], "folder": ""}
    for row in list_releases(home):
        verify(home, row["release_id"])
    align(tmp_path, "restored", "audit", "verify")
    assert store_findings(home) == evidence_findings(home) == []

    assert [sent["title"] for _, sent in receiver.seen] == [f"align: {EVENTS[night['decision']]}"] * 2
    assert all(f"night: {night['night_id']}\n" in sent["message"] for _, sent in receiver.seen)
    assert SECRET not in errors
    for path in [*(tmp_path / "home").rglob("*"), *home.rglob("*")]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
