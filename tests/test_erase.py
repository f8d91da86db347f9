"""An erased person is in no byte of the state folder, and nobody else is missing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from alignment.config import Settings
from alignment.errors import AlignError, InputError, NightRunning, StoreBusy, StoreError
from alignment.ids import content_id, subject_key
from alignment.ingest.redact import redact, redact_id, redaction_key
from alignment.lineage import Subject, apply_erasure, erased_keys, plan_erasure, record_export, rows
from alignment.lineage.scrub import TEXT_COLUMNS, Scrubber
from alignment.store import append, export, migrate, query, rewriting, session, store_path
from alignment.store.integrity import evidence_findings, evidence_leftovers, store_findings
from bench.tiny import make_tiny_model
from flows import cli
from flows.cli import base
from flows.erase import erase
from flows.night import plan_night
from tests.conftest import NOW, child_environment, make_interaction, make_pair
from tests.test_flow import CONFIG, align, sample_lines
from tests.test_night import weights

PLAIN, PERSONAL = "kunde-4711", "Ann.Quill@example.com"
SUBJECTS = pytest.mark.parametrize("who", [PLAIN, PERSONAL])


def deliver(number: int) -> list[str]:
    """Sample traffic of which two people have a third each, whom somebody else mentions."""
    lines = []
    for position, line in enumerate(sample_lines(number)):
        try:
            body = json.loads(line)
            body["messages"][-1]["content"] += f" This is request {position}." if position % 3 else ""
        except (ValueError, TypeError, KeyError, IndexError):
            body = None
        if body and position % 3:
            line = json.dumps(body | {"user_id": PLAIN if position % 3 == 1 else PERSONAL})
        elif body and position == 3:
            body["messages"][-1]["content"] = f"What did\n{PLAIN} say to {PERSONAL}, not {PLAIN}2?"
            line = json.dumps(body | {"user_id": "bystander"})
        lines.append(line)
    broken = [{"user_id": who, "messages": "none", "response": f"broken line of {who}"} for who in (PLAIN, PERSONAL)]
    return lines + [json.dumps(one) for one in broken]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a real night."""
    folder = tmp_path_factory.mktemp("workplace")
    make_tiny_model(folder / "tiny")
    (folder / "align.toml").write_text(CONFIG)
    (folder / "logs.jsonl").write_text("\n".join(deliver(260)) + "\n")
    align(folder, "var", "nightly")
    return folder / "var"


def leave_things(home: Path) -> None:
    """Put into the folder what other commands, killed nights and failing runs leave there."""
    with session(home) as connection:
        tables = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        (home / "copies").mkdir()
        for table in tables:
            for kind, suffix in (("PARQUET", "parquet"), ("JSON", "jsonl")):
                connection.execute(f"COPY {table} TO '{home}/copies/{table}.{suffix}' (FORMAT {kind})")
        [(said,)] = connection.execute(
            "SELECT prompt FROM interactions WHERE user_id = ? ORDER BY length(prompt) DESC LIMIT 1", [PLAIN]
        ).fetchall()
    # What a repair keeps aside.
    shutil.copy(home / "store.duckdb", home / "store.duckdb.damaged-1")
    shutil.copytree(home / "copies", home / "evidence.damaged-1")
    (home / ".rebuild").mkdir()
    shutil.copy(home / "store.duckdb", home / ".rebuild" / "store.duckdb")
    [run] = (home / "training").iterdir()
    # Kept log-probabilities: of training with a reference, and of the answers that a champion judges.
    (home / "reference").mkdir(exist_ok=True)
    shutil.copy(home / "copies" / "pairs.parquet", home / "reference" / "base.parquet")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "state").write_text("weights")
    shutil.copytree(run, home / "training" / "killed")
    (home / "training" / "killed" / "result.json").unlink()
    (run / "pairs.jsonl.part").write_text(said)
    (home / "prefect-server.log").write_text(f"{PLAIN} failed: {said!r}\nand {redacted(home, PERSONAL)} as well\n")
    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as prefect, prefect:
        prefect.execute("PRAGMA secure_delete = OFF")
        prefect.execute("UPDATE flow_run_state SET message = ?", [f"Cannot read {said} of {PLAIN} and {redacted(home, PERSONAL)}"])
        # What was deleted before lies in free pages.
        prefect.execute("CREATE TABLE old AS SELECT ? AS message", [f"{PLAIN} and {redacted(home, PERSONAL)} " * 500])
        prefect.execute("DROP TABLE old")
    (home / "releases" / "history.jsonl").write_text(json.dumps({"event": "promoted", "reason": f"{PLAIN} liked it"}) + '\n{"torn')


