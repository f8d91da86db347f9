"""A log file that cannot be used is set aside and told, and the night goes on with the others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import flows.ingest as flow
from alignment.config import Settings, load_settings
from alignment.errors import InputError
from alignment.ingest import LogSource, find_files, make_source
from alignment.ingest.files import open_log, open_packed
from alignment.store import migrate, query
from tests.test_ingest import line, raw, write

BAD = b"broken\n" * 20


@pytest.fixture
def folder(home: Path) -> Path:
    migrate(home)
    (home / "logs").mkdir()
    return home / "logs"


def logs_in(folder: Path) -> LogSource:
    return make_source("logs", [str(folder / "*.jsonl")], "gateway", {})


def night(home: Path, folder: Path, capsys: pytest.CaptureFixture[str], *, accept: bool = False) -> tuple[int, str, list[str]]:
    """Return how many exchanges a night stores, what it says, and what fails it."""
    found = flow._read_sources(load_settings(), [logs_in(folder)], since=None, dry_run=False, accept=accept)
    return found.total.stored, " ".join(capsys.readouterr().err.split()), [str(one) for one in found.problems]


@pytest.fixture(autouse=True, params=["together", "alone"])
def without_prefect(monkeypatch: pytest.MonkeyPatch, home: Path, request: pytest.FixtureRequest) -> None:
    """A file has the same fate whether it is read by itself or together with others."""
    monkeypatch.setenv("ALIGN_HOME", str(home))
    monkeypatch.setattr(flow, "_FEW", 1 if request.param == "together" else 1000)
    monkeypatch.setattr(flow, "read_file", flow.read_file.fn)
    monkeypatch.setattr(flow, "read_small_files", flow.read_small_files.fn)


def test_one_unusable_line_of_a_small_file_is_one_line(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "small.jsonl", b"broken\n" + raw(line()))
    stored, _, problems = night(home, folder, capsys)
    assert (stored, problems) == (1, [])
    assert query(home, "SELECT reason FROM quarantine") == [{"reason": "not_json"}]
    assert query(home, "FROM open_set_aside") == []


def test_a_bad_file_is_set_aside_once_and_let_in_by_a_person(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "good.jsonl", raw(line()))
    write(folder / "bad.jsonl", BAD + raw(line(response="b")))
    stored, told, problems = night(home, folder, capsys)
    assert (stored, problems) == (1, [])
    assert "set aside: 20 of 21 lines of" in told
    assert "bad.jsonl" in told
    [row] = query(home, "SELECT kind, reason, path FROM open_set_aside")
    assert (row["kind"], Path(row["path"]).name) == ("unusable", "bad.jsonl")
    # It is not read again, and not forgotten.
    before = query(home, "SELECT count(*) AS n FROM files_set_aside")
    stored, told, problems = night(home, folder, capsys)
    assert (stored, problems, query(home, "SELECT count(*) AS n FROM files_set_aside")) == (0, [], before)
    assert "1 files of 'logs' stay set aside" in told
    stored, _, problems = night(home, folder, capsys, accept=True)
    assert (stored, problems, query(home, "FROM open_set_aside")) == (1, [], [])
    assert query(home, "SELECT count(*) AS n FROM open_quarantine") == [{"n": 20}]


def test_another_limit_and_another_content_are_looked_at_again(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "good.jsonl", raw(line()))
    write(folder / "bad.jsonl", BAD + raw(line(response="b")))
    night(home, folder, capsys)
    with monkeypatch.context() as wider:
        wider.setenv("ALIGN_INGEST__MAX_QUARANTINED", "1.0")
        assert night(home, folder, capsys)[0] == 1
    write(folder / "worse.jsonl", BAD + raw(line(response="c")))
    assert night(home, folder, capsys)[0] == 0
    write(folder / "worse.jsonl", raw(line(response="c")))
    assert night(home, folder, capsys)[0] == 1
    assert query(home, "FROM open_set_aside") == []


def test_a_source_of_which_nothing_is_usable_fails_the_night(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "bad.jsonl", BAD)
    for _ in range(2):
        _, _, [problem] = night(home, folder, capsys)
        assert "all its files are set aside" in problem
        assert "align ingest --accept" in problem


def test_a_mapping_that_breaks_later_fails_the_night_too(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "1.jsonl", raw(line()))
    night(home, folder, capsys)
    for number in (2, 3):
        write(folder / f"{number}.jsonl", BAD + str(number).encode() + b"\n")
        assert night(home, folder, capsys)[2] == []
    write(folder / "4.jsonl", BAD)
    [problem] = night(home, folder, capsys)[2]
    assert "the last 3 of its files are set aside" in problem


def test_what_is_no_file_of_lines_costs_itself_only(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "good.jsonl", raw(line()))
    secret = write(home / "secret.txt", raw(line(response="secret")))
    (folder / "link.jsonl").symlink_to(secret)
    (folder / "zero.jsonl").symlink_to("/dev/zero")
    (folder / "dangling.jsonl").symlink_to("/nowhere")
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "folder.jsonl").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(folder)
        listening.bind("socket.jsonl")
        stored, told, problems = night(home, folder, capsys)
    assert (stored, problems) == (1, [])
    for what in ("link.jsonl' is a link", "pipe.jsonl' is a pipe", "socket.jsonl' is a socket"):
        assert what in told
    assert {row["kind"] for row in query(home, "FROM open_set_aside")} == {"unreadable"}
    assert len(query(home, "FROM open_set_aside")) == 5
    # Once it is a file, it is read.
    (folder / "pipe.jsonl").unlink()
    write(folder / "pipe.jsonl", raw(line(response="c")))
    assert night(home, folder, capsys)[0] == 1


def test_no_link_is_followed_below_the_folder(home: Path, folder: Path) -> None:
    (home / "elsewhere").mkdir()
    write(home / "elsewhere" / "a.jsonl", raw(line()))
    (folder / "day").symlink_to(home / "elsewhere")
    assert [(one.name, one.refused) for one in find_files([str(folder / "*" / "*.jsonl")])] == [("day", "a link")]
    # What the settings name may be a link itself, and so may the way to it.
    (home / "named.jsonl").symlink_to(home / "elsewhere" / "a.jsonl")
    assert [one.refused for one in find_files([str(home / "named.jsonl"), str(folder / "day" / "a.jsonl")])] == ["", ""]


def test_a_few_bad_files_among_many_good_ones_do_not_stop_the_night(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        write(folder / f"{number}.jsonl", BAD + b"%d\n" % number if number % 2 else raw(line(response=f"r{number}")))
        os.utime(folder / f"{number}.jsonl", (1_700_000_000 + number,) * 2)
    write(folder / "9.jsonl", raw(line(response="the newest")))
    assert night(home, folder, capsys)[::2] == (5, [])
    assert len(query(home, "FROM open_set_aside")) == 4


def test_a_file_that_stays_unreadable_is_recorded_once(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "1.jsonl", raw(line()))
    (folder / "link.jsonl").symlink_to(folder / "1.jsonl")
    for _ in range(3):
        night(home, folder, capsys)
    assert query(home, "SELECT count(*) AS n FROM files_set_aside") == [{"n": 1}]


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_file_that_is_swapped_for_a_link_is_not_read(home: Path, folder: Path, swapped: str) -> None:
    (folder / "day").mkdir()
    write(folder / "day" / "a.jsonl", raw(line()))
    [found] = find_files([str(folder / "*" / "*.jsonl")])
    (home / "etc").mkdir()
    write(home / "etc" / "a.jsonl", b"secret")
    (folder / "day" / "a.jsonl").unlink()
    if swapped == "file":
        (folder / "day" / "a.jsonl").symlink_to(home / "etc" / "a.jsonl")
    else:
        (folder / "day").rmdir()
        (folder / "day").symlink_to(home / "etc")
    with pytest.raises(InputError, match="cannot read the log file"):
        open_packed(found)


def test_a_file_swapped_for_a_pipe_does_not_wait_for_a_writer(folder: Path) -> None:
    write(folder / "a.jsonl", raw(line()))
    [found] = find_files([str(folder / "a.jsonl")])
    (folder / "a.jsonl").unlink()
    os.mkfifo(folder / "a.jsonl")
    with pytest.raises(InputError, match="no regular file"):
        open_packed(found)


def test_names_of_files_cannot_write_on_the_terminal(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "good.jsonl", raw(line()))
    write(folder / "a\n\x1b[2Jwarning: all is well.jsonl", BAD)
    settings = Settings(home=home)
    flow._read_sources(settings, [logs_in(folder)], since=None, dry_run=False, accept=False)
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert not any(row.strip().startswith("warning: all is well") for row in told.splitlines())
    [row] = query(home, "SELECT reason FROM open_set_aside")
    assert row["reason"].isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_told(folder: Path) -> None:
    write(folder / "a.jsonl", raw(line())).chmod(0)
    [found] = find_files([str(folder / "a.jsonl")])
    with pytest.raises(InputError, match="permission denied; let the account"):
        open_packed(found)


def test_permission_denied_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "a.jsonl", raw(line()))
    [found] = find_files([str(folder / "a.jsonl")])

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=r"cannot read the log file '.*a.jsonl': permission denied; let the account") as told:
        open_packed(found)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "zst"])
def test_a_file_that_unpacks_without_end_is_set_aside(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    import bz2
    import gzip

    import pyarrow as pa

    pack = {"gz": gzip.compress, "bz2": bz2.compress, "zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True)}[suffix]
    monkeypatch.setattr("alignment.ingest.files._UNPACKED", 1 << 20)
    write(folder / "good.jsonl", raw(line()))
    write(folder / f"bomb.jsonl.{suffix}", pack(b"\n" * (12 << 20)))
    source = make_source("logs", [str(folder / "*.jsonl*")], "gateway", {})
    found = flow._read_sources(Settings(home=home), [source], since=None, dry_run=False, accept=False)
    assert (found.total.stored, found.problems) == (1, [])
    assert "unpacks to more than" in " ".join(capsys.readouterr().err.split())
    assert query(home, "SELECT kind FROM open_set_aside") == [{"kind": "damaged"}]


def test_a_document_that_unpacks_without_end_is_set_aside(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr("alignment.ingest.files._UNPACKED", 1 << 20)
    write(folder / "bomb.json.gz", gzip.compress(b"[" * (12 << 20)))
    [found] = find_files([str(folder / "bomb.json.gz")])
    with pytest.raises(InputError, match="unpacks to more than"), open_log(found) as stream:
        while stream.read(1 << 20):
            pass


def test_a_column_that_stands_for_terabytes_is_read_in_parts(home: Path, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from alignment.ingest.columns import batches

    text = "x" * (1 << 20)
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), pa.array([text]))
    path = folder / "bomb.parquet"
    pq.write_table(pa.table({"response": many, "n": range(1_000_000)}), path, compression="zstd")
    assert path.stat().st_size < 8 << 20
    [found] = find_files([str(path)])
    with open_packed(found) as stream:
        first = next(batches(stream, found, rows=61_440))
    assert 0 < len(first) * len(text) <= 1 << 26


def test_a_hundred_million_blank_lines_are_one_block() -> None:
    from io import BytesIO

    from alignment.ingest.lines import Place, read_blocks

    data = b"\n" * (4 << 20) + b" \r\n" * (1 << 20) + b'{"a": 1}\n' + b"\n \t\n" * 1000
    blocks = list(read_blocks(BytesIO(data), Place(), max_line_bytes=1 << 20, growing=False))
    assert len(blocks) == 1
    assert blocks[0].lines.to_pylist() == [{"line_number": (5 << 20) + 1, "line": '{"a": 1}\n', "damage": None}]
    assert (blocks[0].end.lines, blocks[0].end.offset) == ((5 << 20) + 2001, len(data))


def test_what_anybody_can_write_keeps_nobody_elses_lines_out(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blank = raw(*(line(messages=[{"role": "user", "content": " " * number}]) for number in range(1, 100)))
    write(folder / "a.jsonl", blank + raw(line()))
    stored, _, problems = night(home, folder, capsys)
    assert (stored, problems) == (1, [])
    assert query(home, "SELECT reason, count(*) AS n FROM quarantine GROUP BY reason") == [{"reason": "prompt_empty", "n": 99}]
    # A file of which nothing at all is usable is another matter.
    write(folder / "b.jsonl", blank)
    night(home, folder, capsys)
    assert [Path(row["path"]).name for row in query(home, "FROM open_set_aside")] == ["b.jsonl"]
