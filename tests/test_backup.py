"""A backup is whole or not there, a restore as well, and neither trusts what it reads."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment.config import load_settings
from alignment.errors import AlignError, InputError, NoSpace, StoreBusy, StoreError
from alignment.ids import content_id
from alignment.ingest.redact import redaction_key
from alignment.release import current, list_releases, verify
from alignment.store import append_durably, audit, export, migrate, query, session, store_path
from alignment.store.archive import LIST, read_archive
from alignment.store.integrity import evidence_findings, store_findings
from alignment.store.migrate import migrations
from alignment.store.snapshot import whole_folder
from flows.backup import LAST, back_up, last_backup, restore_backup
from flows.cli import app
from flows.doctor import _checks
from tests.conftest import child_environment
from tests.filled import everything, fill_and_export, verdict
from tests.test_registry import A, B, C, add, bar, up

KNOWN = migrations()[-1].version
WHOLE_LINE, HALF_LINE = b'{"prompt": "a"}\n', b'{"prompt": "b'


@pytest.fixture
def state(home: Path) -> Path:
    """A state folder with a store, evidence, releases, runs, a gateway's files, keys, and what no backup takes."""
    redaction_key(home)
    fill_and_export(home)
    add(home, A, B, C)
    up(home, A, B)
    bar(home, C)
    append_durably(home, "verdicts", [verdict("ann")])
    for run, names in {"1" * 16: ("result.json", "adapter/weights"), "2" * 16: ("run.json", "checkpoints/one")}.items():
        for name in names:
            (home / "training" / run / name).parent.mkdir(parents=True, exist_ok=True)
            (home / "training" / run / name).write_text("{}")
    for name, data in {
        "gateway/logs/exchanges-1.jsonl": WHOLE_LINE + HALF_LINE,
        "gateway/logs/exchanges-2.jsonl": HALF_LINE,
        "gateway/held/0.json": b"{}",
        "gateway/keys.json": b"{}",
        "secrets.toml": b"x = 1",
        "prefect.secret": b"align:x",
        "sign_in/a.json": b"{}",
        "vectors/a.parquet": b"x",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(data)
    return home


@pytest.fixture
def kept(state: Path, tmp_path: Path) -> Path:
    """A backup of it."""
    file = tmp_path / "kept.tar.gz"
    back_up(state, file, actor="ann")
    return file


def names(file: Path) -> set[str]:
    with tarfile.open(file) as tar:
        return set(tar.getnames())


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "part" in path.name or "restore" in path.name or path.name == ".backup")


def test_what_is_restored_is_what_was_backed_up(state: Path, kept: Path, tmp_path: Path) -> None:
    before = everything(state)
    target = tmp_path / "elsewhere" / "var"
    listed = restore_backup(kept, target, actor="ann")
    assert (listed.schema, len(listed.files)) == (KNOWN, len(names(kept)) - 1)
    assert everything(target) == before
    assert store_findings(target) == evidence_findings(target) == []
    assert current(target) == current(state) == B
    assert list_releases(target) == list_releases(state)
    assert {row["release_id"]: row["status"] for row in list_releases(target)}[C] == "quarantined"
    for name in (A, B, C):
        verify(target, name)
    # The act that made the folder is the last in its log, after the one that made the backup.
    assert audit.verify(target).problem is None
    assert [row["action"] for row in audit.read(target)[-2:]] == ["backup_started", "restored"]
    assert audit.read(state)[-1]["action"] == "backed_up"
    # The next export finds the evidence to be that of the store: none of its rows is lost, and what came after it is new.
    new = {table: rows for table, rows in export(target).items() if rows}
    assert new == {"verdicts": 1, "release_events": 3, "gate_verdicts": 2}
    assert left(state) == left(tmp_path) == left(target.parent) == []


