"""What was kept out can be looked at, and comes in once it is right; who was erased stays out."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

import flows.ingest as flow
from alignment.errors import CheckFailed, ConfigError, InputError
from alignment.ids import subject_key
from alignment.ingest import Batch, Context, Part, blocks, known_files, make_source, merge, parse, parser, resume
from alignment.ingest.redact import redact_id, redaction_key
from alignment.ingest.replay import replay
from alignment.sections import Ingest
from alignment.store import append, migrate, query, session, sql
from alignment.store.restore import Restored, _read_logs_again
from flows import cli
from flows.cli import base
from flows.ingest import chosen_sources
from flows.read_files import read_file
from tests.conftest import NOW
from tests.test_ingest import KEEP_ALL, LATEST, ingest, line, lines, merging, raw, said, write


@pytest.fixture(autouse=True)
def few_lines_say_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files here are small; tests/test_set_aside.py holds how many lines a share needs."""
    monkeypatch.setattr("flows.read_files.ENOUGH_UNUSABLE", 1)


def again(
    home: Path, settings: Ingest = KEEP_ALL, *, reason: str | None = None, late: timedelta = timedelta(), **fields: str
) -> Counter[str]:
    context = Context(settings, redaction_key(home), NOW + late, LATEST + late)
    sources = {"logs": make_source("logs", ["unused"], "gateway", fields)}
    return replay(home, sources, lambda *_: {}, context, reason=reason, source=None)


def test_lines_come_in_when_the_setting_is_right(home: Path) -> None:
    content = raw(line(response="a"), line(response="x" * 5000), line(response="y" * 5000, signals={"thumbs": "up"}), {"junk": 1})
    write(home / "log.jsonl", content)
    short = Ingest(max_line_bytes=2000, max_quarantined=1)
    assert ingest(home, home / "log.jsonl", short) == Batch(4, 1, 0, 3, 0)
    assert again(home, short) == Counter({"still messages_not_a_list, too_long": 3})
    assert again(home, reason="messages_not_a_list") == Counter({"still messages_not_a_list": 1})
    assert again(home) == Counter({"stored": 2, "still messages_not_a_list, too_long": 1})
    rows = query(home, "SELECT line_number, response FROM interactions ORDER BY line_number")
    assert [(row["line_number"], row["response"][0]) for row in rows] == [(1, "a"), (2, "x"), (3, "y")]
    assert len(query(home, "FROM signals")) == 1
    assert [row["reason"] for row in query(home, "SELECT reason FROM open_quarantine")] == ["messages_not_a_list"]
    assert again(home) == Counter({"still messages_not_a_list": 1})
    # What was read, stored and quarantined then stays what it was.
    [sums] = query(home, "SELECT rows_read, rows_stored, rows_quarantined FROM source_files")
    assert sums == {"rows_read": 4, "rows_stored": 1, "rows_quarantined": 3}


def test_a_line_of_the_future_comes_in_when_it_is_past(home: Path) -> None:
    write(home / "log.jsonl", raw(line(created_at="2026-11-25T12:00:00Z")))
    assert ingest(home, home / "log.jsonl").quarantined == 1
    assert again(home, late=timedelta(days=1)) == Counter({"still created_at_in_the_future": 1})
    assert again(home, late=timedelta(days=2)) == Counter({"stored": 1})


def test_a_corrected_mapping_brings_lines_in(home: Path) -> None:
    odd = {**line(response=...), "reply": {"text": "In water."}}
    write(home / "log.jsonl", raw(odd, line(response="other")))
    assert ingest(home, home / "log.jsonl") == Batch(2, 1, 0, 1, 0)
    assert again(home, response="coalesce(x.response, body -> '$.reply.text')") == Counter({"stored": 1})


def test_without_its_file_a_line_is_read_from_what_was_kept(home: Path) -> None:
    future = "2026-11-25T12:00:00Z"
    whole, cut = said("write to ann@example.com", created_at=future), said("x" * 3000, created_at=future)
    path = write(home / "log.jsonl", raw(whole, said("plain", created_at=future), cut))
    assert ingest(home, path).quarantined == 3
    path.unlink()
    # Of the first the text was changed by redaction, of the last only the beginning was kept.
    assert again(home, late=timedelta(days=2)) == Counter({"stored": 1, "still created_at_in_the_future": 2})
    write(path, raw(line(response="another file under the name")))
    assert again(home, late=timedelta(days=2)) == Counter({"still created_at_in_the_future": 2})


