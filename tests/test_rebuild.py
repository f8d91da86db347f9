"""A real night, its store damaged, and `align doctor --rebuild`: the same rows everywhere, and the next night finds nothing new."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from alignment.store import append_durably, query, store_path
from alignment.store.integrity import evidence_findings, store_findings
from bench.tiny import make_tiny_model
from tests.conftest import NOW
from tests.filled import everything
from tests.test_flow import CONFIG, align, sample_lines

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1800)]


def ids(home: Path) -> dict[str, list[object]]:
    # A file that is read again has a row for its first reading, too.
    return {
        table: query(home, f"SELECT DISTINCT id FROM {table} ORDER BY id")
        for table in ("interactions", "signals", "quarantine", "source_files", "pairs", "verdicts", "eval_scores")
    }


def test_a_night_survives_the_loss_of_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_model(tmp_path / "tiny")
    (tmp_path / "align.toml").write_text(CONFIG)
    (tmp_path / "logs.jsonl").write_text("\n".join([*sample_lines(200), "not json"]) + "\n")
    home = tmp_path / "home"
    align(tmp_path, "home", "nightly", "--json")
    assert store_findings(home) == evidence_findings(home) == []
    monkeypatch.chdir(tmp_path)
    [item] = query(home, "SELECT id FROM review_items LIMIT 1")
    # As a page stores it; who holds an item is forgotten with the store.
    row = {"id": "v", "item_id": item["id"], "reviewer": "ann", "verdict": "skip", "note": "späť", "decided_at": NOW, "seq": 1}
    append_durably(home, "verdicts", [row])
    before = everything(home)
    assert before["verdicts"]

    os.truncate(store_path(home), store_path(home).stat().st_size // 2)
    output, _ = align(tmp_path, "home", "doctor", "--json", status=1)
    found = {row["check"]: row for row in json.loads(output)}
    assert [name for name, row in found.items() if row["result"] == "wrong" and name not in ("versions", "disk")] == ["gate", "store"]
    _, errors = align(tmp_path, "home", "nightly", status=1)
    assert "run 'align doctor'" in errors
    assert "Traceback" not in errors
    align(tmp_path, "home", "doctor", "--rebuild", status=1)
    output, errors = align(tmp_path, "home", "doctor", "--rebuild", "--yes", "--json")
    assert json.loads(output)["lost"] == []
    assert everything(home) == before
    output, _ = align(tmp_path, "home", "nightly", "--json")
    assert json.loads(output)["nothing_new"] is True

    # The exchanges' part is gone as well: the logs give them back.
    known = ids(home)
    store_path(home).unlink()
    shutil.rmtree(home / "evidence" / "interactions")
    output, errors = align(tmp_path, "home", "doctor", "--rebuild", "--yes", "--json", status=1)
    rows = {row["table"]: row for row in json.loads(output)["tables"]}
    assert rows["interactions"]["logs"] == len(known["interactions"])
    assert rows["interactions"]["lost"] == 0
    assert "interactions/" in errors
    assert ids(home) == known
    output, _ = align(tmp_path, "home", "nightly", "--json")
    assert json.loads(output)["nothing_new"] is True
    # The gate of these settings is weakened, which is always told.
    output, _ = align(tmp_path, "home", "doctor", "--json", status=1)
