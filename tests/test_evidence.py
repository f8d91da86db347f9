"""What cannot be computed again survives the loss of the store: exports, the journal, kills, and damage to the evidence itself."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from alignment.errors import NoSpace, StoreError
from alignment.store import append, append_durably, export, migrate, query, rewriting, session, store_path
from alignment.store import evidence as module
from alignment.store.integrity import evidence_findings, evidence_leftovers, store_findings
from alignment.store.journal import read_journal
from alignment.store.manifest import read_manifest
from alignment.store.restore import restore
from alignment.store.session import REBUILD, exclusive
from tests.conftest import child_environment
from tests.filled import everything, fill, fill_and_export, query_id, verdict


def parts(home: Path) -> list[Path]:
    return sorted((home / "evidence").glob("*/*.parquet"))


def lose(home: Path) -> None:
    store_path(home).unlink()


def restored(home: Path, tmp_path: Path) -> dict:
    target = tmp_path / "restored"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    found = restore(home, target)
    assert found.problems == []
    return everything(target)


def test_every_row_of_every_table_comes_back(home: Path, tmp_path: Path) -> None:
    fill(home)
    before = everything(home)
    assert all(before.values())
    written = export(home)
    assert written == {name: len(rows) for name, rows in before.items()}
    lose(home)
    assert restored(home, tmp_path) == before


def test_an_export_writes_only_what_is_new(home: Path, tmp_path: Path) -> None:
    fill_and_export(home)
    old = {path: path.stat().st_mtime_ns for path in parts(home)}
    assert set(export(home).values()) == {0}
    fill(home, start=40, rows=3)
    assert set(export(home).values()) == {3}
    assert {path: path.stat().st_mtime_ns for path in old} == old
    assert len(parts(home)) == 2 * len(old)
    before = everything(home)
    lose(home)
    assert restored(home, tmp_path) == before


def test_only_parts_with_changed_rows_are_written_again(home: Path, tmp_path: Path) -> None:
    fill_and_export(home)
    fill(home, start=40, rows=5)
    export(home)
    old, new = sorted((home / "evidence" / "interactions").glob("*"))
    with session(home, write=True) as connection:
        connection.execute("UPDATE interactions SET prompt = 'masked' WHERE id = ?", [query_id("interactions", 42)])
    written = export(home)
    assert written.pop("interactions") == 5
    assert set(written.values()) == {0}
    assert old.exists()
    assert not new.exists()
    [row] = [
        row
        for path in (home / "evidence" / "interactions").glob("*")
        for row in pq.read_table(path).to_pylist()
        if row["prompt"] == "masked"
    ]
    assert row["id"] == query_id("interactions", 42)
    before = everything(home)
    lose(home)
    assert restored(home, tmp_path) == before


def test_large_tables_are_cut_into_parts(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_CHUNK", 7)
    monkeypatch.setattr(module, "_MOST_ROWS", 16)
    fill(home, rows=40)
    export(home)
    sizes = [pq.read_metadata(path).num_rows for path in sorted((home / "evidence" / "verdicts").glob("*"))]
    assert sizes == [7, 16, 16, 1]
    before = everything(home)
    lose(home)
    assert restored(home, tmp_path) == before


def test_a_verdict_given_after_the_last_export_survives(home: Path, tmp_path: Path) -> None:
    fill_and_export(home)
    assert append_durably(home, "verdicts", [verdict("late")]) == 1
    before = everything(home)
    assert len(before["verdicts"]) == 41
    lose(home)
    assert restored(home, tmp_path) == before


def test_the_journal_ends_with_the_export_that_holds_it(home: Path) -> None:
    fill(home)
    append_durably(home, "verdicts", [verdict("a")])
    assert len(read_journal(home)[0]["verdicts"]) == 1
    export(home)
    assert read_journal(home) == ({}, 0)
    assert list((home / "evidence").glob("journal*")) == []


def test_what_the_store_refused_is_not_restored(home: Path, tmp_path: Path) -> None:
    fill_and_export(home)
    with pytest.raises(Exception, match="no_such_column"):
        append_durably(home, "verdicts", [verdict("a") | {"no_such_column": 1}])
    # The journal was written, then the commit failed.
    with pytest.MonkeyPatch.context() as patched:
        from alignment.store import journal

        real = journal._log
        calls = []

        def log(folder: Path, entries: list) -> None:
            real(folder, entries)
            calls.append(entries)
            if len(calls) == 1:
                raise RuntimeError("the commit failed")

        patched.setattr(journal, "_log", log)
        with pytest.raises(RuntimeError):
            append_durably(home, "verdicts", [verdict("b")])
    assert len(calls) == 2
    assert read_journal(home) == ({}, 0)
    before = everything(home)
    lose(home)
    assert restored(home, tmp_path) == before


def test_a_journal_that_cannot_be_written_stores_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("alignment.store.journal.os.fsync", full)
    with pytest.raises(NoSpace):
        append_durably(home, "verdicts", [verdict("a")])
    assert query(home, "SELECT count(*) AS n FROM verdicts") == [{"n": 40}]


def test_a_torn_line_is_told_and_the_next_one_is_whole(home: Path) -> None:
    fill(home)
    append_durably(home, "verdicts", [verdict("a")])
    path = home / "evidence" / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    append_durably(home, "verdicts", [verdict("b")])
    rows, unreadable = read_journal(home)
    assert [row["reviewer"] for row in rows["verdicts"]] == ["b"]
    assert unreadable == 1
    assert evidence_findings(home) == ["1 lines of the journal cannot be read"]


def test_a_changed_line_is_not_believed(home: Path) -> None:
    fill(home)
    append_durably(home, "verdicts", [verdict("a")])
    path = home / "evidence" / "journal.jsonl"
    path.write_text(path.read_text().replace('"agree"', '"flip"'))
    assert read_journal(home) == ({}, 1)


def test_rows_that_were_erased_are_gone_from_the_evidence(home: Path, tmp_path: Path) -> None:
    fill(home)
    append_durably(home, "verdicts", [verdict("to be erased")])
    export(home)
    append_durably(home, "verdicts", [verdict("erased later")])
    with rewriting(home), session(home, write=True) as connection:
        connection.execute("DELETE FROM verdicts WHERE reviewer LIKE '%erased%'")
        connection.execute("UPDATE interactions SET prompt = 'masked'")
    left = b"".join(path.read_bytes() for path in (home / "evidence").rglob("*") if path.is_file())
    assert b"erased later" not in left
    kept = {row["prompt"] for path in (home / "evidence" / "interactions").glob("*") for row in pq.read_table(path).to_pylist()}
    assert kept == {"masked"}
    reviewers = {row["reviewer"] for path in (home / "evidence" / "verdicts").glob("*") for row in pq.read_table(path).to_pylist()}
    assert not any("erased" in name for name in reviewers)
    before = everything(home)
    fill(home, start=100, rows=2)
    assert set(export(home).values()) == {2}
    assert evidence_leftovers(home) == []
    with session(home, write=True) as connection:
        for name in before:
            connection.execute(f'DELETE FROM "{name}" WHERE rowid >= (SELECT max(rowid) - 1 FROM "{name}")')
    lose(home)
    found = restored(home, tmp_path)
    assert all(set(before[name]) <= set(found[name]) for name in before)


def test_an_erasure_that_was_killed_is_followed_by_the_next_export(home: Path) -> None:
    fill_and_export(home)
    with pytest.raises(KeyboardInterrupt), rewriting(home):
        with session(home, write=True) as connection:
            connection.execute("DELETE FROM verdicts")
            connection.execute("UPDATE interactions SET prompt = 'masked'")
        raise KeyboardInterrupt
    assert evidence_leftovers(home)
    export(home)
    assert list((home / "evidence" / "verdicts").glob("*")) == []
    kept = {row["prompt"] for path in (home / "evidence" / "interactions").glob("*") for row in pq.read_table(path).to_pylist()}
    assert kept == {"masked"}
    assert evidence_leftovers(home) == []


def test_rows_that_vanished_are_not_forgotten(home: Path) -> None:
    fill_and_export(home)
    before = [path.read_bytes() for path in parts(home)]
    with session(home, write=True) as connection:
        connection.execute("DELETE FROM verdicts WHERE id = ?", [query_id("verdicts", 3)])
        connection.execute("INSERT INTO verdicts (id) VALUES ('new')")
    with pytest.raises(StoreError, match=r"1 rows of 'verdicts'.*doctor --rebuild"):
        export(home)
    assert [path.read_bytes() for path in parts(home)] == before
    assert "1 rows of 'verdicts' are in the evidence but not in the store" in store_findings(home)


def test_rows_that_only_moved_are_no_loss(home: Path, tmp_path: Path) -> None:
    fill_and_export(home)
    with session(home, write=True) as connection:
        connection.execute("CREATE TEMP TABLE kept AS SELECT * FROM verdicts ORDER BY id")
        connection.execute("DELETE FROM verdicts")
        connection.execute("INSERT INTO verdicts BY NAME SELECT * FROM kept")
        connection.execute("INSERT INTO verdicts (id, item_id) VALUES ('new', ?)", [query_id("review_items", 0)])
    assert store_findings(home) == []
    export(home)
    before = everything(home)
    lose(home)
    assert restored(home, tmp_path) == before


def test_a_migration_makes_the_evidence_afresh(home: Path, tmp_path: Path) -> None:
    fill(home)
    manifest = read_manifest(home)
    assert manifest is None
    export(home)
    manifest = read_manifest(home)
    assert manifest is not None
    from alignment.store.manifest import write_manifest

    write_manifest(home, manifest._replace(schema=manifest.schema - 1))
    assert set(export(home).values()) == {40}


def test_evidence_of_an_older_schema_is_migrated(home: Path, tmp_path: Path) -> None:
    migrate(home, upto=1)
    with session(home, write=True) as connection:
        append(connection, "verdicts", [verdict("old")])
    export(home)
    lose(home)
    target = tmp_path / "restored"
    target.mkdir()
    restore(home, target)
    assert query(target, "SELECT reviewer FROM reviewer_verdicts") == [{"reviewer": "old"}]


def test_a_store_that_is_gone_is_not_begun_anew(home: Path) -> None:
    fill_and_export(home)
    for damage in (lambda: store_path(home).write_bytes(b""), lambda: lose(home)):
        damage()
        for use in (lambda: migrate(home), lambda: query(home, "SELECT 1"), lambda: append_durably(home, "verdicts", [verdict("x")])):
            with pytest.raises(StoreError, match=r"is (gone|empty).*doctor --rebuild"):
                use()
    assert not store_path(home).exists()


def test_who_waited_for_an_exchange_that_was_killed_begins_no_new_store(home: Path) -> None:
    fill(home)
    with ThreadPoolExecutor(1) as pool:
        with exclusive(home):
            waiting = pool.submit(append_durably, home, "verdicts", [verdict("v")])
            time.sleep(0.2)
            store_path(home).unlink()
            (home / REBUILD).mkdir()
        with pytest.raises(StoreError, match="doctor --rebuild"):
            waiting.result(timeout=30)
    assert not store_path(home).exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_part_is_named_and_skipped(home: Path, tmp_path: Path, damage: str) -> None:
    fill_and_export(home)
    [part] = (home / "evidence" / "judgements").glob("*")
    if damage == "remove":
        part.unlink()
    else:
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 0xFF
        part.write_bytes(bytes(content) if damage == "flip" else bytes(content[:100]))
    [finding] = evidence_findings(home)
    assert part.name in finding
    assert "(40 rows)" in finding
    assert bool(evidence_findings(home, quick=True)) == (damage != "flip")
    before = everything(home)
    lose(home)
    target = tmp_path / "restored"
    target.mkdir()
    found = restore(home, target)
    assert found.evidence_damaged
    assert any(part.name in problem for problem in found.problems)
    assert everything(target) == before | {"judgements": []}


def test_one_damaged_manifest_costs_nothing(home: Path, tmp_path: Path) -> None:
    fill_and_export(home)
    before = everything(home)
    path = home / "evidence" / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 40', '"rows": 41', 1))
    assert evidence_findings(home) == ["manifest.json is missing or damaged"]
    lose(home)
    assert restored(home, tmp_path) == before


def test_both_manifests_damaged_is_told_and_nothing_is_overwritten(home: Path, tmp_path: Path) -> None:
    fill_and_export(home)
    for path in (home / "evidence").glob("manifest*"):
        path.write_text("{")
    before = [path.read_bytes() for path in parts(home)]
    assert "both manifests" in evidence_findings(home)[0]
    with pytest.raises(StoreError, match="both manifests"):
        export(home)
    assert [path.read_bytes() for path in parts(home)] == before


def test_a_part_outside_the_folder_is_not_read(home: Path) -> None:
    from alignment.store.manifest import write_manifest

    fill_and_export(home)
    manifest = read_manifest(home)
    assert manifest is not None
    held = manifest.tables["verdicts"]
    evil = held._replace(parts=(held.parts[0]._replace(file="../../etc/passwd"),))
    write_manifest(home, manifest._replace(tables={**manifest.tables, "verdicts": evil}))
    with pytest.raises(StoreError, match="both manifests"):
        read_manifest(home)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("at", ["part", "manifest", "copy", "sweep"])
def test_an_export_that_is_killed_leaves_the_one_before(home: Path, tmp_path: Path, at: str) -> None:
    fill_and_export(home)
    fill(home, start=40, rows=5)
    append_durably(home, "verdicts", [verdict("late")])
    code = """
    import os, sys
    from pathlib import Path
    from alignment.store import evidence, manifest
    at, real, seen = sys.argv[2], os.replace, []
    def replace(source, target):
        seen.append(Path(target).name)
        if at == "part" and sum(name.endswith(".parquet") for name in seen) == 8:
            os._exit(9)
        if at == "manifest" and seen[-1] == "manifest.json":
            os._exit(9)
        if at == "copy" and seen[-1] == "manifest.copy.json":
            os._exit(9)
        real(source, target)
    os.replace = replace
    if at == "sweep":
        evidence.leftover_parts = lambda home: os._exit(9)
    evidence.export(Path(sys.argv[1]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(home), at], env=child_environment(), check=False)
    assert done.returncode == 9
    before = everything(home)
    # Lost right then: everything that either export or the journal held comes back.
    copied = tmp_path / "copied"
    shutil.copytree(home, copied)
    lose(copied)
    target = tmp_path / "restored"
    target.mkdir()
    restore(copied, target)
    found = everything(target)
    new = at in ("copy", "sweep")
    assert len(found["pairs"]) == (45 if new else 40)
    assert len(found["verdicts"]) == (46 if new else 41)
    # Not lost: the next export puts everything right.
    export(home)
    assert evidence_findings(home) == []
    assert evidence_leftovers(home) == []
    lose(home)
    assert restored(home, tmp_path) == before