def test_a_line_that_was_delivered_meanwhile_is_a_duplicate(home: Path) -> None:
    future = line(created_at="2026-11-25T12:00:00Z")
    write(home / "log.jsonl", raw(future))
    ingest(home, home / "log.jsonl")
    with session(home, write=True) as connection:
        connection.execute("CREATE TEMP TABLE kept AS FROM open_quarantine")
    assert again(home, late=timedelta(days=2)) == Counter({"stored": 1})
    with session(home, write=True) as connection:
        connection.execute("DELETE FROM replays")
    assert again(home, late=timedelta(days=2)) == Counter({"duplicate": 1})


@pytest.mark.parametrize("who", ["u-4711", "ann@example.com"])
def test_an_erased_person_is_not_read_again(home: Path, who: str) -> None:
    migrate(home)
    key = redaction_key(home)
    write(home / "log.jsonl", raw(line(user_id=who, response="my secret"), line(user_id="u2")))
    source = make_source("logs", [str(home / "log.jsonl")], "gateway", {})
    row = {"id": "e", "subject_key": subject_key(key, who), "masked_key": subject_key(key, redact_id(who, key))}
    with session(home, write=True) as connection:
        append(connection, "erasures", [row])
    [log_file] = source.find()
    assert read_file.fn(source, log_file).batch[:4] == (2, 1, 0, 1)
    [refused] = query(home, "SELECT reason, raw, user_id FROM quarantine")
    assert refused == {"reason": "erased_subject", "raw": "", "user_id": ""}
    assert again(home) == Counter()


@pytest.mark.parametrize(
    ("purpose", "stored", "trained"),
    [
        (..., "training", 1),
        (None, "training", 1),
        ("training", "training", 1),
        (["evaluation", "training"], "training", 1),
        ("evaluation", "evaluation", 0),
        (["evaluation"], "other", 0),
        ("my own words", "other", 0),
        (7, "other", 0),
    ],
)
def test_only_lines_for_training_are_trained_on(home: Path, purpose: Any, stored: str, trained: int) -> None:
    write(home / "log.jsonl", raw(line(purpose=purpose)))
    ingest(home, home / "log.jsonl")
    assert [row["purpose"] for row in query(home, "SELECT purpose FROM interactions")] == [stored]
    assert len(query(home, "FROM trainable")) == trained


def test_a_purpose_by_default(home: Path) -> None:
    write(home / "log.jsonl", raw(line(), line(response="b", purpose="training")))
    ingest(home, home / "log.jsonl", Ingest(purpose_default="monitoring"))
    assert [row["response"] for row in query(home, "FROM trainable")] == ["b"]


def test_a_file_that_stops_the_night_is_not_stored_but_can_be_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(home)
    write(home / "log.jsonl", raw(line()) + b'{"cut": "ann@example.com\n' * 2)
    source = make_source("logs", [str(home / "log.jsonl")], "gateway", {})
    [log_file] = source.find()
    dry = read_file.fn(source, log_file, dry_run=True)
    assert dry.batch == Batch(3, 1, 0, 2, 0)
    assert query(home, "FROM quarantine") == query(home, "FROM source_files") == []
    for _ in range(2):
        with pytest.raises(CheckFailed, match=r"2 of 3 lines of .* are unusable, .*not_json \(2\).*align ingest --quarantine"):
            read_file.fn(source, log_file)
    assert query(home, "FROM interactions") == []
    assert query(home, "SELECT rows_read, rows_stored, end_offset FROM source_files") == [
        {"rows_read": 0, "rows_stored": 0, "end_offset": 0}
    ]
    assert again(home) == Counter()
    monkeypatch.setattr(base, "prepare", lambda *_, **__: None)
    monkeypatch.setenv("ALIGN_HOME", str(home))
    told = CliRunner().invoke(cli.app, ["ingest", "--quarantine", "--json"])
    rows = json.loads(told.stdout)
    assert [row["reason"] for row in rows] == ["not_json"] * 2
    assert "ann@example.com" not in told.stdout
    assert json.loads(CliRunner().invoke(cli.app, ["ingest", "--quarantine", "--reason", "too_long", "--json"]).stdout) == []


