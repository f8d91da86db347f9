"""`align doctor` finds real damage of every kind, says it in one sentence, and `--rebuild` repairs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment.config import load_settings
from alignment.errors import StoreBusy, StoreError
from alignment.models.folder import model_problems, record_files
from alignment.store import append_durably, export, query, session, store_path
from alignment.store.evidence import tables
from alignment.store.integrity import _findings, evidence_findings, store_findings
from alignment.store.session import REBUILD, wal_path
from bench.tiny import make_tiny_model
from flows import cli, doctor
from flows.cli import base
from flows.rebuild import rebuild
from tests.conftest import child_environment
from tests.filled import everything, fill, fill_and_export, verdict


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # It sets environment variables, which would outlive this test.
    monkeypatch.setattr(base, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(doctor, "prepare", lambda *_, **__: None)
    monkeypatch.setattr("flows.ingest.ingest", lambda **_: {})


def leave_a_wal(home: Path) -> None:
    """Commit a verdict and die before DuckDB folds its log into the file."""
    code = """
    import os, sys
    from pathlib import Path
    from alignment.store import append, session
    with session(Path(sys.argv[1]), write=True) as connection:
        append(connection, "verdicts", [{"id": f"late-{n}", "item_id": sys.argv[2]} for n in range(200)])
        connection.commit()
        os._exit(9)
    """
    item = query(home, "SELECT id FROM review_items LIMIT 1")[0]["id"]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(home), item], env=child_environment(), check=False)
    assert done.returncode == 9
    assert wal_path(home).stat().st_size > 0


def _flip(path: Path, at: int, length: int = 13) -> None:
    """Invert bytes. DuckDB's block checksum XORs its 8-byte words: two equal words that change alike cancel out, so no multiple of 16."""
    content = bytearray(path.read_bytes())
    for place in range(at, at + length):
        content[place] ^= 0xFF
    path.write_bytes(content)


def _used_block(home: Path) -> int:
    """Return the number of a block with verdicts."""
    [row] = query(home, "SELECT min(block_id) AS block FROM pragma_storage_info('verdicts') WHERE column_name = 'note' AND block_id >= 0")
    return int(row["block"])


def _block_without_keys(home: Path) -> int:
    """Return the number of a block in which DuckDB put only columns that are no keys: which share one differs from run to run."""
    columns: dict[int, set[str]] = {}
    with session(home) as connection:
        for table in tables(connection):
            for name, block in connection.execute(
                "SELECT column_name, block_id FROM pragma_storage_info(?) WHERE block_id >= 0", [table]
            ).fetchall():
                columns.setdefault(block, set()).add(name)
    return next(
        block
        for block, names in columns.items()
        if not any(name == "id" or name.endswith("_id") or name.startswith("rows_") for name in names)
    )


def _spoil(home: Path, block: int) -> None:
    # 3 headers of 4 KiB, then blocks of 256 KiB.
    _flip(store_path(home), 3 * 4096 + block * 262_144 + 200)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "flipped in the middle": lambda home: _spoil(home, _used_block(home)),
    "cut": lambda home: os.truncate(store_path(home), store_path(home).stat().st_size * 6 // 10),
    "cut to a header": lambda home: os.truncate(store_path(home), 5000),
    "empty": lambda home: os.truncate(store_path(home), 0),
    "garbage header": lambda home: _flip(store_path(home), 0, 3 * 4096),
    "not a database": lambda home: store_path(home).write_bytes(b"garbage" * 10_000),
    "gone": lambda home: store_path(home).unlink(),
    "a directory": lambda home: (store_path(home).unlink(), store_path(home).mkdir()),
}


def finding(home: Path, name: str, *, quick: bool = False) -> dict[str, str]:
    """Return what this check finds; the others, of which one would convert the embedded model, are not looked at."""
    look = dict(doctor._checks(quick=quick))[name]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(doctor, "_checks", lambda **_: ((name, look),))
        [row] = doctor.examine(load_settings(home=home), quick=quick)
    return row


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_clear_finding_and_is_repaired(home: Path, kind: str) -> None:
    # Only these two need more than a block.
    fill_and_export(home, rows=3000 if kind in ("flipped in the middle", "cut") else 40)
    before = everything(home)
    DAMAGE[kind](home)
    damage = finding(home, "store")
    assert damage["result"] == "wrong"
    assert "run 'align doctor --rebuild'" in damage["found"]
    assert "\n" not in damage["found"]
    assert "Traceback" not in damage["found"]
    rows, lost = rebuild(load_settings(home=home))
    assert lost == []
    assert everything(home) == before
    assert {row["table"]: row["rows now"] for row in rows} == {name: len(found) for name, found in before.items()}
    assert store_findings(home) == evidence_findings(home) == []
    assert not (home / REBUILD).exists()
    assert bool(list(home.glob("store.duckdb.damaged-*"))) == (kind != "gone")
    assert set(export(home).values()) == {0}