def redacted(home: Path, text: str) -> str:
    return redact(text, redaction_key(home))[0]


@pytest.fixture
def folder(night: Path, tmp_path: Path) -> Path:
    """A copy of the night's folder in a worse state."""
    home = tmp_path / "home"
    shutil.copytree(night, home)
    leave_things(home)
    return home


def everything(home: Path) -> dict[str, str]:
    """Return every file's bytes and every table's rows, decompressed, as text by name."""
    found = {str(path.relative_to(home)): path.read_bytes().decode("latin-1") for path in home.rglob("*") if path.is_file()}
    for path in home.rglob("*.parquet"):
        found[f"rows of {path.relative_to(home)}"] = repr(pq.read_table(path).to_pylist())
    with closing(duckdb.connect(str(store_path(home)), read_only=True)) as store:
        for (table,) in store.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            found[f"rows of {table}"] = repr(store.execute(f"SELECT * FROM {table}").fetchall())
    for path in home.rglob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                found[f"rows of {path.name} {table}"] = repr(database.execute(f'SELECT * FROM "{table}"').fetchall())
    return found


def needles(home: Path, who: str) -> list[str]:
    """Return what only this person's exchanges hold: the id in both forms, their last messages, their pairs' ids."""
    forms = [who, redact_id(who, redaction_key(home))]
    own = query(home, "SELECT id, prompt FROM interactions WHERE list_contains(?, user_id)", [forms])
    assert len(own) > 20
    pairs = query(home, "SELECT pairs.id FROM pairs JOIN pair_sets ON pair_id = pairs.id WHERE list_contains(?, user_id)", [forms])
    assert pairs
    prompts = [row["prompt"].splitlines()[-1] for row in own]
    return [*forms, f"broken line of {forms[1]}", *prompts, *(row["id"] for row in (*own, *pairs))]


def where(home: Path, wanted: list[str]) -> set[str]:
    return {name for name, text in everything(home).items() for needle in wanted if _stands_alone(needle, text)}


def _stands_alone(needle: str, text: str) -> bool:
    """Say whether `text` holds the needle, in any of its spellings; `kunde-47112` is somebody else."""
    spellings = {needle, repr(needle)[1:-1], json.dumps(needle)[1:-1], needle.encode().decode("latin-1")}
    return any(part[:1] != "2" for spelling in spellings for part in text.split(spelling)[1:])