def test_what_the_checks_found_is_kept_with_the_block_or_not_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(home)
    source = make_source("logs", [str(home / "log.jsonl")], "gateway", {})
    write(home / "log.jsonl", raw(line()) + b"broken\n" * 2)
    with pytest.raises(CheckFailed):
        read_file.fn(source, source.find()[0])
    refused = len(query(home, "FROM check_results"))
    assert refused > 0
    write(home / "log.jsonl", raw(line(response="b")))
    with monkeypatch.context() as broken, pytest.raises(OSError, match="the plug"):
        broken.setattr(merging, "Batch", Mock(side_effect=OSError("the plug")))
        read_file.fn(source, source.find()[0])
    assert len(query(home, "FROM check_results")) == refused
    assert read_file.fn(source, source.find()[0]).batch.stored == 1
    assert len(query(home, "FROM check_results")) == 2 * refused


def test_sources_by_name(tmp_path: Path) -> None:
    from alignment.config import load_settings

    (tmp_path / "align.toml").write_text('[ingest.sources.a]\nlogs = ["a"]\n[ingest.sources.b]\nlogs = ["b"]\n')
    settings = load_settings()
    assert [one.name for one in chosen_sources(settings, None, None, None)] == ["a", "b"]
    assert [one.name for one in chosen_sources(settings, None, None, "b")] == ["b"]
    [given] = chosen_sources(settings, ["x.jsonl"], "hh", None)
    assert (given.patterns, given.undated) == (("x.jsonl",), True)
    with pytest.raises(ConfigError, match=r"no source 'c'; known are a, b"):
        chosen_sources(settings, None, None, "c")


def test_a_check_that_fails_on_a_record_names_it(home: Path) -> None:
    """The second exchange of a line is refused, not the first."""
    from tests.test_sources import OTEL, otlp

    write(home / "log.jsonl", raw(otlp(*OTEL)))
    assert ingest(home, home / "log.jsonl", rejected={1: "check:x:y"}, preset="otel") == Batch(2, 1, 0, 1, 0)
    [row] = query(home, "SELECT line_number, record_number FROM quarantine")
    assert row == {"line_number": 1, "record_number": 2}


def test_a_repaired_file_closes_what_was_wrong_with_it(home: Path) -> None:
    migrate(home)
    source = make_source("logs", [str(home / "log.jsonl")], "gateway", {})
    write(home / "log.jsonl", raw(line()) + b"broken\n" * 2)
    with pytest.raises(CheckFailed):
        read_file.fn(source, source.find()[0])
    assert len(query(home, "FROM open_quarantine")) == 2
    write(home / "log.jsonl", raw(line(), line(response="b")))
    assert read_file.fn(source, source.find()[0]).batch == Batch(2, 2, 0, 0, 0)
    assert query(home, "FROM open_quarantine") == []
    assert len(query(home, "FROM quarantine")) == 2


@pytest.mark.parametrize("repaired", [False, True])
def test_a_corrected_file_may_grow(home: Path, repaired: bool) -> None:
    """Neither a corrected preset nor a repair behind the first lines leaves what was refused open."""
    migrate(home)
    path, right = home / "log.jsonl", make_source("logs", [str(home / "log.jsonl")], "gateway", {})
    good = [line(response="x" * 1500), *(line(response=str(number)) for number in range(4))]
    write(path, raw(good[0]) + b"broken\n" * 4 if repaired else raw(*good))
    with pytest.raises(CheckFailed):
        read_file.fn(right if repaired else make_source("logs", [str(path)], "openai", {}), right.find()[0])
    for size in (5, 6):
        write(path, raw(*good, line(response="new"))[: len(raw(*good))] if size == 5 else raw(*good, line(response="new")))
        assert read_file.fn(right, right.find()[0]).batch.stored == (5 if size == 5 else 1)
        assert query(home, "FROM open_quarantine") == []