def test_a_damaged_wal_is_found_and_the_evidence_comes_back(home: Path) -> None:
    fill_and_export(home)
    append_durably(home, "verdicts", [verdict("in the journal")])
    before = everything(home)
    leave_a_wal(home)
    _flip(wal_path(home), wal_path(home).stat().st_size // 2)
    damage = finding(home, "store")
    assert "WAL" in damage["found"]
    assert damage["result"] == "wrong"
    with pytest.raises(StoreError, match="align doctor"):
        query(home, "SELECT 1")
    rebuild(load_settings(home=home))
    # What was only in the damaged log and in no journal is gone; nothing else is.
    assert everything(home) == before
    assert not wal_path(home).exists()
    assert list(home.glob("store.duckdb.wal.damaged-*"))


def test_a_wal_that_was_emptied_is_found_by_the_journal(home: Path) -> None:
    """DuckDB takes a cut log for one that a kill cut, and says nothing."""
    fill_and_export(home)
    leave_a_wal(home)
    shutil.copy(wal_path(home), home / "copy.wal")
    (home / "evidence" / "journal.jsonl").unlink(missing_ok=True)
    from alignment.store.journal import _log

    _log(home, [{"table": "verdicts", "row": {"id": "late-0"}, "write": "w"}])
    assert finding(home, "store")["result"] == "right"
    os.truncate(wal_path(home), 0)
    assert "1 rows of 'verdicts' are in the journal but not in the store" in finding(home, "store")["found"]


def test_random_damage_never_ends_in_a_traceback(home: Path) -> None:
    import random

    fill(home, rows=2000)
    whole = store_path(home).read_bytes()
    seen = set()
    rng = random.Random(7)
    for _ in range(12):
        store_path(home).write_bytes(whole)
        _flip(store_path(home), rng.randrange(len(whole) - 64), 64)
        found = store_findings(home)
        assert not any("\n" in one for one in found)
        seen.add(bool(found))
    assert True in seen


def test_quick_does_not_read_the_tables(home: Path) -> None:
    fill(home, rows=3000)
    _spoil(home, _block_without_keys(home))
    assert "cannot be read" in finding(home, "store")["found"]
    assert finding(home, "store", quick=True)["result"] == "right"


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("DELETE FROM interactions WHERE line_number = 3", "1 pairs whose exchange is not there"),
        ("DELETE FROM pairs WHERE judge_margin = 0", "1 rows of pair_sets whose pair is not there"),
        ("DELETE FROM review_items WHERE priority = 0", "1 verdicts on items that are not there"),
        ("UPDATE source_files SET rows_read = 7 WHERE rows_read = 3", "1 log files whose lines do not add up"),
        ("INSERT INTO verdicts FROM verdicts LIMIT 1", "1 ids of 'verdicts' are there more than once"),
    ],
)
def test_broken_rules_between_tables_are_found(home: Path, change: str, finding: str) -> None:
    fill_and_export(home)
    assert _findings(home, quick=False) == []
    with session(home, write=True) as connection:
        connection.execute(change)
    assert any(finding in one for one in _findings(home, quick=False))


def test_without_evidence_what_the_old_store_gives_is_kept(home: Path) -> None:
    fill(home, rows=3000)
    before = everything(home)
    DAMAGE["flipped in the middle"](home)
    rows, lost = rebuild(load_settings(home=home))
    assert "there is no evidence" in lost[0]
    assert lost[-1] == "3000 rows of 'verdicts' are lost"
    after = everything(home)
    assert after == before | {"verdicts": []}
    assert {row["table"]: row["old store"] for row in rows} == {name: len(found) for name, found in after.items()}


