"""The store keeps what it acknowledged: across processes, exceptions, kills and full disks."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import duckdb
import pytest

from alignment.errors import NoSpace, StoreBusy, StoreError, Transient
from alignment.store import append, migrate, query, rewrite, session, store_path
from alignment.store.migrate import migrations
from alignment.store.session import ROW_GROUP_ROWS, is_disk_full
from tests.conftest import NOW, child_environment


def verdict(name: object, **changes: object) -> dict[str, object]:
    return {"id": str(name), "item_id": "i", "reviewer": "ann", "verdict": "agree", "note": "", "decided_at": NOW} | changes


def add(home: Path, *rows: dict[str, object]) -> int:
    with session(home, write=True) as connection:
        return append(connection, "verdicts", rows)


def ids(home: Path) -> list[str]:
    return [row["id"] for row in query(home, "SELECT id FROM verdicts ORDER BY id")]


def child(home: Path, code: str, *arguments: object) -> subprocess.Popen[str]:
    head = """
    import sys
    from pathlib import Path
    from alignment.store import append, migrate, query, session
    home = Path(sys.argv[1])
    """
    program = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(home), *map(str, arguments)],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_migrate_is_idempotent(home: Path) -> None:
    versions = [migrate(home), migrate(home), migrate(home)]
    assert versions == [migrations()[-1].version] * 3
    applied = query(home, "SELECT version, name FROM schema_migrations ORDER BY version")
    assert [row["version"] for row in applied] == [one.version for one in migrations()] == list(range(1, len(applied) + 1))


def test_migrate_makes_the_state_folder(tmp_path: Path) -> None:
    migrate(tmp_path / "a" / "b")
    assert store_path(tmp_path / "a" / "b").is_file()


def test_a_newer_schema_is_refused(home: Path) -> None:
    migrate(home)
    with session(home, write=True) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (99, 'future', now()::TIMESTAMP)")
    with pytest.raises(StoreError, match=r"schema 99.*install the newer version"):
        migrate(home)


def test_no_store_yet_names_the_command(home: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*align"):
        query(home, "SELECT 1")
    assert not store_path(home).exists()


@pytest.mark.parametrize("damage", [b"this is no database at all" * 1000, b""], ids=["foreign", "truncated"])
def test_a_damaged_store_is_told(home: Path, damage: bytes) -> None:
    migrate(home)
    whole = store_path(home).read_bytes()
    store_path(home).write_bytes(damage or whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"cannot open the store.*align doctor") as caught:
        query(home, "SELECT * FROM verdicts")
    assert not isinstance(caught.value, Transient)


def test_append_adds_only_what_is_new(home: Path) -> None:
    migrate(home)
    assert add(home, verdict("a"), verdict("b")) == 2
    assert add(home, verdict("b"), verdict("c")) == 1
    assert add(home, verdict("c")) == 0
    assert add(home) == 0
    assert ids(home) == ["a", "b", "c"]


def test_append_of_equal_keys_takes_one(home: Path) -> None:
    migrate(home)
    assert add(home, verdict("a", note="one"), verdict("a", note="two"), verdict("b")) == 2
    assert ids(home) == ["a", "b"]


def test_append_by_several_columns_stores_json(home: Path) -> None:
    migrate(home)
    row = {"id": "1", "night_id": "n", "event": "started", "summary": {"a": [1, "ü"]}, "recorded_at": NOW}
    with session(home, write=True) as connection:
        keys = ("night_id", "event")
        assert append(connection, "night_events", [row], key=keys) == 1
        assert append(connection, "night_events", [row | {"id": "2"}, row | {"id": "3", "event": "finished"}], key=keys) == 1
    assert query(home, "SELECT id, summary ->> '$.a[1]' AS a FROM night_events ORDER BY id") == [
        {"id": "1", "a": "ü"},
        {"id": "3", "a": "ü"},
    ]


def test_an_exception_rolls_the_whole_session_back(home: Path) -> None:
    migrate(home)
    add(home, verdict("kept"))
    with pytest.raises(KeyboardInterrupt), session(home, write=True) as connection:
        append(connection, "verdicts", [verdict("lost")])
        raise KeyboardInterrupt
    assert ids(home) == ["kept"]


def test_a_reader_cannot_write(home: Path) -> None:
    migrate(home)
    with pytest.raises(duckdb.Error, match=r"read-only"), session(home) as connection:
        append(connection, "verdicts", [verdict("x")])


def test_a_held_store_is_busy_and_may_be_tried_again(home: Path) -> None:
    migrate(home)
    caught: list[BaseException] = []

    def late() -> None:
        for write in (False, True):
            try:
                with session(home, write=write, wait=0.05):
                    pass
            except StoreBusy as error:
                caught.append(error)

    with session(home, write=True):
        other = threading.Thread(target=late)
        other.start()
        other.join()
    assert len(caught) == 2
    assert all(isinstance(error, Transient) for error in caught)
    assert query(home, "SELECT 1 AS one") == [{"one": 1}]


def test_times_are_utc(home: Path) -> None:
    migrate(home)
    [row] = query(home, "SELECT '2026-07-01T12:00:00+02:00'::TIMESTAMPTZ::TIMESTAMP AS noon")
    assert row["noon"].isoformat() == "2026-07-01T10:00:00"


@pytest.mark.timeout(60)
def test_several_writers_and_readers_lose_nothing(home: Path) -> None:
    migrate(home)
    write = """
    for number in range(20):
        with session(home, write=True) as connection:
            append(connection, "verdicts", [{"id": f"{sys.argv[2]}-{number}", "item_id": "shared"}])
    """
    read = """
    import time
    seen = 0
    while seen < 60:
        now = query(home, "SELECT count(*) AS n FROM verdicts")[0]["n"]
        assert now >= seen
        seen = now
        time.sleep(0.02)
    """
    children = [child(home, write, name) for name in "abc"] + [child(home, read) for _ in range(2)]
    for one in children:
        output, errors = one.communicate(timeout=50)
        assert one.returncode == 0, output + errors
    assert len(ids(home)) == 60


def test_threads_exclude_one_another(home: Path) -> None:
    migrate(home)
    problems: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(5):
                add(home, verdict(f"{name}-{number}"))
                query(home, "SELECT count(*) FROM verdicts")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(ids(home)) == 20


@pytest.mark.timeout(60)
def test_a_writer_killed_in_mid_transaction_leaves_what_was_committed(home: Path) -> None:
    migrate(home)
    add(home, verdict("kept"))
    code = """
    with session(home, write=True) as connection:
        append(connection, "verdicts", [{"id": "acknowledged"}])
    with session(home, write=True) as connection:
        connection.execute("INSERT INTO verdicts (id) SELECT 'lost-' || range FROM range(300000)")
        print("now", flush=True)
        import time
        time.sleep(60)
    """
    writer = child(home, code)
    assert writer.stdout and writer.stdout.readline() == "now\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    # The first to open it after the kill is a reader; then writing goes on.
    assert ids(home) == ["acknowledged", "kept"]
    add(home, verdict("more"))
    assert ids(home) == ["acknowledged", "kept", "more"]


@pytest.mark.timeout(60)
def test_a_full_disk_loses_nothing_that_was_stored(home: Path) -> None:
    migrate(home)
    add(home, *(verdict(number) for number in range(50)))
    code = """
    import resource
    from alignment.errors import NoSpace
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        with session(home, write=True) as connection:
            connection.execute("INSERT INTO verdicts (id, note) SELECT 'lost-' || range, sha256(range::VARCHAR) FROM range(400000)")
    except NoSpace as error:
        print(error)
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    limited = child(home, code, store_path(home).stat().st_size + 200_000)
    output, errors = limited.communicate(timeout=50)
    assert limited.returncode == 0, errors
    assert "is full; nothing of this step was stored" in output, errors
    assert len(ids(home)) == 50
    add(home, verdict("after"))
    assert len(ids(home)) == 51


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_a_disk_is_full(number: int) -> None:
    assert is_disk_full(OSError(number, os.strerror(number)))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(ValueError("No space left"))