def test_a_refused_block_keeps_its_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(home)
    monkeypatch.setattr(lines, "BLOCK_ROWS", 3)
    source = make_source("logs", [str(home / "log.jsonl")], "gateway", {})
    write(home / "log.jsonl", raw(*(line(response=str(number)) for number in range(3))) + b"broken\n" * 3)
    with pytest.raises(CheckFailed):
        read_file.fn(source, source.find()[0])
    told = query(home, sql("flows", "quarantine_list"), {"reason": None, "source": "logs", "limit": 9})
    assert [(row["path"], row["line_number"]) for row in told] == [(str(home / "log.jsonl"), number) for number in (4, 5, 6)]


@pytest.mark.parametrize("before", [False, True])
def test_a_prompt_is_never_read_as_a_line(home: Path, before: bool) -> None:
    """Whoever writes a line of a log into a chat puts words into nobody's mouth."""
    forged = json.dumps(line(user_id="victim", consent=True))
    path = write(home / "log.jsonl", raw(said(forged, user_id="mallory")))
    assert ingest(home, path, rejected={0: "check:x:y"}).quarantined == 1
    if before:  # as earlier versions kept it
        with session(home, write=True) as connection:
            connection.execute("UPDATE quarantine SET detail = 'a data check, kept whole'")
    else:
        assert query(home, "SELECT detail FROM quarantine") == [{"detail": "a data check"}]
    path.unlink()
    assert again(home) == Counter({"still check:x:y": 1})
    assert query(home, "FROM interactions") == []


def test_logs_that_are_read_again_keep_their_ids(home: Path) -> None:
    """A rebuild reads logs from their beginning: what grew since is still the same file."""
    path = write(home / "log.jsonl", raw(line(response="a")) + b"broken\n")
    ingest(home, path)
    path.write_bytes(path.read_bytes() + raw(line(response="b")))
    ingest(home, path)
    before = query(home, "SELECT * EXCLUDE (quarantined_at) FROM quarantine")
    files = query(home, "SELECT DISTINCT id FROM source_files")
    with session(home, write=True) as connection:
        connection.execute("DELETE FROM interactions WHERE response = 'b'")
    _read_logs_again(home, Restored(expected={"interactions": 2}))
    assert ingest(home, path) == Batch(3, 1, 1, 1, 0)
    assert query(home, "SELECT DISTINCT id FROM source_files") == files
    assert query(home, "SELECT * EXCLUDE (quarantined_at) FROM quarantine") == before
    assert query(home, "SELECT sum(rows_read)::INT AS n FROM source_files") == [{"n": 3}]


def test_the_limit_is_of_the_whole_file(home: Path) -> None:
    """A log that grew by one broken line is not all broken."""
    migrate(home)
    source = make_source("logs", [str(home / "log.jsonl")], "gateway", {})
    good = raw(*(line(response=str(number)) for number in range(8)))
    write(home / "log.jsonl", good)
    assert read_file.fn(source, source.find()[0]).batch.stored == 8
    write(home / "log.jsonl", good + b"broken\n")
    assert read_file.fn(source, source.find()[0]).batch == Batch(1, 0, 0, 1, 0)
    write(home / "log.jsonl", good + b"broken\n" * 6)
    with pytest.raises(CheckFailed, match=r"6 of 14 lines"):
        read_file.fn(source, source.find()[0])
    # The refused lines did not move where the file goes on.
    write(home / "log.jsonl", good + b"broken\n" + raw(line(response="c")))
    assert read_file.fn(source, source.find()[0]).batch == Batch(1, 1, 0, 0, 0)
    assert query(home, "SELECT line_number FROM interactions WHERE response = 'c'") == [{"line_number": 10}]


def test_line_numbers_hold_after_a_line_that_had_no_end(home: Path) -> None:
    write(home / "log.jsonl", raw(line(response="a")).rstrip(b"\n"))
    ingest(home, home / "log.jsonl")
    write(home / "log.jsonl", raw(line(response="a")) + b'{"junk": 1}\n' + raw(line(response="x" * 5000), line(response="b")))
    short = Ingest(max_line_bytes=2000, max_quarantined=1)
    assert ingest(home, home / "log.jsonl", short) == Batch(3, 1, 0, 2, 0)
    rows = query(home, "SELECT line_number, reason FROM quarantine ORDER BY line_number")
    assert [(row["line_number"], row["reason"]) for row in rows] == [(2, "messages_not_a_list"), (3, "too_long")]
    assert again(home) == Counter({"stored": 1, "still messages_not_a_list, too_long": 1})
    assert [row["reason"] for row in query(home, "FROM open_quarantine")] == ["messages_not_a_list"]