def test_only_the_owner_can_read_a_backup_and_what_is_restored(kept: Path, tmp_path: Path) -> None:
    restore_backup(kept, tmp_path / "var", actor="ann")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    for path in [tmp_path / "var", *(tmp_path / "var").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_backup_holds_keys_and_whole_lines_but_no_secrets_of_other_systems_and_nothing_unfinished(kept: Path, tmp_path: Path) -> None:
    found = names(kept)
    assert {"redaction.key", "audit/key", "gateway/keys.json", "gateway/held/0.json", f"training/{'1' * 16}/adapter/weights"} <= found
    assert not [name for name in found if "2" * 16 in name or name.startswith(("secrets", "prefect", "sign_in", "vectors", "models"))]
    restore_backup(kept, tmp_path / "var", actor="ann")
    assert (tmp_path / "var/gateway/logs/exchanges-1.jsonl").read_bytes() == WHOLE_LINE
    assert (tmp_path / "var/gateway/logs/exchanges-2.jsonl").read_bytes() == b""


def test_an_older_store_is_migrated_when_it_is_first_used(home: Path, tmp_path: Path) -> None:
    migrate(home, upto=KNOWN - 1)
    back_up(home, tmp_path / "old.tar.gz", actor="ann")
    listed = restore_backup(tmp_path / "old.tar.gz", tmp_path / "var", actor="ann")
    assert listed.schema == KNOWN - 1
    assert migrate(tmp_path / "var") == KNOWN


def test_what_a_killed_writer_left_in_the_write_ahead_log_is_backed_up(home: Path, tmp_path: Path) -> None:
    migrate(home)
    child = textwrap.dedent(f"""
        import os, signal, duckdb
        connection = duckdb.connect({str(store_path(home))!r})
        connection.execute("INSERT INTO night_events (id, event) VALUES ('v', 'x')")
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", child], check=False)
    assert (home / "store.duckdb.wal").stat().st_size
    back_up(home, tmp_path / "a.tar.gz", actor="ann")
    restore_backup(tmp_path / "a.tar.gz", tmp_path / "var", actor="ann")
    assert query(tmp_path / "var", "SELECT id FROM night_events") == [{"id": "v"}]
    assert not (tmp_path / "var/store.duckdb.wal").exists()


def test_every_backup_while_others_write_is_of_one_instant(state: Path, tmp_path: Path) -> None:
    """Each write is a pair of rows in two tables; a backup that mixes instants would part them."""
    stop, written = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            number = written[0]
            with session(state, write=True) as connection:
                connection.execute("INSERT INTO hook_runs (id, hook) VALUES (?, 'x')", [f"w{number}"])
                connection.execute("INSERT INTO night_events (id, event) VALUES (?, 'x')", [f"w{number}"])
            audit.append(state, "wrote", str(number), actor="ann")
            if number % 10 == 0:
                export(state)
            written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = []
        for number in range(2):
            back_up(state, tmp_path / f"{number}.tar.gz", actor="ann")
            seen.append(written[0])
    finally:
        stop.set()
        writer.join()
    assert seen[0] < seen[-1], "nothing was written meanwhile"
    for number in range(2):
        target = tmp_path / f"var{number}"
        restore_backup(tmp_path / f"{number}.tar.gz", target, actor="ann")
        rows = [
            {row["id"] for row in query(target, f"SELECT id FROM {table} WHERE id LIKE 'w%'")} for table in ("hook_runs", "night_events")
        ]
        assert rows[0] == rows[1]
        assert store_findings(target) == evidence_findings(target) == []
        assert audit.verify(target).problem is None
        export(target)


def test_a_backup_keeps_readers_and_writers_waiting_only_while_the_store_is_copied(state: Path, tmp_path: Path) -> None:
    done = back_up(state, tmp_path / "a.tar.gz", actor="ann")
    assert 0 < done.held_seconds < done.seconds / 2


SLOWLY = """
import os, time
from pathlib import Path
from flows import backup
from alignment.store import archive
plain = os.fsync
def slow(handle):
    time.sleep(0.01)
    plain(handle)
os.fsync = slow
read = archive._Reader.read
def slowly(self, size=-1):
    time.sleep(0.003)
    return read(self, size)
archive._Reader.read = slowly
print("ready", flush=True)
"""


def kill_at(program: str, seconds: float) -> bool:
    """Kill a program so many seconds after it has said that it is ready; return whether it was still running."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY + program], env=child_environment(), start_new_session=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    finally:
        process.stdout.close()


def test_a_killed_backup_leaves_no_file_and_the_next_one_works(state: Path, tmp_path: Path) -> None:
    before = everything(state)
    killed_at = 0
    for number in range(6):
        file = tmp_path / "all" / f"{number}.tar.gz"
        file.parent.mkdir(exist_ok=True)
        if kill_at(f"backup.back_up(Path({str(state)!r}), Path({str(file)!r}), actor='ann')", 0.15 + number * 0.3):
            killed_at += 1
            assert not file.exists()
    assert killed_at >= 3
    back_up(state, tmp_path / "all" / "0.tar.gz", actor="ann")
    read_archive(tmp_path / "all" / "0.tar.gz")
    assert left(state) == []
    assert everything(state) == before
    # Another name's leftover is not ours to judge; one of the same name is replaced.
    assert not (tmp_path / "all" / ".0.tar.gz.part").exists()


def test_a_killed_restore_leaves_no_folder_and_the_next_one_works(kept: Path, tmp_path: Path) -> None:
    target, killed_at = tmp_path / "all" / "var", 0
    for number in range(6):
        if kill_at(f"backup.restore_backup(Path({str(kept)!r}), Path({str(target)!r}), actor='ann')", 0.05 + number * 0.25):
            killed_at += 1
            assert not target.exists()
        else:
            shutil.rmtree(target)
    assert killed_at >= 3
    restore_backup(kept, target, actor="ann")
    assert store_findings(target) == []
    assert left(target.parent) == []


def test_no_flipped_byte_and_no_cut_passes(kept: Path, tmp_path: Path) -> None:
    whole, bad = kept.read_bytes(), tmp_path / "bad.tar.gz"
    listed, rng, refused = read_archive(kept), random.Random(1), 0
    places = [*range(0, 10), *(rng.randrange(len(whole)) for _ in range(30)), *range(len(whole) - 8, len(whole))]
    for place in places:
        bad.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        try:
            # Hints in gzip's header mean nothing, and another reference into a run of zeros unpacks to the same bytes.
            assert read_archive(bad) == listed
        except InputError as error:
            assert "nothing was restored" in str(error)
            assert "\n" not in str(error)
            refused += 1
    assert refused >= len(places) - 12
    for size in [0, 1, 100, *(rng.randrange(len(whole)) for _ in range(10)), len(whole) - 1]:
        bad.write_bytes(whole[:size])
        with pytest.raises(InputError, match="no whole backup"):
            restore_backup(bad, tmp_path / "var", actor="ann")
        assert not (tmp_path / "var").exists()
    bad.write_bytes(whole + b"x")
    with pytest.raises(InputError, match="no whole backup"):
        read_archive(bad)
    assert left(tmp_path) == []


def hostile(file: Path, *members: tuple[tarfile.TarInfo, bytes], listed: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write an archive with a right list; `listed` and `changes` replace its files and fields."""
    import hashlib

    files = {member.name: [len(data), hashlib.sha256(data).hexdigest()] for member, data in members} if listed is None else listed
    body = {"format": 1, "schema": KNOWN, "version": "0", "created_at": "2026-11-30T00:00:00+00:00", "files": files} | changes
    text = json.dumps({"sum": content_id(body), **body}).encode()
    with tarfile.open(file, "w:gz") as tar:
        for member, data in [(tarfile.TarInfo(LIST), text), *members]:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


LINK = {"releases/a": [0, "0" * 64]}


@pytest.mark.parametrize(
    ("members", "more", "why"),
    [
        ([(member("../evil"), b"x")], {}, "has no place"),
        ([(member("releases/../../evil"), b"x")], {}, "has no place"),
        ([(member("/etc/evil"), b"x")], {}, "has no place"),
        ([(member("releases//evil"), b"x")], {}, "has no place"),
        ([(member("releases/./evil"), b"x")], {}, "has no place"),
        ([(member("secrets.toml"), b"x")], {}, "has no place"),
        ([(member("prefect/storage/evil"), b"x")], {}, "has no place"),
        ([(member("releases/a\nb"), b"x")], {}, "has no place"),
        ([(member("releases/" + "a" * 2000), b"x")], {}, "has no place"),
        ([(member("releases/a"), b"x"), (member("releases/a/b"), b"x")], {}, "has no place"),
        ([(member("releases/a", tarfile.SYMTYPE, "/etc/passwd"), b"")], {"listed": LINK}, "no plain file"),
        ([(member("releases/a", tarfile.LNKTYPE, "/etc/passwd"), b"")], {"listed": LINK}, "no plain file"),
        ([(member("releases/a", tarfile.CHRTYPE), b"")], {"listed": LINK}, "no plain file"),
        ([(member("releases/a", tarfile.BLKTYPE), b"")], {"listed": LINK}, "no plain file"),
        ([(member("releases/a", tarfile.FIFOTYPE), b"")], {"listed": LINK}, "no plain file"),
        ([(member("releases/a", tarfile.DIRTYPE), b"")], {"listed": LINK}, "no plain file"),
        ([(member("releases/a"), b"x")], {"listed": {}}, "not in its list"),
        ([(member("releases/a"), b"xy")], {"listed": {"releases/a": [1, "0" * 64]}}, "no plain file of 1 bytes"),
        ([(member("releases/a"), b"x")], {"listed": {"releases/a": [1, "0" * 64]}}, "not as it was written"),
        ([(member("releases/a"), b"x"), (member("releases/a"), b"x")], {}, "there twice"),
        ([], {"listed": {"releases/a": [1, "0" * 64]}}, "files are missing"),
        ([], {"listed": {"releases/a": [-1, "0" * 64]}}, "without size or hash"),
        ([], {"listed": {"releases/a": ["1", "0" * 64]}}, "without size or hash"),
        ([], {"listed": {"releases/a": [1]}}, "cannot be parsed"),
        ([], {"files": ["releases/a"]}, "cannot be parsed"),
        ([], {"schema": "27"}, "schema '27' is none"),
        ([], {"schema": 0}, "schema 0 is none"),
        ([], {"sum": "0" * 64}, "was changed"),
    ],
)
def test_a_hostile_archive_is_refused_with_one_message(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], more: dict[str, Any], why: str
) -> None:
    file = hostile(tmp_path / "bad.tar.gz", *members, **more)
    with pytest.raises(InputError, match="no whole backup") as raised:
        restore_backup(file, tmp_path / "all" / "var", actor="ann")
    assert why in str(raised.value)
    assert len(str(raised.value)) < 600
    assert list((tmp_path / "all").iterdir()) == []


def test_a_newer_schema_or_format_is_refused(tmp_path: Path) -> None:
    for changes in ({"schema": KNOWN + 1}, {"format": 2}):
        file = hostile(tmp_path / "new.tar.gz", **changes)
        with pytest.raises(StoreError, match="install the newer version"):
            restore_backup(file, tmp_path / "var", actor="ann")


def test_a_list_that_names_another_schema_than_its_store_is_refused(state: Path, kept: Path, tmp_path: Path) -> None:
    with tarfile.open(kept) as tar:
        found = [(member(one.name), tar.extractfile(one).read()) for one in tar.getmembers()]  # type: ignore[union-attr]
    file = hostile(tmp_path / "bad.tar.gz", *[pair for pair in found if pair[0].name != LIST], schema=KNOWN - 1)
    with pytest.raises(StoreError, match=f"has schema {KNOWN}, its list says {KNOWN - 1}"):
        restore_backup(file, tmp_path / "var", actor="ann")
    assert not (tmp_path / "var").exists()


def test_a_bomb_is_refused_before_it_fills_disk_or_memory(tmp_path: Path) -> None:
    """A terabyte that is listed, and three that only a header claims: a name, an extension, a sparse file."""
    import resource

    with pytest.raises(NoSpace, match="are free for"):
        restore_backup(hostile(tmp_path / "big.tar.gz", listed={"releases/a": [1 << 50, "0" * 64]}), tmp_path / "all" / "var", actor="ann")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = kind, 1 << 30
        with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as out:
            out.write(header.tobuf(tarfile.GNU_FORMAT))
            for _ in range(256):
                out.write(bytes(1 << 20))
        with pytest.raises(InputError, match="a header claims"):
            restore_backup(tmp_path / "bomb.tar.gz", tmp_path / "all" / "var", actor="ann")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    hidden = hostile(tmp_path / "behind.tar.gz")
    with gzip.open(hidden, "ab") as out:
        for _ in range(64):
            out.write(bytes(1 << 20))
    with pytest.raises(InputError, match="more behind its last file"):
        restore_backup(hidden, tmp_path / "all" / "var", actor="ann")
    assert list((tmp_path / "all").iterdir()) == []


def test_nothing_is_overwritten(state: Path, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    for target in (state, tmp_path / "link", tmp_path / "file"):
        with pytest.raises(InputError, match="is taken"):
            restore_backup(kept, target, actor="ann")
    (tmp_path / "empty").mkdir()
    restore_backup(kept, tmp_path / "empty", actor="ann")
    for file, why in {
        kept: "exists",
        tmp_path / "link": "exists",
        tmp_path / "none" / "a.tar.gz": "is no folder",
        state / "a.tar.gz": "lies in the state folder",
    }.items():
        with pytest.raises(InputError, match=why):
            back_up(state, file, actor="ann")
    with pytest.raises(InputError, match="is no file"):
        restore_backup(tmp_path / "none", tmp_path / "var", actor="ann")


def test_a_damaged_state_is_not_backed_up(state: Path, tmp_path: Path) -> None:
    part = next((state / "evidence").glob("*/*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"x")
    with pytest.raises(StoreError, match="run 'align doctor --rebuild' first"):
        back_up(state, tmp_path / "a.tar.gz", actor="ann")
    part.unlink()
    with pytest.raises(StoreError, match="run 'align doctor --rebuild' first"):
        back_up(state, tmp_path / "a.tar.gz", actor="ann")
    part.write_bytes(whole)
    with store_path(state).open("r+b") as handle:
        handle.seek(store_path(state).stat().st_size // 2)
        handle.write(os.urandom(200_000))
    with pytest.raises(StoreError, match="damaged"):
        back_up(state, tmp_path / "a.tar.gz", actor="ann")
    assert not (tmp_path / "a.tar.gz").exists()
    assert left(state) == left(tmp_path) == []


def test_a_file_that_changes_under_the_backup_ends_it(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.store import archive

    weights = state / "training" / ("1" * 16) / "adapter" / "weights"
    plain = archive._write

    def write(*given: Any) -> None:
        weights.write_text("[]")
        plain(*given)

    monkeypatch.setattr(archive, "_write", write)
    with pytest.raises(StoreError, match="changed during the backup"):
        back_up(state, tmp_path / "a.tar.gz", actor="ann")
    assert left(tmp_path) == []
    assert not (tmp_path / "a.tar.gz").exists()


def test_backup_erasure_and_rebuild_exclude_one_another(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.erase import erase
    from flows.rebuild import rebuild

    settings = load_settings()
    acts: list[Callable[[], Any]] = [
        lambda: back_up(state, tmp_path / "a.tar.gz", actor="ann"),
        lambda: erase(settings, "somebody", reason="asked", actor="ann"),
        lambda: rebuild(settings),
    ]
    with whole_folder(state):
        for act in acts:
            with pytest.raises(StoreBusy, match="a backup, an erasure or a rebuild"):
                act()


def test_doctor_knows_the_age_of_the_last_backup(state: Path, kept: Path) -> None:
    look = dict(_checks(quick=True))["backup"]
    assert look(load_settings()) == f"the last one is 0 days and 0 hours old: {kept}"
    (state / LAST).write_text("no json")
    assert last_backup(state) is None


def test_the_commands_say_what_they_did_and_what_is_next(state: Path, tmp_path: Path) -> None:
    run = CliRunner()
    done = run.invoke(app, ["backup", str(tmp_path / "a.tar.gz"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["file"] == str(tmp_path / "a.tar.gz")
    again = run.invoke(app, ["backup", str(tmp_path / "a.tar.gz")])
    assert again.exit_code == 1
    assert "exists, and no backup is overwritten" in again.stderr
    back = run.invoke(app, ["restore", str(tmp_path / "a.tar.gz"), "--to", str(tmp_path / "var")])
    assert back.exit_code == 0, back.output
    assert "align doctor" in back.stdout
    bad = run.invoke(app, ["restore", str(tmp_path / "a.tar.gz"), "--to", str(tmp_path / "var")])
    assert (bad.exit_code, bad.stdout) == (1, "")
    assert bad.stderr.startswith("error: ")


def test_without_a_store_there_is_nothing_to_back_up(home: Path, tmp_path: Path) -> None:
    with pytest.raises(AlignError, match="there is no store"):
        back_up(home, tmp_path / "a.tar.gz", actor="ann")