def test_a_full_disk_leaves_the_evidence_as_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_and_export(home)
    fill(home, start=40, rows=5)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.pq, "write_table", full)
        with pytest.raises(NoSpace, match="run the same command again"):
            export(home)
    assert evidence_findings(home) == []
    assert set(export(home).values()) == {5}


def test_deleting_while_exporting_starts_the_export_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home)
    real = module._snapshot

    def snapshot(*arguments: object) -> object:
        found = real(*arguments)
        with session(home, write=True) as connection:
            connection.execute("DELETE FROM stage_runs WHERE id = ?", [query_id("stage_runs", len(seen))])
        seen.append(1)
        if len(seen) == 2:
            monkeypatch.setattr(module, "_snapshot", real)
        return found

    seen: list[int] = []
    monkeypatch.setattr(module, "_snapshot", snapshot)
    assert export(home)["stage_runs"] == 38
    assert evidence_findings(home) == []
    assert store_findings(home) == []


def test_the_manifest_is_plain(home: Path) -> None:
    fill(home)
    with rewriting(home):
        pass
    body = json.loads((home / "evidence" / "manifest.json").read_text())
    assert body["tables"]["verdicts"]["rows"] == 40
    assert [path.name for path in (home / "evidence" / "verdicts").iterdir()] == ["000001-0000.parquet"]