def test_a_rotated_file_is_found_for_a_replay(home: Path) -> None:
    short = Ingest(max_line_bytes=2000, max_quarantined=1)
    path = write(home / "app.log", raw(line(response="x" * 5000)))
    ingest(home, path, short)
    path.rename(home / "app.log.1")
    assert ingest(home, home / "app.log.1", short) == Batch()
    ingest(home, write(path, raw(line(response="new"))), short)
    assert again(home) == Counter({"stored": 1})


def test_a_name_that_a_glob_takes_for_a_pattern_is_replayed(home: Path) -> None:
    path = home / "log[12]?.jsonl"
    write(path, raw(line(messages=[{"role": "user", "content": "why? " * 500}])))
    assert ingest(home, path, Ingest(max_line_bytes=1024)).quarantined == 1
    path.unlink()
    for number in (1, 2):
        write(home / f"log{number}x.jsonl", raw(line(response=f"other {number}")))
    assert again(home) == Counter({"still too_long": 1})


def test_another_sources_reading_closes_nothing_of_this_one(home: Path) -> None:
    migrate(home)
    path = write(home / "log.jsonl", raw(line()))
    context = Context(KEEP_ALL, redaction_key(home), NOW, LATEST)
    for name, preset, refused in (("first", "litellm", {0}), ("second", "gateway", set())):
        source = make_source(name, [str(path)], preset, {})
        reading = resume(known_files(home, name), name, source.find()[0])
        for block in blocks(reading, KEEP_ALL, now=NOW):
            parsed = parse(parser(), source.statement(), source.undated, [Part(reading, block)], context)
            merge(home, name, parsed, rejected={}, context=context, refused=refused)
    assert query(home, "SELECT count(*) AS n FROM open_quarantine") == [{"n": 1}]


def test_an_erased_persons_broken_line_leaves_nothing(home: Path) -> None:
    migrate(home)
    key = subject_key(redaction_key(home), "u-4711")
    broken = raw(line(user_id="u-4711", response="", created_at="x", messages=[{"role": "user", "content": "my secret"}]))
    write(home / "log.jsonl", broken)
    context = Context(KEEP_ALL, redaction_key(home), NOW, LATEST, (key,))
    source = make_source("logs", [str(home / "log.jsonl")], "gateway", {})
    reading = resume(known_files(home, "logs"), "logs", source.find()[0])
    for block in blocks(reading, KEEP_ALL, now=NOW):
        parsed = parse(parser(), source.statement(), source.undated, [Part(reading, block)], context)
        merge(home, "logs", parsed, rejected={}, context=context)
    assert query(home, "SELECT reason, raw, user_id FROM quarantine") == [{"reason": "erased_subject", "raw": "", "user_id": ""}]


@pytest.mark.parametrize("spoil", ["cut", "not utf-8", "too long", "a list"])
def test_a_line_that_is_no_record_may_still_be_an_erased_persons(home: Path, spoil: str) -> None:
    content = raw(said("my secret illness", user_id="ann-quill"))
    spoilt = {
        "cut": content[:-9] + b"\n",
        "not utf-8": content.replace(b"secret", b"secr\xff"),
        "too long": content.replace(b"secret", b"secret" + b"x" * 2000),
        "a list": b"[" + content[:-1] + b"]\n",
    }[spoil]
    migrate(home)
    write(home / "log.jsonl", spoilt + spoilt.replace(b"ann-quill", b"bob-quill"))
    key = subject_key(redaction_key(home), "ann-quill")
    assert ingest(home, home / "log.jsonl", Ingest(max_line_bytes=1500), erased=(key,)).quarantined == 2
    first, second = query(home, "SELECT reason, raw FROM quarantine ORDER BY line_number")
    assert first == {"reason": "erased_subject", "raw": ""}
    assert "my secr" in second["raw"]