def others(home: Path, who: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of everybody else, without the texts that name the person."""
    forms = [who, redact_id(who, redaction_key(home))]
    mine = "(SELECT id FROM interactions WHERE list_contains($forms, user_id))"
    return {
        table: query(home, f"SELECT * EXCLUDE ({text}) FROM {table} WHERE {key} NOT IN {mine} ORDER BY ALL", {"forms": forms})
        for table, key, text in (
            ("interactions", "id", "messages, prompt, response"),
            ("candidates", "interaction_id", "text, detail"),
            ("judgements", "interaction_id", "scores"),
            ("detections", "interaction_id", "label"),
            ("pairs", "interaction_id", "messages"),
            ("signals", "interaction_id", "value"),
        )
    }


@pytest.mark.flow
@SUBJECTS
def test_no_byte_of_an_erased_person_is_left(folder: Path, who: str) -> None:
    # The base's weights lie beside the folder, which has the bytes of this person alone.
    settings = Settings(home=folder, model={"path": str(weights(folder.parent))})  # type: ignore[arg-type]
    wanted, kept = needles(folder, who), others(folder, who)
    assert len(where(folder, wanted)) > 12
    before = plan_night(settings).id
    done = erase(settings, who, reason=f"{who} asked for it", actor="dpo")
    assert where(folder, wanted) == set()
    assert others(folder, who) == kept
    changed = {change["path"] for change in done["files"]}
    assert {"training/killed", "copies/interactions.parquet", "copies/pairs.jsonl"} <= changed
    assert {"store.duckdb.damaged-1", "evidence.damaged-1", ".rebuild"} <= changed
    assert not list((folder / "reference").iterdir())
    assert not list(folder.glob("training/*/checkpoints"))
    assert [Path(path).name for path in done["log_files"]] == ["logs.jsonl"]
    # The next night is another one, whose set has no pair of this person.
    assert plan_night(settings).id != before
    assert done["rows"]["pair_sets"] > 0
    # Twice is once.
    size = store_path(folder).stat().st_mtime_ns
    again = erase(settings, who, reason="again", actor="dpo")
    assert not again["rows"] and not again["mentions"] and not again["files"]
    assert again["erased_before"]
    assert store_path(folder).stat().st_mtime_ns == size
    assert query(folder, "SELECT actor, reason FROM erasures") == [{"actor": "dpo", "reason": "<ERASED> asked for it"}]


@pytest.mark.flow
def test_what_others_wrote_stays_but_for_the_id(folder: Path) -> None:
    said = "SELECT prompt FROM interactions WHERE user_id = 'bystander'"
    [before] = query(folder, said)
    assert f"did\n{PLAIN} say" in before["prompt"]
    done = erase(Settings(home=folder), PLAIN, reason="asked", actor="dpo")
    [after] = query(folder, said)
    assert after["prompt"] == f"What did\n<ERASED> say to {redacted(folder, PERSONAL)}, not {PLAIN}2?"
    assert done["mentions"]["interactions"] == 1
    assert json.loads((folder / "releases" / "history.jsonl").read_text().splitlines()[0])["reason"] == "<ERASED> liked it"


@pytest.mark.flow
def test_releases_trained_on_an_erased_person_say_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = erase(Settings(home=folder), PLAIN, reason="asked", actor="dpo")
    [release] = done["releases"]
    events = query(folder, "SELECT event, actor FROM release_events WHERE release_id = ? ORDER BY recorded_at, event", [release])
    assert events[-1] == {"event": "trained_on_erased", "actor": "dpo"}
    monkeypatch.setenv("ALIGN_HOME", str(folder))
    monkeypatch.setattr(base, "prepare", lambda *_, **__: None)
    shown = CliRunner().invoke(cli.app, ["release", "show", release])
    assert "Training: on data erased" in shown.stdout
    listed = json.loads(CliRunner().invoke(cli.app, ["release", "list", "--json"]).stdout)
    assert listed[0]["training"].startswith("on data erased")
    from alignment.release import verify

    verify(folder, release)


@pytest.mark.flow
def test_a_dry_run_changes_nothing_and_counts_the_same(folder: Path) -> None:
    def state() -> dict[str, str]:
        return {str(path): path.read_bytes().hex() for path in folder.rglob("*") if path.is_file() and "lock" not in path.name}

    migrate(folder)
    before = state()
    planned = erase(Settings(home=folder), PLAIN, reason="asked", actor="dpo", dry_run=True)
    assert state() == before
    done = erase(Settings(home=folder), PLAIN, reason="asked", actor="dpo")
    assert done | {"done": False} == planned


_KILLED = """
import os, sys
from pathlib import Path
from alignment.config import Settings
from flows.erase import erase
left, real = [int(sys.argv[2])], (os.replace, os.fsync)
def counted(which):
    def step(*arguments):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        return real[which](*arguments)
    return step
os.replace, os.fsync = counted(0), counted(1)
erase(Settings(home=Path(sys.argv[1])), sys.argv[3], reason="asked", actor="dpo")
"""


@pytest.mark.flow
def test_killed_anywhere_it_can_be_finished(folder: Path, tmp_path: Path) -> None:
    wanted, kept = needles(folder, PLAIN), others(folder, PLAIN)
    steps = 0
    for steps in range(0, 200, 13):
        home = tmp_path / "killed"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(folder, home)
        command = [sys.executable, "-c", _KILLED, str(home), str(steps), PLAIN]
        ended = subprocess.run(command, env=child_environment(), check=False).returncode
        assert ended in (0, 9)
        assert others(home, PLAIN) == kept
        erase(Settings(home=home), PLAIN, reason="asked", actor="dpo")
        assert where(home, wanted) == set()
        assert len(query(home, "SELECT * FROM erasures")) == 1
        assert len(query(home, "SELECT * FROM release_events WHERE event = 'trained_on_erased'")) == 1
        if ended == 0:
            break
    assert steps > 20


# Without a night -------------------------------------------------------------------------------------------------------


def put(home: Path, table: str, *found: dict[str, Any], key: tuple[str, ...] = ("id",)) -> None:
    migrate(home)
    redaction_key(home)
    with session(home, write=True) as connection:
        append(connection, table, found, key=key)


def exchange(name: str, user_id: str, prompt: str = "How do I boil an egg?") -> dict[str, Any]:
    one = make_interaction(name, prompt)
    row = {"id": one.id, "conversation_id": "c", "user_id": user_id, "created_at": NOW, "model": "m", "prompt": one.prompt}
    return row | {"messages": list(one.messages), "response": "In water.", "consent": True, "source_file": "f", "line_number": 1}


def the(user_id: str) -> Subject:
    return Subject((user_id,), subject_key(b"k", user_id), subject_key(b"k", user_id))


def remove(home: Path, user_id: str) -> None:
    apply_erasure(home, plan_erasure(home, the(user_id), nights={}), reason="asked", actor="dpo", now=NOW)


def test_short_ids_and_ids_that_are_words_take_nobody_else_along(home: Path) -> None:
    migrate(home)
    put(home, "interactions", exchange("a", "bob"), exchange("b", "user", "which user am I?"), exchange("c", "x", "bob is a user of it"))
    put(
        home,
        "quarantine",
        *({"id": name, "raw": raw, "source_file": "f"} for name, raw in (("1", '{"user_id": "bob", '), ("2", '{"x": "bob"}'), ("3", None))),
    )
    remove(home, "bob")
    assert {row["id"] for row in query(home, "SELECT id FROM quarantine")} == {"2", "3"}
    remove(home, "user")
    [left] = query(home, "SELECT prompt, messages FROM interactions")
    assert left["prompt"] == "bob is a <ERASED> of it"
    assert json.loads(left["messages"]) == [{"role": "user", "content": "bob is a <ERASED> of it"}]


def test_verdicts_signals_and_quarantined_lines_of_a_person_go(home: Path) -> None:
    one, other = exchange("a", "ann-quill"), exchange("b", "bob-quill")
    put(home, "interactions", one, other)
    for name, row in (("mine", one), ("theirs", other)):
        put(home, "review_items", {"id": name, "interaction_id": row["id"], "prompt": "p"})
        put(home, "verdicts", {"id": f"{name}-verdict", "item_id": name, "verdict": "edit", "edited_answer": "said by a person"})
        put(home, "signals", {"id": f"{name}-signal", "interaction_id": row["id"], "kind": "edit", "value": "a better answer"})
        put(home, "quarantine", {"id": f"{name}-line", "user_id": row["user_id"], "raw": "the prompt only"})
    remove(home, "ann-quill")
    for table in ("review_items", "verdicts", "signals", "quarantine"):
        assert [row["id"].split("-")[0] for row in query(home, f"SELECT id FROM {table}")] == ["theirs"]


def test_exports_and_file_names_of_a_person_are_told(home: Path, tmp_path: Path) -> None:
    one, other = exchange("a", "ann-quill"), exchange("b", "bob-quill")
    put(home, "interactions", one, other)
    put(home, "source_files", {"id": "g", "path": "/logs/ann-quill.jsonl"}, {"id": "h", "path": "/logs/h.jsonl"})
    rows = ((name, row) for name, row in (("mine", one), ("theirs", other)))
    put(home, "pairs", *({"id": name, "interaction_id": row["id"], "user_id": row["user_id"], "built_at": NOW} for name, row in rows))
    put(home, "pair_sets", {"id": "1", "night_id": "n", "pair_id": "mine"}, {"id": "2", "night_id": "m", "pair_id": "theirs"})
    for name, night, late in (("all", None, 1), ("n", "n", 1), ("m", "m", 1), ("before", None, -1)):
        record_export(home, tmp_path / name, night_id=night, now=NOW + timedelta(hours=late))
    plan = plan_erasure(home, the("ann-quill"), nights={})
    assert plan.exports == (str(tmp_path / "all"), str(tmp_path / "n"))
    assert plan.log_files == ("/logs/ann-quill.jsonl",)


def test_a_night_is_new_after_an_erasure_that_makes_the_store_look_as_it_did_before(home: Path) -> None:
    put(home, "interactions", exchange("a", "bob-quill"))
    settings = Settings(home=home, model={"path": str(weights(home))})  # type: ignore[arg-type]
    first = plan_night(settings).id
    pair = make_pair("p", user_id="ann-quill")
    mine = exchange("b", "ann-quill")
    put(home, "interactions", mine)
    put(home, "pairs", {"id": pair.id, "interaction_id": mine["id"], "user_id": "ann-quill", "chosen": "good", "rejected": "bad"})
    put(home, "pair_sets", {"id": "s", "night_id": "n", "pair_id": pair.id, "split": "train"})
    put(home, "release_events", {"id": "e", "release_id": "r" * 16, "event": "registered", "night_id": "n", "recorded_at": NOW})
    remove(home, "ann-quill")
    assert plan_night(settings).id != first


def test_erased_people_are_known_by_hashes_that_sql_computes_too(home: Path) -> None:
    put(home, "interactions", exchange("a", PERSONAL))
    erase(Settings(home=home), PERSONAL, reason="asked", actor="dpo")
    key = redaction_key(home)
    masked = redact_id(PERSONAL, key)
    assert masked != PERSONAL
    assert erased_keys(home) == {subject_key(key, PERSONAL), subject_key(key, masked)}
    found = query(
        home,
        "SELECT sha256(concat_ws(chr(31), $key, who, $key)) IN (SELECT subject_key FROM erased_keys) AS erased "
        "FROM unnest($who) AS people(who)",
        {"key": key.hex(), "who": [PERSONAL, masked, "somebody else"]},
    )
    assert [row["erased"] for row in found] == [True, True, False]
    assert query(home, "SELECT * FROM interactions") == []


def test_who_was_never_stored_is_recorded_once(home: Path) -> None:
    migrate(home)
    for _ in range(2):
        assert erase(Settings(home=home), "nobody-here", reason="asked", actor="dpo")["rows"] == {}
    assert len(query(home, "SELECT * FROM erasures")) == 1


def test_files_of_an_unknown_kind_are_named_and_the_rest_is_erased(home: Path) -> None:
    put(home, "interactions", exchange("a", "ann-quill"))
    (home / "notes.docx").write_bytes(b"\x00 ann-quill \x00")
    (home / "prefect").mkdir()
    (home / "prefect" / "prefect.db").write_bytes(b"no database, but ann-quill's" * 100)
    export(home)
    with pytest.raises(StoreError, match=r"'notes\.docx', 'prefect/prefect\.db'"):
        erase(Settings(home=home), "ann-quill", reason="asked", actor="dpo")
    assert query(home, "SELECT * FROM interactions") == []
    assert evidence_leftovers(home) == []
    assert not list((home / "evidence" / "interactions").glob("*"))
    (home / "prefect" / "prefect.db").unlink()
    (home / "notes.docx").unlink()
    assert erase(Settings(home=home), "ann-quill", reason="asked", actor="dpo")["erased_before"]


def test_evidence_is_not_touched_before_the_store_is_without_the_person(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home, "interactions", exchange("a", "ann-quill"), exchange("b", "bob-quill"))
    put(home, "deep_redactions", {"interaction_id": exchange("a", "x")["id"], "version": "v"}, key=("interaction_id", "version"))
    put(home, "batch_profiles", {"id": "p", "keys": ["user_id", "ann-quill"]})
    export(home)
    with monkeypatch.context() as patch:
        patch.setattr("alignment.lineage.erase.rewrite", _raise)
        with pytest.raises(StoreError, match="stopped here"), rewriting(home):
            remove(home, "ann-quill")
    assert evidence_findings(home) == []
    [part] = (home / "evidence" / "interactions").glob("*.parquet")
    part.write_bytes(b"damaged")
    erase(Settings(home=home), "ann-quill", reason="asked", actor="dpo")
    assert evidence_findings(home) == store_findings(home) == []
    [part] = (home / "evidence" / "interactions").glob("*.parquet")
    assert [row["user_id"] for row in pq.read_table(part).to_pylist()] == ["bob-quill"]
    assert query(home, "SELECT * FROM deep_redactions") == []
    assert "ann-quill" not in query(home, "SELECT keys::VARCHAR AS keys FROM batch_profiles")[0]["keys"]


def test_weights_and_vocabularies_are_left_alone(home: Path) -> None:
    put(home, "interactions", exchange("a", "hello"))
    kept = [home / name for name in ("models/x/tokenizer.json", "releases/r/adapter/tokenizer.json", "training/t/model/tokenizer.json")]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text('{"hello": 1}')
    remove(home, "hello")
    assert {path.read_text() for path in kept} == {'{"hello": 1}'}


def test_refusals(home: Path) -> None:
    with pytest.raises(StoreError, match="no store"):
        erase(Settings(home=home), "ann", reason="asked", actor="dpo")
    migrate(home)
    with pytest.raises(InputError, match="subject is empty"):
        erase(Settings(home=home), " ", reason="asked", actor="dpo")
    import fcntl

    with (home / ".night.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(NightRunning):
            erase(Settings(home=home), "ann", reason="asked", actor="dpo")


def _raise(*_: Any, **__: Any) -> None:
    raise StoreError("stopped here")


@pytest.mark.parametrize("place", ["alignment.lineage.rows._copy", "alignment.store.compact.sync_path", "alignment.lineage.files._settle"])
def test_what_fails_leaves_the_store_whole(home: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    put(home, "interactions", exchange("a", "ann-quill"), exchange("b", "bob-quill"))
    (home / "prefect-server.log").write_text("ann-quill")
    with monkeypatch.context() as patch:
        module, name = place.rsplit(".", 1)
        patch.setattr(import_module(module), name, _raise)
        with pytest.raises(AlignError, match="stopped here"):
            remove(home, "ann-quill")
    assert len(query(home, "SELECT * FROM interactions")) == 2
    remove(home, "ann-quill")
    assert [row["user_id"] for row in query(home, "SELECT user_id FROM interactions")] == ["bob-quill"]
    assert not [path for path in home.iterdir() if "rewrite" in path.name or path.name.endswith(".wal")]


def test_a_training_run_that_does_not_end_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    one = exchange("a", "ann-quill")
    put(home, "interactions", one)
    run = home / "training" / "endless"
    run.mkdir(parents=True)
    (run / "pairs.jsonl").write_text(json.dumps({"id": one["id"]}) + "\n")
    monkeypatch.setattr("alignment.lineage.files._RUN_WAIT", 0.1)
    with (run / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(StoreBusy, match="'endless' is still at work"):
            remove(home, "ann-quill")
    remove(home, "ann-quill")
    assert not run.exists()


def test_rows_that_go_missing_stop_the_erasure(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home, "interactions", exchange("a", "ann-quill"), exchange("b", "bob-quill"))
    with monkeypatch.context() as patch:
        patch.setitem(rows._KEY, "interactions", "user_id")
        with pytest.raises(StoreError, match="rows of 'interactions' went missing: of 2 less 1 to erase, 2 were copied"):
            remove(home, "ann-quill")
    assert len(query(home, "SELECT * FROM interactions")) == 2


def test_a_killed_writers_log_is_folded_in_and_not_replayed(home: Path) -> None:
    put(home, "interactions", exchange("a", "ann-quill"))
    code = (
        "import duckdb, os, sys; store = duckdb.connect(sys.argv[1]);"
        "store.execute(\"INSERT INTO interactions (id, user_id) VALUES ('w', 'bob-quill')\"); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(store_path(home))], env=child_environment(), check=False)
    assert (home / "store.duckdb.wal").exists()
    remove(home, "ann-quill")
    assert not (home / "store.duckdb.wal").exists()
    assert [row["id"] for row in query(home, "SELECT id FROM interactions")] == ["w"]


def test_every_table_is_known_to_erasure(home: Path) -> None:
    """A new table must be looked at: erase its rows in erase_doomed.sql, scrub its texts in TEXT_COLUMNS, or add it here."""
    migrate(home)
    without_people = {
        *(
            "schema_migrations",
            "source_files",
            "detections",
            "deep_redactions",
            "selections",
            "judgements",
            "pair_sets",
            "training_runs",
            "training_metrics",
            "principle_decisions",
            "contamination_checks",
            "labeler_health",
            "calibrations",
            "labeler_states",
        ),
        *(
            "eval_answers",
            "eval_scores",
            "gate_decisions",
            "gate_metrics",
            "drift_results",
            "drift_days",
            "drift_alarms",
            "drift_examples",
            "stage_runs",
            "replays",
            "canary_checks",
            "judge_trials",
            "review_holds",
            "seed_draws",
            "seed_events",
            "author_outcomes",
            "guard_answers",
        ),
    }
    tables = {row["table_name"] for row in query(home, "SELECT table_name FROM duckdb_tables()")}
    assert tables == without_people | set(TEXT_COLUMNS)
    # Seeds are texts all over, so that a column that is added is one as well.
    plain = {"id", "side", "category", "cluster", "source", "licence", "added_at"}
    columns = {row["column_name"] for row in query(home, "SELECT column_name FROM duckdb_columns() WHERE table_name = 'seeds'")}
    assert columns == plain | set(TEXT_COLUMNS["seeds"])


def test_scrubbing_reads_json_as_json() -> None:
    scrubber = Scrubber(("zoë-1",), ("a text of more than twenty characters",))
    assert scrubber.cell('{"a": "x\\nzo\\u00eb-1"}') == '{"a": "x\\n<ERASED>"}'
    assert scrubber.cell("cut {zo\\u00eb-1") == "cut {<ERASED>"
    assert scrubber.cell("he said: a text of more than twenty characters!") == "he said: <ERASED>!"
    assert scrubber.text("cut {zo\\u00EB-1") == "cut {<ERASED>"
    assert Scrubber(("o'ann&co",)).text("<td>o&#x27;ann&amp;co</td><td>o'ann&amp;co</td>") == "<td><ERASED></td><td><ERASED></td>"
    untouched = '{"b":1,   "a": "zoë-12"}'
    assert scrubber.cell(untouched) == untouched
    assert content_id(untouched) == content_id(scrubber.cell(untouched))


def test_the_command_shows_its_plan_and_what_it_did(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home, "interactions", exchange("a", "ann-quill"))
    monkeypatch.setattr(base, "prepare", lambda *_, **__: None)
    asked = ["erase", "--subject", "ann-quill", "--reason", "ann-quill wants it"]
    planned = CliRunner().invoke(cli.app, [*asked, "--dry-run"])
    assert "to erase" in planned.stdout
    done = json.loads(CliRunner().invoke(cli.app, [*asked, "--json"]).stdout)
    assert done["rows"] == {"interactions": 1}
    assert "erased before" in CliRunner().invoke(cli.app, asked).stdout


def test_the_command_starts_again_in_blank_memory(tmp_path: Path) -> None:
    """Blocks of the new store are written whole: what lay in the memory of their unused parts would reach the disk."""
    shown = "import os; print(os.environ.get('DUCKDB_JE_MALLOC_CONF'), flush=True); from flows.cli import app; app()"
    clean = {name: value for name, value in os.environ.items() if name != "DUCKDB_JE_MALLOC_CONF"}
    command = [sys.executable, "-c", shown, "erase", "--subject", "ann", "--reason", "asked"]
    done = subprocess.run(command, capture_output=True, text=True, env={**clean, "ALIGN_HOME": str(tmp_path / "none")})
    assert done.stdout.splitlines()[:2] == ["None", "zero:true"]