def test_rows_newer_than_the_evidence_come_from_the_old_store(home: Path) -> None:
    fill_and_export(home, rows=3000)
    fill(home, start=3000, rows=7)
    before = everything(home)
    DAMAGE["flipped in the middle"](home)
    rows, lost = rebuild(load_settings(home=home))
    found = {row["table"]: row for row in rows}
    assert (found["pairs"]["evidence"], found["pairs"]["old store"]) == (3000, 7)
    # Whether the damaged block holds the newest verdicts is DuckDB's choice; what is said to be lost is what is missing.
    missing = {name: len(before[name]) - len(one) for name, one in everything(home).items() if len(one) < len(before[name])}
    # That an exchange was masked a second time is not believed where the text may be older.
    assert missing.pop("deep_redactions") == 7
    assert missing in ({}, {"verdicts": 7})
    assert lost == [f"{number} rows of {name!r} are lost" for name, number in missing.items()]


def test_a_damaged_part_is_reported_and_the_evidence_kept_aside(home: Path) -> None:
    fill_and_export(home)
    before = everything(home)
    [part] = (home / "evidence" / "judgements").glob("*")
    _flip(part, 50)
    store_path(home).unlink()
    _, lost = rebuild(load_settings(home=home))
    assert f"evidence judgements/{part.name} was changed (40 rows)" in lost
    assert "40 rows of 'judgements' are lost" in lost
    assert everything(home) == before | {"judgements": []}
    [aside] = home.glob("evidence.damaged-*")
    assert (aside / "judgements" / part.name).exists()
    assert evidence_findings(home) == []


def test_evidence_of_a_whole_store_is_written_afresh(home: Path) -> None:
    fill_and_export(home)
    before = everything(home)
    for path in (home / "evidence").glob("manifest*"):
        path.write_text("{")
    assert finding(home, "evidence")["result"] == "wrong"
    assert rebuild(load_settings(home=home)) == ([], [])
    assert finding(home, "evidence")["result"] == "right"
    assert everything(home) == before
    assert list(home.glob("evidence.damaged-*"))


def test_a_whole_store_is_left_alone(home: Path) -> None:
    fill_and_export(home)
    stamp = store_path(home).stat().st_mtime_ns
    assert rebuild(load_settings(home=home)) == ([], [])
    assert store_path(home).stat().st_mtime_ns == stamp


def test_logs_are_read_again_where_exchanges_are_missing(home: Path, tmp_path: Path) -> None:
    fill(home)
    there = tmp_path / "there.jsonl"
    there.write_text("x")
    with session(home, write=True) as connection:
        connection.execute("UPDATE source_files SET path = ? WHERE rows_read < 10", [str(there)])
    export(home)
    [part] = (home / "evidence" / "interactions").glob("*")
    part.unlink()
    store_path(home).unlink()
    rebuild(load_settings(home=home))
    # What is still there will be read again; what is gone stays on record as read.
    assert query(home, "SELECT count(*) AS n FROM source_files WHERE path <> ?", [str(there)]) == [{"n": 30}]
    assert query(home, "FROM source_files WHERE path = ? AND (finished OR rows_read > 0) AND end_offset > 0", [str(there)]) == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("at", ["loading", "restored", "aside", "exchanged", "ingest", "export"])