def test_a_refused_record_keeps_nothing_of_its_neighbours(home: Path) -> None:
    both = {
        "observations": [
            {"type": "GENERATION", "userId": "u1", "startTime": "2026-11-01T12:00:00Z", "input": "alice secret", "output": "yes"},
            {"type": "GENERATION", "userId": "u2", "startTime": "x", "input": "bob", "output": "yes"},
        ]
    }
    write(home / "log.jsonl", raw(both))
    assert ingest(home, home / "log.jsonl", preset="langfuse") == Batch(2, 1, 0, 1, 0)
    [row] = query(home, "SELECT raw, user_id FROM quarantine")
    assert row["user_id"] == "u2"
    assert "bob" in row["raw"]
    assert "alice" not in row["raw"]


def test_personal_ids_and_cut_values_stay_out_of_the_quarantine(home: Path) -> None:
    cut = b'{"a": "' + b"write to ann.lee@example.com " * 300
    write(home / "log.jsonl", raw(line(conversation_id="whatsapp:14155552671", response="")) + cut + b"\n")
    ingest(home, home / "log.jsonl")
    kept = str(query(home, "SELECT raw FROM quarantine"))
    assert "14155552671" not in kept
    assert "ann.lee" not in kept
    assert "@example" not in kept


def test_a_damaged_line_is_not_taken_for_what_it_was(home: Path) -> None:
    path = write(home / "log.jsonl", json.dumps(line(response="CAFE")).encode().replace(b"CAFE", b"caf\xe9 M\xc3\xbcller") + b"\n")
    assert ingest(home, path).quarantined == 1
    path.unlink()
    assert again(home) == Counter({"still not_utf8": 1})


def test_each_delivery_of_a_signal_counts(home: Path) -> None:
    said_again = [{"signals": {"edit": text}} for text in ("call ann@example.com", "plain words")]
    write(home / "log.jsonl", raw(*(line(**one) for one in said_again), line()))
    assert ingest(home, home / "log.jsonl") == Batch(3, 1, 2, 0, 1)
    values = sorted(row["value"] for row in query(home, "SELECT value FROM signals"))
    assert values[1] == "plain words"
    assert values[0].startswith("call <EMAIL_")


@pytest.mark.parametrize(
    ("status", "options"),
    [
        (2, ["--replay", "--dry-run"]),
        (2, ["--quarantine", "--replay"]),
        (2, ["--preset", "hh"]),
        (2, ["--reason", "x"]),
        (1, ["--source", "zz"]),
    ],
)
def test_options_that_do_not_fit_are_told(home: Path, monkeypatch: pytest.MonkeyPatch, status: int, options: list[str]) -> None:
    migrate(home)
    monkeypatch.setattr(base, "prepare", lambda *_, **__: None)
    told = CliRunner().invoke(cli.app, ["ingest", *options])
    assert told.exit_code == status
    assert told.stderr.startswith("error: ")


def test_what_cannot_be_used_keeps_nothing_else_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(home)
    monkeypatch.setenv("ALIGN_HOME", str(home))
    write(home / "bad.jsonl", b"broken\n" * 3)
    write(home / "good.jsonl", raw(line()))
    logs = {"a": ["gone.jsonl"], "b": [str(home / "bad.jsonl")], "c": [str(home / "good.jsonl")]}
    monkeypatch.setenv("ALIGN_INGEST__SOURCES", json.dumps({name: {"logs": paths} for name, paths in logs.items()}))
    done = []
    monkeypatch.setattr(flow, "read_file", flow.read_file.fn)
    monkeypatch.setattr(flow, "read_small_files", flow.read_small_files.fn)
    for name in ("moderate_new", "redact_deeply", "check_ingest"):
        monkeypatch.setattr(flow, name, lambda *_, name=name, **__: done.append(name) or 0)
    with pytest.raises(InputError, match=r"gone\.jsonl[\s\S]*3 of 3 lines"):
        flow.ingest.fn()
    assert len(query(home, "FROM interactions")) == 1
    assert done == ["moderate_new", "redact_deeply", "check_ingest"]
