"""Every line of a log is stored, a duplicate or quarantined; nothing personal reaches the disk."""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flows.ingest as flow
from alignment.errors import InputError
from alignment.ingest import Batch, Context, Known, Part, blocks, find_files, known_files, make_source, merge, parse, parser, resume, unread
from alignment.ingest.redact import redaction_key
from alignment.sections import Ingest
from alignment.store import migrate, query, store_path
from tests.conftest import NOW

# The package exports the function under the module's name.
merging = sys.modules["alignment.ingest.merge"]
lines = sys.modules["alignment.ingest.lines"]
LATEST = NOW + timedelta(hours=24)
KEEP_ALL = Ingest(max_quarantined=1.0)


def line(**changes: Any) -> dict[str, Any]:
    """Return a usable log line; a value of `...` leaves its key out."""
    values = {
        "conversation_id": "c",
        "user_id": "u",
        "created_at": "2026-11-01T12:00:00Z",
        "model": "m",
        "messages": [{"role": "user", "content": "How do I boil an egg?"}],
        "response": "In water.",
    } | changes
    return {key: value for key, value in values.items() if value is not ...}


def said(prompt: str, **changes: Any) -> dict[str, Any]:
    return line(messages=[{"role": "user", "content": prompt}], **changes)


def raw(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@cache
def empty_store() -> bytes:
    """Return the bytes of a store with nothing in it: copying it is faster than making it."""
    with tempfile.TemporaryDirectory() as folder:
        migrate(Path(folder))
        return store_path(Path(folder)).read_bytes()


def ingest(
    home: Path,
    path: Path | str,
    settings: Ingest = KEEP_ALL,
    rejected: dict[int, str] | None = None,
    preset: str = "gateway",
    erased: tuple[str, ...] = (),
    **fields: str,
) -> Batch:
    """Read a file as the flow does, without the data checks; `rejected` stands in for those of the first block."""
    if not store_path(home).exists():
        store_path(home).write_bytes(empty_store())
    context = Context(settings, redaction_key(home), NOW, LATEST, erased)
    source = make_source("logs", [str(path)], preset, fields)
    [log_file] = source.find()
    reading, total, connection = resume(known_files(home, "logs"), "logs", log_file), Batch(), parser()
    for block in blocks(reading, settings, now=NOW):
        parsed = parse(connection, source.statement(), source.undated, [Part(reading, block)], context)
        total = total.plus(*merge(home, "logs", parsed, rejected=rejected or {}, context=context))
        reading, rejected = reading._replace(place=block.end), {}
    connection.close()
    return total


def write(path: Path, content: bytes) -> Path:
    """Write a log that nobody writes to any more."""
    path.write_bytes(content)
    os.utime(path, (1.7e9, 1.7e9))
    return path


def take(home: Path, content: bytes, *, name: str = "log.jsonl", settings: Ingest = KEEP_ALL) -> Batch:
    write(home / name, content)
    return ingest(home, home / name, settings)


def reasons(home: Path) -> list[str]:
    return [row["reason"] for row in query(home, "SELECT reason FROM quarantine ORDER BY line_number")]


def responses(home: Path) -> list[str]:
    return [row["response"] for row in query(home, "SELECT response FROM interactions ORDER BY line_number")]


def test_a_usable_line_is_stored_as_it_was(home: Path) -> None:
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": 'a "quote", a \\ and\na line'},
        {"role": "assistant", "content": "ü€😀"},
        {"role": "user", "content": "And now?"},
    ]
    batch = take(home, raw(line(messages=turns, response="R\tr", created_at="2026-11-01T12:00:00+02:00", session_id="s", extra=1)))
    assert batch == Batch(read=1, stored=1, duplicate=0, quarantined=0, redacted=0)
    [row] = query(home, "SELECT * FROM interactions")
    assert json.loads(row["messages"]) == turns
    assert (row["prompt"], row["response"], row["conversation_id"], row["session_id"]) == ("And now?", "R\tr", "c", "s")
    assert row["created_at"].isoformat() == "2026-11-01T10:00:00"
    assert row["consent"] is True
    assert json.loads(row["pii"]) == {}
    [known] = query(home, "SELECT * FROM source_files")
    assert (known["rows_read"], known["rows_stored"], known["path"]) == (1, 1, str(home / "log.jsonl"))