def test_a_full_disk_in_the_block_becomes_no_space(home: Path) -> None:
    migrate(home)
    with pytest.raises(NoSpace, match=r"Free some space"), session(home, write=True) as connection:
        append(connection, "verdicts", [verdict("lost")])
        raise OSError(errno.EFBIG, "File too large")
    assert ids(home) == []


def test_a_waiting_writer_holds_newcomers_back(home: Path) -> None:
    """Readers that never leave a gap between them must not starve a writer."""
    migrate(home)
    stop, wrote = threading.Event(), threading.Event()

    def read(offset: float) -> None:
        time.sleep(offset)
        while not stop.is_set():
            with session(home):
                time.sleep(0.05)

    readers = [threading.Thread(target=read, args=(offset,)) for offset in (0, 0.012, 0.025, 0.037)]
    for reader in readers:
        reader.start()
    time.sleep(0.1)

    def write() -> None:
        add(home, verdict("in"))
        wrote.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert wrote.wait(10)
    finally:
        stop.set()
        for thread in (*readers, writer):
            thread.join()


def test_row_groups_are_small_in_a_store_that_was_rewritten_too(home: Path) -> None:
    """Closing writes the last one anew, and readers wait for that."""
    largest = "SELECT max(count) AS n FROM pragma_storage_info('verdicts') WHERE column_name = 'id'"
    migrate(home)
    with session(home, write=True) as connection:
        connection.execute("INSERT INTO verdicts (id) SELECT n::VARCHAR FROM range(100_000) AS r(n)")
    assert query(home, largest) == [{"n": ROW_GROUP_ROWS}]
    rewrite(home, lambda connection: connection.execute("INSERT INTO new.verdicts FROM old.verdicts") and None)
    assert query(home, largest) == [{"n": ROW_GROUP_ROWS}]