def test_a_rebuild_that_is_killed_is_run_again(home: Path, at: str) -> None:
    fill_and_export(home, rows=3000)
    append_durably(home, "verdicts", [verdict("late")])
    before = everything(home)
    DAMAGE["flipped in the middle"](home)
    code = """
    import os, sys
    from pathlib import Path
    from alignment.config import load_settings
    from alignment.store import restore
    import flows.ingest
    from flows import rebuild
    at, real = sys.argv[2], os.replace
    die = lambda *_, **__: os._exit(9)
    def replace(source, target):
        if at == "aside" and "damaged-" in str(target):
            real(source, target)
            os._exit(9)
        real(source, target)
        if at == "exchanged" and Path(target).name == "store.duckdb":
            os._exit(9)
    os.replace = replace
    flows.ingest.ingest = die if at == "ingest" else lambda **_: {}
    if at == "loading":
        restore._salvage = die
    if at == "restored":
        rebuild._exchange = die
    if at == "export":
        rebuild.export = die
    rebuild.rebuild(load_settings(home=Path(sys.argv[1])))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(home), at], env=child_environment(), check=False)
    assert done.returncode == 9
    if at == "aside":
        with pytest.raises(StoreError, match="doctor --rebuild"):
            query(home, "SELECT 1")
    assert "interrupted" in finding(home, "leftovers")["found"]
    _, lost = rebuild(load_settings(home=home))
    assert lost == []
    assert everything(home) == before
    assert store_findings(home) == evidence_findings(home) == []
    assert not (home / REBUILD).exists()


def _lose_the_erasures(home: Path) -> None:
    [part] = (home / "evidence" / "erasures").glob("*")
    part.unlink()
    store_path(home).unlink()


@pytest.mark.parametrize("lose", [_lose_the_erasures, lambda home: (store_path(home).unlink(), shutil.rmtree(home / "evidence"))])
def test_who_may_have_been_erased_is_not_read_in_again(home: Path, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Path], Any]) -> None:
    fill_and_export(home)
    lose(home)
    read: list[str] = []
    monkeypatch.setattr("flows.ingest.ingest", lambda **_: read.append("the logs"))
    _, lost = rebuild(load_settings(home=home))
    assert any("erase them again with 'align erase" in one and "then run 'align ingest'" in one for one in lost)
    assert read == []


def test_what_a_killed_rebuild_left_does_not_hide_later_damage(home: Path) -> None:
    fill_and_export(home, rows=3000)
    before = everything(home)
    (home / REBUILD).mkdir()
    (home / REBUILD / "restored.json").write_text(json.dumps({"expected": {"erasures": 4000}}))
    DAMAGE["flipped in the middle"](home)
    _, lost = rebuild(load_settings(home=home))
    assert everything(home) == before
    assert "the logs were not read" in lost[0]
    assert store_findings(home) == []
    assert not (home / REBUILD).exists()


def test_an_exchange_of_older_text_is_masked_again(home: Path) -> None:
    fill_and_export(home, rows=3000)
    with session(home, write=True) as connection:
        connection.execute("UPDATE interactions SET prompt = 'masked' WHERE line_number = 7")
        connection.execute("UPDATE deep_redactions SET version = 'newer' WHERE interaction_id = sha256('interactions' || 7)")
    DAMAGE["flipped in the middle"](home)
    rebuild(load_settings(home=home))
    [row] = query(home, "SELECT prompt FROM interactions WHERE line_number = 7")
    assert row["prompt"] != "masked"
    assert query(home, "SELECT count(*) AS n FROM deep_redactions WHERE version = 'newer'") == [{"n": 0}]


def test_a_busy_store_is_not_taken_for_a_damaged_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home)

    def busy(*_: object, **__: object) -> None:
        raise StoreBusy("locked")

    monkeypatch.setattr("alignment.store.integrity.apart", busy)
    with pytest.raises(StoreBusy):
        rebuild(load_settings(home=home))
    assert finding(home, "store") == {"check": "store", "result": "wrong", "found": "locked"}


def test_a_newer_store_is_not_rebuilt(home: Path) -> None:
    fill_and_export(home)
    with session(home, write=True) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (99, 'future', now()::TIMESTAMP)")
    with pytest.raises(StoreError, match="install the newer version"):
        rebuild(load_settings(home=home))
    assert not (home / REBUILD).exists()
    assert not list(home.glob("*damaged*"))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["doctor", *arguments])


def test_rebuild_asks_first(home: Path) -> None:
    fill(home)
    store_path(home).write_bytes(b"")
    result = run("--rebuild")
    assert result.exit_code == 1
    assert "nothing was changed" in result.stderr
    assert "--yes" in result.stderr
    assert store_path(home).stat().st_size == 0


def test_the_command_prints_what_came_from_where(home: Path) -> None:
    fill_and_export(home)
    store_path(home).write_bytes(b"")
    result = run("--rebuild", "--yes", "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["lost"] == []
    assert {row["evidence"] for row in printed["tables"]} == {40}
    assert "kept: " in result.stderr
    again = run("--rebuild", "--yes")
    assert again.exit_code == 0
    assert "nothing was rebuilt" in again.stdout


def test_a_loss_ends_with_status_1(home: Path) -> None:
    fill(home)
    store_path(home).write_bytes(b"garbage" * 10_000)
    result = run("--rebuild", "--yes")
    assert result.exit_code == 1
    assert "lost: there is no evidence" in result.stderr
    assert store_findings(home) == []


def test_wrong_settings_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_TRAIN__EPOCHS", "-1")
    result = run("--json")
    assert result.exit_code == 1
    found = {row["check"]: row for row in json.loads(result.stdout)}
    assert "train.epochs" in found["settings"]["found"]
    assert set(found) == {"settings", "versions"}


def test_the_teachers_key_is_looked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert finding(home, "teacher")["found"] == "none is configured"
    monkeypatch.setenv("ALIGN_TEACHER__BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("ALIGN_TEACHER__MODEL", "m")
    monkeypatch.setenv("ALIGN_TEACHER__API_KEY_ENV", "TEACHER_KEY")
    missing = finding(home, "teacher")
    assert missing["result"] == "wrong"
    assert "'TEACHER_KEY', which is not set" in missing["found"]
    monkeypatch.setenv("TEACHER_KEY", "sk-secret")
    found = finding(home, "teacher")
    assert found["result"] == "right"
    assert "sk-secret" not in found["found"]


def test_the_clock_is_compared_with_the_store(home: Path) -> None:
    fill(home)
    assert finding(home, "clock")["result"] == "right"
    with session(home, write=True) as connection:
        connection.execute("UPDATE night_events SET recorded_at = '2200-01-01'")
    assert "the store was written at 2200-01-01" in finding(home, "clock")["found"]


def test_who_holds_the_lock_is_told(home: Path) -> None:
    import fcntl

    assert finding(home, "lock")["found"] == "no night is running"
    with (home / ".night.lock").open("w") as handle:
        handle.write(str(os.getpid()))
        handle.flush()
        # The name of a process that lives is not enough.
        assert finding(home, "lock")["found"] == "no night is running"
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert finding(home, "lock")["found"] == f"a night is running (process {os.getpid()})"


def test_leftovers_are_listed(home: Path) -> None:
    assert finding(home, "leftovers")["found"] == "none"
    (home / ".redaction-abc").write_text("x")
    (home / "store.duckdb.damaged-x").write_text("x")
    found = finding(home, "leftovers")
    assert found["result"] == "right"
    assert ".redaction-abc" in found["found"]
    assert "store.duckdb.damaged-x" in found["found"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(home: Path) -> None:
    (home / "prefect").mkdir(mode=0o500)
    assert "correct its owner or permissions" in finding(home, "folders")["found"]


def test_a_check_that_breaks_does_not_hide_the_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> str:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(doctor, "list_releases", broken)
    looked = {row["check"]: row for row in doctor.examine(load_settings(home=home, model={"path": str(home / "nowhere")}))}
    assert "ZeroDivisionError: oops; please report this" in looked["releases"]["found"]
    assert looked["lock"]["result"] == "right"


def test_model_files_are_told_whole_from_damaged(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "m")
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    assert model_problems(model) == []
    weights.write_bytes(whole[:-10])
    assert model_problems(model) == [f"model.safetensors has {len(whole) - 10} bytes instead of {len(whole)}"]
    weights.write_bytes(b"\xff" * 20)
    assert "cut or damaged" in model_problems(model)[0]
    weights.write_bytes(b"")
    assert "cannot be read" in model_problems(model)[0]
    weights.write_bytes(whole)
    record_files(model)
    assert model_problems(model) == []
    _flip(weights, len(whole) - 100)
    assert model_problems(model) == ["model.safetensors was changed"]
    (model / "config.json").unlink()
    assert "config.json is missing" in model_problems(model)


def test_a_damaged_model_is_a_finding(home: Path, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "m")
    settings = load_settings(home=home, model={"path": str(model)})
    looked = {row["check"]: row for row in doctor.examine(settings)}
    assert looked["models"]["result"] == "right", looked["models"]
    os.truncate(model / "model.safetensors", 5000)
    looked = {row["check"]: row for row in doctor.examine(settings)}
    assert "is not whole" in looked["models"]["found"]
    assert "copy the model again" in looked["models"]["found"]


def test_damage_that_a_query_meets_is_one_message(home: Path) -> None:
    fill(home, rows=3000)
    DAMAGE["flipped in the middle"](home)
    for write in (False, True):
        with pytest.raises(StoreError, match=r"cannot read the store .*run 'align doctor'"), session(home, write=write) as connection:
            connection.execute("SELECT max(note) FROM verdicts").fetchall()
    assert query(home, "SELECT count(*) AS n FROM (SELECT note FROM pair_exclusions, (SELECT 1) AS t(note))") == [{"n": 3000}]