QUARANTINED = {
    "not_json": [b'{"messages": [', b"hello", b'{"a": 1} trailing', b"{'a': 1}", b'{"a": "\x02"}', b'{"response": "\\ud800"}'],
    "not_an_object": [b"[1, 2]", b'"text"', b"null", b"7"],
    "messages_not_a_list": [json.dumps(line(messages=value)).encode() for value in (..., None, "hi", {"role": "user"}, 3)],
    "messages_empty": [json.dumps(line(messages=[])).encode()],
    "message_content_not_text": [
        json.dumps(line(messages=turns)).encode()
        for turns in (
            [{"role": "user"}],
            [{"role": "user", "content": None}],
            [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            [{"role": "assistant", "content": None}, {"role": "user", "content": "hi"}],
            ["hi"],
            [[]],
            [3],
        )
    ],
    "unknown_role": [
        json.dumps(line(messages=turns)).encode()
        for turns in (
            [{"content": "hi"}],
            [{"role": None, "content": "hi"}],
            [{"role": "root", "content": "hi"}],
            [{"role": ["user"], "content": "hi"}],
            [{"role": None, "content": "a"}, {"role": "user", "content": "hi"}],
        )
    ],
    "last_message_not_from_user": [json.dumps(line(messages=[{"role": "assistant", "content": "hi"}])).encode()],
    "prompt_empty": [json.dumps(said(value)).encode() for value in ("", "  ", "\n\t ")],
    "response_not_text": [json.dumps(line(response=value)).encode() for value in (..., None, 3, ["a"], {"text": "a"})],
    "response_empty": [json.dumps(line(response=value)).encode() for value in ("", " ", "\n")],
    "created_at_not_a_time": [
        json.dumps(line(created_at=value)).encode()
        for value in (..., None, "yesterday", "2026-13-01", 1_700_000, "-infinity", "0044-03-15 (BC) 12:00:00", "1815-06-18T12:00:00Z")
    ],
    "created_at_in_the_future": [
        json.dumps(line(created_at=value)).encode() for value in ("2026-11-24T02:00:01Z", "9999-01-01", "infinity")
    ],
    "too_long": [json.dumps(line(response="x" * 2_000_000)).encode()],
    "id_too_long": [json.dumps(line(**{name: "é" * 129})).encode() for name in ("conversation_id", "user_id", "model")],
    "edit_too_long": [json.dumps(line(signals={"edit": "word " * 4_000})).encode()],
    "too_long_to_mask": [json.dumps(line(response="mail ann@mail.com " + "word " * 14_000)).encode()],
    "not_utf8": [b'{"response": "\xff\xfe"}', b"\x80"],
}


@pytest.mark.parametrize("reason", QUARANTINED)
def test_each_reason_for_quarantine(home: Path, reason: str) -> None:
    refused = QUARANTINED[reason]
    batch = take(home, raw(line()) + b"\n".join(refused) + b"\n" + raw(line(response="last")))
    assert reasons(home) == [reason] * len(refused)
    assert batch == Batch(len(refused) + 2, 2, 0, len(refused), 0)
    assert responses(home) == ["In water.", "last"]
    rows = query(home, "SELECT line_number, raw FROM quarantine ORDER BY line_number")
    assert [row["line_number"] for row in rows] == list(range(2, len(refused) + 2))
    # What was not masked is not shown.
    assert all(row["raw"] == "" if reason == "too_long_to_mask" else 0 < len(row["raw"]) <= 2000 for row in rows)


@pytest.mark.parametrize("digits", [10, 13, 16, 19])
@pytest.mark.parametrize("kind", [int, str])
def test_times_may_count_from_1970(home: Path, digits: int, kind: type) -> None:
    take(home, raw(line(created_at=kind("17" + "0" * (digits - 2)))))
    assert query(home, "SELECT created_at FROM interactions") == [{"created_at": datetime(2023, 11, 14, 22, 13, 20)}]


def test_every_reason_is_tested() -> None:
    import re

    from alignment.store import sql

    assert set(re.findall(r"THEN '([a-z_0-9]+)'", sql("alignment.ingest", "parse").split("judged AS")[1])) == set(QUARANTINED) - {
        "not_utf8"
    } | {
        "no_exchange",
        "erased_subject",
    }


def test_a_file_of_unusable_lines_only_is_accounted_for(home: Path) -> None:
    assert take(home, b"x\ny\n") == Batch(2, 0, 0, 2, 0)


@pytest.mark.parametrize(
    "content",
    [
        raw(line(), line(response="b")),
        raw(line(), line(response="b")).rstrip(b"\n"),
        raw(line()) + b"\n\n  \n\t\n" + raw(line(response="b")),
        b"\xef\xbb\xbf" + raw(line(), line(response="b")),
        raw(line(), line(response="b")).replace(b"\n", b"\r\n"),
    ],
    ids=["plain", "no last newline", "blank lines", "byte order mark", "carriage returns"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_shapes_of_files(home: Path, content: bytes, packed: bool) -> None:
    if packed:
        half = len(content) // 2
        # Log rotation concatenates members.
        content = gzip.compress(content[:half]) + gzip.compress(content[half:])
    assert take(home, content, name="log.jsonl.gz" if packed else "log.jsonl") == Batch(2, 2, 0, 0, 0)
    assert responses(home) == ["In water.", "b"]


def test_raw_control_characters_do_not_cut_lines(home: Path) -> None:
    """DuckDB's reader splits at a bare carriage return and at \\x01; the accounts must still be those of the file."""
    lines = [json.dumps(said(f"p{number}")).encode() for number in range(4)]
    content = b"\n".join(
        [lines[0], lines[1].replace(b"p1", b"p\r1"), lines[2].replace(b"p2", b"p\x012"), lines[3].replace(b"p3", b"p\x003")]
    )
    assert take(home, content) == Batch(4, 1, 0, 3, 0)
    assert reasons(home) == ["not_json"] * 3
    assert [row["line_number"] for row in query(home, "SELECT line_number FROM quarantine ORDER BY 1")] == [2, 3, 4]


def test_an_escaped_nul_is_replaced(home: Path) -> None:
    take(home, raw(said("a\x00b", response="c\x00d", signals={"edit": "e\x00f"})))
    [row] = query(home, "SELECT prompt, response, messages::VARCHAR AS messages FROM interactions")
    assert (row["prompt"], row["response"]) == ("a\ufffdb", "c\ufffdd")
    assert json.loads(row["messages"])[0]["content"] == "a\ufffdb"


def test_odd_parts_of_a_turn_are_neither_stored_nor_fatal(home: Path) -> None:
    """What Python's JSON refuses (depth, huge integers) stands outside of what is kept."""
    deep = b"[" * 50_000 + b"]" * 50_000
    wide = b"9" * 5000
    turn = b'{"role": "user", "content": "mail ann@example.com", "name": "zqx", "deep": ' + deep + b', "wide": ' + wide + b"}"
    content = raw(line(messages="HERE")).replace(b'"HERE"', b"[" + turn + b"]")
    assert take(home, content) == Batch(1, 1, 0, 0, 1)
    [row] = query(home, "SELECT messages::VARCHAR AS messages FROM interactions")
    assert set(json.loads(row["messages"])[0]) == {"role", "content"}


@pytest.mark.parametrize(
    ("said_yes", "consent"), [(..., True), (None, True), (True, True), (False, False), ("no", False), ("denied", False), ({}, False)]
)
def test_a_consent_that_cannot_be_read_is_none(home: Path, said_yes: Any, consent: bool) -> None:
    take(home, raw(line(consent=said_yes)))
    assert [row["consent"] for row in query(home, "SELECT consent FROM interactions")] == [consent]
    assert len(query(home, "SELECT id FROM trainable")) == consent


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_who_once_said_no_is_not_trained_on(home: Path, order: tuple[bool, bool]) -> None:
    for consent in order:
        take(home, raw(line(consent=consent)))
    assert len(query(home, "SELECT id FROM interactions")) == 1
    assert query(home, "SELECT id FROM trainable") == []


def test_a_purpose_that_is_taken_back_counts(home: Path) -> None:
    take(home, raw(line(purpose="training"), line(response="b")))
    take(home, raw(line(purpose="monitoring"), line(response="c", purpose="training"), line(response="c", purpose="evaluation")))
    assert [row["response"] for row in query(home, "SELECT response FROM trainable")] == ["b"]
    assert {row["kind"] for row in query(home, "SELECT kind FROM signals")} == {"not_for_training"}


def test_no_session_holds_all_exchanges_to_moderate(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(home, raw(*(line(response=str(number)) for number in range(5))))
    monkeypatch.setattr(flow, "_SCORED_TOGETHER", 2)
    monkeypatch.setattr(flow, "embedder", lambda: None)
    monkeypatch.setattr("alignment.moderation.versions", lambda **_: {"toxicity": "1"})
    seen: list[list[str]] = []
    monkeypatch.setattr("alignment.moderation.moderate", lambda chunk, **_: seen.append([one.response for one in chunk]) or [])
    held: list[int] = []

    def counted(*arguments: Any) -> list[dict[str, Any]]:
        rows = query(*arguments)
        held.append(sum("messages" in row for row in rows))
        return rows

    monkeypatch.setattr(flow, "query", counted)
    assert flow.moderate_new.fn() == 5
    assert [len(chunk) for chunk in seen] == [2, 2, 1]
    assert held == [0, 2, 2, 1]


def test_no_consent_by_default(home: Path) -> None:
    take(home, raw(line(), line(response="b", consent=True)), settings=Ingest(consent_default=False))
    assert [row["response"] for row in query(home, "SELECT response FROM trainable")] == ["b"]


def test_the_same_file_again_and_under_another_name(home: Path) -> None:
    content = raw(line(), line(response="b"), line(), {"x": 1})
    assert take(home, content) == Batch(4, 2, 1, 1, 0)
    assert unread(home, "logs", find_files([str(home / "log.jsonl")])) == []
    write(home / "again.jsonl", content)
    [again] = unread(home, "logs", find_files([str(home / "*.jsonl")]))
    assert again.name == "again.jsonl"
    # Its bytes were read under another name.
    assert ingest(home, home / "again.jsonl") == Batch()
    assert unread(home, "logs", [again]) == []
    counts = query(
        home,
        "SELECT (SELECT count(*) FROM interactions) AS i, (SELECT count(*) FROM quarantine) AS q, (SELECT count(*) FROM source_files) AS f",
    )
    assert counts == [{"i": 2, "q": 1, "f": 2}]


def test_a_packed_copy_is_the_same_file(home: Path) -> None:
    """Log rotation renames a file and packs it; what was read under the old name is not read again."""
    content = raw(line(), line(response="b"))
    assert take(home, content) == Batch(2, 2, 0, 0, 0)
    more = content + raw(line(response="c"))
    assert take(home, gzip.compress(more), name="log.jsonl.1.gz") == Batch(1, 1, 0, 0, 0)
    [row] = query(home, "SELECT source_file, line_number FROM interactions WHERE response = 'c'")
    assert row["line_number"] == 3
    assert len(query(home, "SELECT DISTINCT id FROM source_files")) == 1


def test_a_grown_file_gives_only_its_new_lines(home: Path) -> None:
    assert take(home, raw(line(), line(response="b"))) == Batch(2, 2, 0, 0, 0)
    assert take(home, raw(line(), line(response="b"), line(response="c"))) == Batch(1, 1, 0, 0, 0)
    assert take(home, raw(line(), line(response="b"), line(response="c"))) == Batch()


def test_a_cut_line_goes_on_in_its_own_file_only(home: Path) -> None:
    whole, other = raw(line(), line(response="b")), raw(line(), line(response="c"))
    assert take(home, whole[:-30], name="cut.jsonl") == Batch(2, 1, 0, 1, 0)
    # Copies of what was cut are known; another file that begins so has its own line there.
    assert take(home, whole[:-30], name="copy.jsonl") == Batch()
    assert take(home, whole, name="other.jsonl") == Batch(2, 1, 1, 0, 0)
    assert take(home, whole[:-30] + other[-30:], name="cut.jsonl") == Batch()
    assert len(query(home, "SELECT DISTINCT id FROM source_files")) == 2


def test_a_file_that_grew_since_it_was_listed_loses_no_line(home: Path) -> None:
    whole = raw(line(), line(response="b"))
    path = write(home / "log.jsonl", whole[:-30])
    [listed] = find_files([str(path)])
    for name, data in (("listed", None), ("fetched", whole[:-30])):
        reading = resume(Known(), "logs", listed._replace(size=listed.size - 5, data=data))
        [block] = blocks(reading, KEEP_ALL, now=NOW)
        assert (len(block.lines), block.last, block.end.offset) == (1, False, len(raw(line()))), name
    [block] = blocks(resume(Known(), "logs", listed), KEEP_ALL, now=NOW)
    assert (len(block.lines), block.last) == (2, True)


def test_a_file_replaced_under_its_name_is_read_anew(home: Path) -> None:
    take(home, raw(line(), line(response="b")))
    assert take(home, raw(line(), line(response="c"))) == Batch(2, 1, 1, 0, 0)
    assert take(home, raw(line())) == Batch(1, 0, 1, 0, 0)


def test_a_line_that_is_being_written_waits(home: Path) -> None:
    whole = raw(line(), line(response="b"))
    path = home / "log.jsonl"
    path.write_bytes(whole[:-20])
    moment = (NOW - timedelta(minutes=1)).replace(tzinfo=UTC).timestamp()
    os.utime(path, (moment, moment))
    assert ingest(home, path) == Batch(1, 1, 0, 0, 0)
    # Even if nobody writes on, the line is not forgotten.
    assert unread(home, "logs", find_files([str(path)])) != []
    path.write_bytes(whole)
    os.utime(path, (moment, moment))
    assert ingest(home, path) == Batch(1, 1, 0, 0, 0)
    # An hour later nobody writes to it any more.
    assert take(home, whole + whole[:20]) == Batch(1, 0, 0, 1, 0)


@pytest.mark.parametrize("size", [0, 1, 40])
def test_blocks_are_cut_anywhere(home: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    content = b"\xef\xbb\xbf" + raw(*(line(response=f"é{number}") for number in range(50)))
    content = content.replace(rb"\u00e9", "é".encode()) + b"\xff\n" + raw(line(response="last"))
    monkeypatch.setattr(lines, "_READ", 333)
    monkeypatch.setattr(lines, "BLOCK_ROWS", 7)
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 1 << 20 if size == 0 else size * 100)
    assert take(home, content) == Batch(52, 51, 0, 1, 0)
    rows = query(
        home, "SELECT first_line, last_line, start_offset, end_offset, sha256, finished FROM source_files ORDER BY end_offset, last_line"
    )
    assert [row["finished"] for row in rows] == [False] * (len(rows) - 1) + [True]
    for before, after in zip(rows, rows[1:], strict=False):
        assert (after["start_offset"], after["first_line"]) == (before["end_offset"], before["last_line"] + 1)
    for row in rows:
        assert row["sha256"] == sha256(content[: row["end_offset"]]).hexdigest()
    assert rows[-1]["end_offset"] == len(content)
    numbers = query(home, "SELECT line_number, response FROM interactions ORDER BY line_number")
    assert [row["line_number"] for row in numbers] == [*range(1, 51), 52]


def test_signals_of_a_line_delivered_again_are_stored(home: Path) -> None:
    take(home, raw(line()))
    assert query(home, "SELECT * FROM signals") == []
    later = line(signals={"thumbs": "down", "regenerated": True, "edit": "write to ann@example.com"})
    assert take(home, raw(later), name="later.jsonl") == Batch(1, 0, 1, 0, 1)
    assert take(home, b"\n" + raw(later), name="and again.jsonl") == Batch(1, 0, 1, 0, 1)
    signals = {
        row["kind"]: row["value"]
        for row in query(home, "SELECT kind, value FROM signals JOIN interactions ON interactions.id = interaction_id")
    }
    assert set(signals) == {"thumbs", "regenerated", "edit"}
    assert (signals["thumbs"], signals["regenerated"]) == ("down", "true")
    assert signals["edit"].startswith("write to <EMAIL_")
    assert len(query(home, "SELECT * FROM signals")) == 3


def test_odd_signals_are_left_out(home: Path) -> None:
    odd = [{"thumbs": "ann@example.com"}, {"thumbs": None, "regenerated": "perhaps"}, {"edit": None}, [], "x", 3, None]
    assert take(home, raw(*(line(response=str(number), signals=one) for number, one in enumerate(odd)))).stored == len(odd)
    assert query(home, "SELECT * FROM signals") == []


PLANTED = {
    "email": "planted.person@example.com",
    "phone": "+49 171 5550199",
    "card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
    "key": "sk-plantedplantedplanted",
}


def everything_under(home: Path, *, but: Iterable[Path]) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file() and path not in set(but))


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def test_nothing_personal_reaches_the_disk(home: Path) -> None:
    all_of_it = ", ".join(PLANTED.values()) + " and so on"
    hidden = json.dumps(said("HIDDEN", response="HIDDEN")).replace("HIDDEN", escaped(all_of_it))
    lines = [
        json.dumps(said(all_of_it)),
        json.dumps(line(response=all_of_it)),
        json.dumps(line(response="x", messages=[{"role": "system", "content": all_of_it}, {"role": "user", "content": "hi"}])),
        json.dumps(line(response="y", messages=[{"role": "user", "content": "hi", "name": all_of_it}])),
        json.dumps(line(response="z", signals={"edit": all_of_it, "thumbs": all_of_it}, extra=all_of_it)),
        json.dumps(line(response="v", user_id=PLANTED["email"], conversation_id=PLANTED["phone"], session_id=PLANTED["email"])),
        json.dumps(said("refused by a check " + all_of_it, response="w")),
        hidden,
        json.dumps(line(response=all_of_it, created_at="never")),
        '{"cut": "' + all_of_it,
        '{"cut": "' + escaped(all_of_it),
    ]
    path = home / "log.jsonl"
    write(path, "\n".join(lines).encode() + b"\n\xff " + all_of_it.encode())
    assert ingest(home, path, rejected={6: "check:x:y"}) == Batch(12, 7, 0, 5, 7)
    disk = everything_under(home, but=[path])
    assert b"hi" in disk
    for kind, value in PLANTED.items():
        for form in (value, value.replace(" ", ""), escaped(value)):
            assert form.encode() not in disk, kind
    tables = (
        query(home, "SELECT prompt, response, user_id FROM interactions")
        + query(home, "SELECT raw FROM quarantine")
        + query(home, "FROM signals")
    )
    text = str(tables)
    assert all(value not in text for value in PLANTED.values())
    assert all(text.count(f"<{kind}_") >= 5 for kind in ("EMAIL", "PHONE", "CARD", "IBAN", "KEY"))
    [user] = query(home, "SELECT user_id FROM interactions WHERE response = 'v'")
    assert user["user_id"].startswith("<EMAIL_")


def test_redaction_counts_stand_beside_the_text(home: Path) -> None:
    assert take(home, raw(said("a@b.de and c@d.de", response="415-555-2672"), line())).redacted == 1
    assert json.loads(query(home, "SELECT pii FROM interactions WHERE line_number = 1")[0]["pii"]) == {"EMAIL": 2, "PHONE": 1}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("dies_at", ["interactions", "signals", "quarantine", "source_files"])
def test_a_killed_merge_is_repeated(home: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str) -> None:
    monkeypatch.setattr(lines, "BLOCK_ROWS", 3)
    take(home, raw(line(response="0")), name="earlier.jsonl")
    write(home / "log.jsonl", raw(*(line(response=str(number), signals={"thumbs": "up"}) for number in (0, 1, 2, 3, 4, 4)), {}))
    calls = Counter[str]()

    def dying(function: Any, table_of: Any) -> Any:
        def call(connection: Any, *arguments: Any, **options: Any) -> int:
            table = table_of(arguments)
            calls[table] += 1
            added: int = function(connection, *arguments, **options)
            if table == dies_at and calls[table] == 2:
                raise Killed
            return added

        return call

    with monkeypatch.context() as patched:
        patched.setattr(merging, "append_arrow", dying(merging.append_arrow, lambda arguments: arguments[0]))
        patched.setattr(merging, "append", dying(merging.append, lambda arguments: arguments[0]))
        patched.setattr(merging, "insert", dying(merging.insert, lambda _: "interactions"))
        with pytest.raises(Killed):
            ingest(home, home / "log.jsonl")
    assert unread(home, "logs", find_files([str(home / "log.jsonl")])) != []
    first = query(home, "SELECT rows_read, rows_stored, rows_duplicate FROM source_files WHERE path LIKE '%/log.jsonl'")
    assert first == ([{"rows_read": 3, "rows_stored": 2, "rows_duplicate": 1}] if dies_at != "quarantine" else [])
    rest = ingest(home, home / "log.jsonl")
    assert rest == (Batch(4, 2, 1, 1, 0) if first else Batch(7, 4, 2, 1, 0))
    assert sorted(responses(home)) == list("01234")
    assert len(query(home, "SELECT * FROM signals")) == 5
    assert len(query(home, "SELECT * FROM quarantine")) == 1


def test_rows_that_fail_a_check_are_quarantined(home: Path) -> None:
    write(home / "log.jsonl", raw(line(), said("mail a@b.de", response="b"), line(response="c")))
    assert ingest(home, home / "log.jsonl", rejected={1: "check:x:y"}) == Batch(3, 2, 0, 1, 1)
    [row] = query(home, "SELECT line_number, reason, raw FROM quarantine")
    assert (row["line_number"], row["reason"]) == (2, "check:x:y")
    assert row["raw"].startswith("mail <EMAIL_")


def test_what_was_said_of_a_refused_exchange_is_not_stored(home: Path) -> None:
    edited = {"edit": "what only I know"}
    write(home / "log.jsonl", raw(line(signals=edited), line(response="b", signals=edited)))
    assert ingest(home, home / "log.jsonl", rejected={0: "check:x:y"}).stored == 1
    assert query(home, "SELECT interaction_id FROM signals") == query(home, "SELECT id AS interaction_id FROM interactions")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  \n\t\n"])
def test_a_file_without_lines_is_no_error(home: Path, content: bytes) -> None:
    """Log rotation leaves empty files behind at midnight."""
    assert take(home, content) == Batch()


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip at all"])
def test_a_damaged_gzip_is_told_not_half_read(home: Path, damage: str) -> None:
    packed = bytearray(gzip.compress(raw(*(line(response=str(number)) for number in range(500)))))
    if damage == "cut":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed = bytearray(raw(line()))
    with pytest.raises(InputError, match=r"cannot read the log file.*check the file"):
        take(home, bytes(packed), name="log.jsonl.gz")
    assert query(home, "SELECT * FROM interactions") == []


def test_files_that_are_not_there_are_all_named(home: Path) -> None:
    (home / "a folder").mkdir()
    with pytest.raises(InputError) as caught:
        find_files([str(home / "missing.jsonl"), str(home / "*.nothing"), str(home / "a folder")])
    assert all(name in str(caught.value) for name in ("missing.jsonl", "*.nothing", "a folder"))


def test_a_name_with_brackets_is_a_name(home: Path) -> None:
    (home / "log[1].jsonl").write_bytes(raw(line()))
    assert [one.name for one in find_files([str(home / "log[1].jsonl")])] == ["log[1].jsonl"]


GOOD = st.builds(lambda prompt, response: json.dumps(said(prompt, response=response)).encode(), st.text(max_size=20), st.text(max_size=20))
JUNK = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"", b" ", b"\t", b"\r", b"\x01", b"\x00", b'"', b"\xef\xbb\xbf", b"{}", b"\xc2\x85"])
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    whole = draw(GOOD)
    place = draw(st.integers(0, len(whole)))
    return whole[:place] + draw(JUNK) + whole[place + draw(st.integers(0, 3)) :]


LOGS = st.lists(st.one_of(GOOD, mutated(), JUNK), min_size=1, max_size=25).map(b"\n".join)


def blank(part: bytes, *, first: bool) -> bool:
    return not part.removeprefix(b"\xef\xbb\xbf" if first else b"").rstrip(b"\r").strip(b" \t\r")


@settings(max_examples=8)
@given(LOGS)
def test_the_accounts_are_exact(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("home")
    expected = [part for number, part in enumerate(content.split(b"\n")) if not blank(part, first=number == 0)]
    batch = take(folder, content)
    assert batch.read == len(expected) == batch.stored + batch.duplicate + batch.quarantined
    assert len(query(folder, "SELECT * FROM interactions")) == batch.stored
    assert len(query(folder, "SELECT * FROM quarantine")) == batch.quarantined
    assert ingest(folder, folder / "log.jsonl") == Batch()


def test_storing_does_not_change_letters(home: Path) -> None:
    text = "e\u0301 \u2028 \u0085 \U0001f469\u200d\U0001f52c \u202e"
    take(home, raw(said(text)))
    [row] = query(home, "SELECT prompt FROM interactions")
    assert row["prompt"] == text
    assert unicodedata.normalize("NFC", text) != text


def test_the_store_file_is_where_it_is_said_to_be(home: Path) -> None:
    take(home, raw(line()))
    assert store_path(home).stat().st_size > 0


@pytest.mark.parametrize("opening", ["<", "\\u003c", "\\u003C"])
def test_thoughts_are_found_however_their_tags_are_written(home: Path, opening: str) -> None:
    written = json.dumps(line(response="<think>in my head</think>In water.")).replace("<", opening)
    take(home, written.encode() + b"\n")
    assert query(home, "SELECT response FROM interactions") == [{"response": "In water."}]
