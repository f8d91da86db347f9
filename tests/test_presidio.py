"""The second look finds what the fast rules do not know, leaves ordinary text alone, and reaches everything that is made of an exchange."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.config import Settings, load_settings
from alignment.errors import ConfigError
from alignment.ingest.presidio import DeepRedactor, _Found, _merged, _Recogniser, deep_version
from alignment.ingest.redact import redact, redaction_key
from alignment.pairs import HumanVerdict
from alignment.records import Candidate
from alignment.store import append, migrate, query, session
from alignment.text import PLACEHOLDER
from bench import redaction_values as values
from dashboard import review_data
from flows import curate
from flows import redact as flow
from flows.labelled import masked, verdicts
from tests.conftest import NOW, child_environment
from tests.test_night import weights
from tests.test_redact import STAYS, TEXTS

KEY = b"k" * 32
FIRST = [
    ("PHONE", "my mobile is {}, boiler still cold", "07700 900255"),
    ("PHONE", "Leeds, {}.", "07700 900461"),
    ("PHONE", "call me: {}", "4155552671"),
    ("PHONE", "Phone: {}\nbye", "1-800-205-3981"),
    ("IBAN", "to {} please", "DE89-3704-0044-0532-0130-00"),
    ("NATIONAL_ID", "codice {} mio", "RSSMRA85T10A562S"),
    ("NATIONAL_ID", "DNI {} es el mio", "12345678Z"),
    ("NATIONAL_ID", "henkilötunnus {} on", "131052-308T"),
    ("NATIONAL_ID", "NI is {} ok", "AB 12 34 56 C"),
    ("NATIONAL_ID", "mój PESEL to {}", "44051401359"),
    ("HEALTH_ID", "{} is my NHS number", "9434765919"),
    ("TAX_ID", "Steuer-ID: {}", "86095742719"),
    ("SSN", "social security {} thanks", "078051121"),
    ("KEY", "send it to {} now", "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ"),
    ("MAC", "the card {} fails", "3C-22-FB-00-53-AF"),
]
"""What the fast rules find by themselves."""
FOUND = [
    ("PHONE", "at _{}_ or", "07700 900255"),
    ("PHONE", "Ruf an unter {} bitte", "(030) 901820"),
    ("PASSPORT", "my passport is {}, hers is not", "AB1234567"),
    ("BANK", "account {} at Chase", "945456787654"),
    ("BIRTH", "DOB {} and", "17/09/1958"),
]
LEFT = [
    *STAYS,
    "the order id is 079505181 and the code 1Z7B6CV1L",
    "order 0138840417, total 22098.64 on 2026-04-01",
    "CSV has dates as 3/4/24, 04-03-2024 and 2018-10-10",
    "the number 44051401359 without its word",
    "reference 9434765919",
    "my PESEL is not 4405140135903289",
    "see f(030) 901820 there",
    "born to run, in 1984 or 2001",
    "https://www.google.com/maps/place/North/@37.3362725,-121.8244",
    "data Tree a = Leaf :: add | Node",
    "for at 7, is at 192, M6C 1R5",
    "AB1234567 is a part number",
    "ring 5 of 12, then call it a day at 10:30",
]


@cache
def redactor() -> DeepRedactor:
    return DeepRedactor()


def bare(text: str) -> str:
    return PLACEHOLDER.sub("", text)


@pytest.mark.parametrize(("kind", "around", "value"), FOUND)
def test_what_the_fast_rules_do_not_know_goes(kind: str, around: str, value: str) -> None:
    text = around.format(value)
    assert not redact(text, KEY)[1]
    masked, counts = redactor().redact(text, KEY)
    assert counts == {kind: 1}, masked
    assert bare(masked) == around.format("")
    assert redactor().redact(masked, KEY) == (masked, {})


@pytest.mark.parametrize(("kind", "around", "value"), FIRST)
def test_both_looks_agree(kind: str, around: str, value: str) -> None:
    text = around.format(value)
    assert redact(text, KEY) == redactor().redact(text, KEY)
    assert redact(text, KEY)[1] == {kind: 1}


@pytest.mark.parametrize("spell", [values.wide, values.woven, values.bold])
def test_the_second_look_reads_through_a_disguise(spell: Callable[[str], str]) -> None:
    plain, text = "Ruf an unter (030) 901820 bitte", f"Ruf an unter {spell('(030) 901820')} bitte"
    masked, counts = redactor().redact(text, KEY)
    assert counts == {"PHONE": 1}
    assert masked == redactor().redact(plain, KEY)[0]


@pytest.mark.parametrize("text", LEFT)
def test_ordinary_text_stays(text: str) -> None:
    assert redactor().redact(text, KEY) == (text, {})


def test_the_fast_rules_come_along_and_placeholders_stay() -> None:
    text = "<EMAIL_3f9a1c>07700 900255 or ann@example.com, <PHONE_3f9a1c8b2d77>"
    masked, counts = redactor().redact(text, KEY)
    assert counts == {"EMAIL": 1, "PHONE": 1}
    assert masked.startswith("<EMAIL_3f9a1c><PHONE_")
    assert masked.endswith(", <PHONE_3f9a1c8b2d77>")
    assert redact("ann@example.com", KEY)[0] in masked


def test_of_places_that_overlap_nothing_is_left() -> None:
    inner, across, longer = _Found(4, 6, "B", 0.9), _Found(8, 14, "C", 0.4), _Found(0, 10, "A", 0.4)
    assert _merged([across, inner, longer], "x" * 20) == [_Found(0, 14, "B", 0.9)]
    assert _merged([inner, longer], "x" * 20) == [_Found(0, 10, "B", 0.9)]
    assert _merged([longer, across], "x" * 20) == [_Found(0, 14, "A", 0.4)]
    assert _merged([inner, _Found(6, 8, "D", 0.1)], "x" * 20) == [inner, _Found(6, 8, "D", 0.1)]


def test_what_shows_only_when_its_neighbour_is_gone_goes_too() -> None:
    one = DeepRedactor()
    first = re.compile(r"\A#\d")
    one._recognisers = [_Recogniser("CODE", lambda text, _: [_Found(*hit.span(), "CODE", 1.0) for hit in first.finditer(text)], [], None)]
    masked, counts = one.redact("#1#2#3", KEY)
    assert (bare(masked), counts) == ("", {"CODE": 3})


def test_the_same_value_has_the_same_placeholder_however_it_is_written() -> None:
    one, other = (redactor().redact(f"call {number} now", KEY)[0] for number in ("07700 900255", "07700900255"))
    assert one == other


WORDS = ["call me on", "my NHS number", "passport", "account", "DOB", "tax", "social security", " ", "\n", "<EMAIL_3f9a1c>", "@", "+", "0"]
DEEP_TEXTS = st.lists(
    st.one_of(TEXTS, st.sampled_from([value for _, _, value in [*FIRST, *FOUND]] + WORDS), st.text("0123456789 -.()/+ABZ", max_size=30)),
    max_size=6,
).map("".join)


@settings(max_examples=150)
@given(DEEP_TEXTS)
def test_redacting_again_changes_nothing(text: str) -> None:
    once, counts = redactor().redact(text, KEY)
    assert redactor().redact(once, KEY) == (once, {})
    assert (once == text) == (not counts)
    # What stood there as a placeholder still does.
    assert Counter(PLACEHOLDER.findall(text)) <= Counter(PLACEHOLDER.findall(once))


def test_a_long_text_is_read_to_its_end_and_across_the_pieces() -> None:
    for filler in range(1960, 2010):
        text = "word " * (filler // 5) + "x" * (filler % 5) + " my mobile is 07700 900255 and " + "more " * 20_000 + "tel 07700 900461"
        assert len(text) > 100_000
        masked, counts = redactor().redact(text, KEY) if filler == 1985 else redactor().redact(text[:3000], KEY)
        assert counts["PHONE"] == (2 if filler == 1985 else 1), filler
        assert "900255" not in masked


@pytest.mark.timeout(120)
@pytest.mark.parametrize("unit", ["1", "1 ", "+1 ", "(0", "01 ", "a@", "0170 1234567 ", "12345678Z ", "aa:", "::1 ", "tel 0"])
def test_hostile_text_takes_no_longer_than_its_length(unit: str) -> None:
    times = []
    for size in (4_000, 40_000):
        text = unit * (size // len(unit))
        started = time.perf_counter()
        redactor().redact(text, KEY)
        times.append(time.perf_counter() - started)
    assert times[1] < 40 * times[0] + 0.5


def test_a_dump_of_numbers_is_masked_rather_than_read_for_minutes() -> None:
    text = "".join(f"0{number} 00000 01\n" for number in range(1000, 6000))
    started = time.perf_counter()
    masked, counts = redactor().redact(text, KEY)
    assert time.perf_counter() - started < 10
    assert counts["PHONE"] > 4000
    assert "05999 00000 01" not in masked
    assert redactor().redact(masked, KEY) == (masked, {})


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    loaded = "'presidio_analyzer' in sys.modules, 'spacy' in sys.modules"
    code = f"import sys, flows.curate, alignment.ingest.presidio as deep; deep.deep_version(); print({loaded})"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for _, around, value in FOUND:
        assert DeepRedactor().redact(around.format(value), KEY)[1]


@pytest.fixture
def ner_model(tmp_path: Path) -> str:
    import spacy

    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns(
        [{"label": "PERSON", "pattern": "Ann Miller"}, {"label": "GPE", "pattern": "Leeds"}, {"label": "ORG", "pattern": "Acme"}]
    )
    nlp.to_disk(tmp_path / "names")
    return str(tmp_path / "names")


def test_names_go_where_a_model_is_given(ner_model: str) -> None:
    text = "Ann Miller of Acme in Leeds, 07700 900255"
    masked, counts = DeepRedactor(ner_model).redact(text, KEY)
    assert counts == {"PERSON": 1, "LOCATION": 1, "PHONE": 1}
    assert bare(masked) == " of Acme in , "
    assert "Ann Miller" in redactor().redact(text, KEY)[0]
    assert deep_version(ner_model) != deep_version()


@pytest.mark.parametrize("model", ["no_such_model", "/no/such/folder"])
def test_a_model_that_is_not_there_is_named(model: str) -> None:
    for call in (DeepRedactor, deep_version):
        with pytest.raises(ConfigError, match=re.escape(model)):
            call(model)


PHONE = "07700 900255"
EXCHANGE = {
    "source_file": "f",
    "line_number": 1,
    "conversation_id": "c",
    "session_id": "s",
    "user_id": "u",
    "created_at": NOW,
    "model": "m",
}


def fill(home: Path) -> None:
    migrate(home)
    redaction_key(home)
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": f"call {PHONE}"},
        {"role": "user", "content": f"text {PHONE}, <EMAIL_3f9a1c>"},
    ]
    row = {**EXCHANGE, "messages": turns, "prompt": turns[-1]["content"], "response": f"ok, {PHONE}", "consent": True, "pii": {"EMAIL": 1}}
    plain = {**row, "messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "response": "hello", "pii": {}}
    detection = {"detector": "toxicity", "version": "1", "score": 1.0, "label": None, "detected_at": NOW}
    with session(home, write=True) as connection:
        rows = [{**row, "id": "flagged"}, {**row, "id": "chosen"}, {**row, "id": "neither"}, {**plain, "id": "plain"}]
        append(connection, "interactions", [{**one, "ingested_at": NOW} for one in rows])
        found = [("flagged", True), ("plain", True), ("neither", False), ("chosen", False)]
        flags = [{**detection, "interaction_id": one, "flagged": flagged} for one, flagged in found]
        append(connection, "detections", flags, key=("interaction_id",))
        append(connection, "selections", [{"id": "x", "night_id": "n", "interaction_id": "chosen"}])
        signal = {"interaction_id": "flagged", "recorded_at": NOW}
        append(connection, "signals", [{**signal, "id": "e", "kind": "edit", "value": f"no, {PHONE}"}])
        append(connection, "signals", [{**signal, "id": "t", "kind": "thumbs", "value": "down"}])
        one = {"interaction_id": "chosen", "created_at": NOW}
        append(connection, "candidates", [{**one, "id": "k", "text": PHONE, "detail": {"critique": f"call {PHONE}"}}])
        append(connection, "review_items", [{**one, "id": "r", "prompt": f"x {PHONE}", "answer_a": PHONE, "answer_b": None}])
        append(connection, "pairs", [{"interaction_id": "chosen", "id": "p", "messages": turns, "chosen": "a", "rejected": PHONE}])


def everything(home: Path, table: str) -> str:
    return json.dumps(query(home, f"SELECT * FROM {table}"), default=str)


def test_what_is_flagged_or_chosen_is_masked_with_all_that_was_made_of_it(home: Path) -> None:
    fill(home)
    before = query(home, "SELECT * FROM interactions WHERE id IN ('neither', 'plain') ORDER BY id")
    assert flow.redact_deeply.fn() == 3
    rows = {row["id"]: row for row in query(home, "SELECT * FROM interactions")}
    for name in ("flagged", "chosen"):
        row = rows[name]
        assert PHONE not in json.dumps(row, default=str)
        turns = json.loads(row["messages"])
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        assert row["prompt"] == turns[-1]["content"]
        assert re.fullmatch(r"text <PHONE_\w{6}>, <EMAIL_3f9a1c>", row["prompt"])
        assert json.loads(row["pii"]) == {"EMAIL": 1, "PHONE": 3}
    assert query(home, "SELECT * FROM interactions WHERE id IN ('neither', 'plain') ORDER BY id") == before
    for table in ("signals", "candidates", "review_items", "pairs"):
        assert PHONE not in everything(home, table), table
        assert "PHONE" in everything(home, table), table
    assert query(home, "SELECT value FROM signals WHERE id = 't'") == [{"value": "down"}]
    scans = {row["interaction_id"]: json.loads(row["found"]) for row in query(home, "SELECT * FROM deep_redactions")}
    assert scans == {"flagged": {"PHONE": 3}, "chosen": {"PHONE": 3}, "plain": {}}


def test_an_exchange_is_read_once_a_version(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home)
    assert [flow.redact_deeply.fn(), flow.redact_deeply.fn()] == [3, 0]
    monkeypatch.setattr("alignment.ingest.presidio.deep_version", lambda _: "newer")
    assert flow.redact_deeply.fn() == 3
    [row] = query(home, "SELECT pii FROM interactions WHERE id = 'flagged'")
    assert json.loads(row["pii"]) == {"EMAIL": 1, "PHONE": 3}


def test_a_chunk_is_masked_and_recorded_or_neither(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(flow, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            flow.redact_deeply.fn()
    assert PHONE in everything(home, "interactions")
    assert not query(home, "SELECT * FROM deep_redactions")
    assert flow.redact_deeply.fn() == 3


def test_what_people_and_models_write_is_masked(home: Path) -> None:
    own = load_settings()
    assert own.home == home
    written = {"interaction_id": "x", "verdict": "edit", "edited_answer": f"call {PHONE} or ann@example.com"}
    human = verdicts(own, [written, {"interaction_id": "y", "verdict": "flip", "edited_answer": None}])
    assert human["y"] == HumanVerdict("flip", None)
    assert bare(str(human["x"].edited_answer)) == "call  or "
    hidden = masked(Candidate("k", "x", "sampled", f"call {PHONE}", "m", "p", {"critique": PHONE}), flow.masking(Settings(home=home)))
    assert PHONE not in hidden.text + hidden.detail["critique"]
    assert redaction_key(home)


def test_the_night_makes_nothing_of_texts_before_the_second_look(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(home)
    # Whose texts are counted: no model is needed for that.
    monkeypatch.setenv("ALIGN_MODEL__PATH", str(weights(home)))
    done: list[str] = []
    for name in ("choose", "redact_deeply", "generate", "label", "build"):
        monkeypatch.setattr(curate, name, lambda *_, name=name: done.append(name))
    monkeypatch.setattr(curate, "selected", lambda *_: [object()])
    curate.curate.fn("n")
    assert done == ["choose", "redact_deeply", "generate", "label", "build"]


def test_what_a_reviewer_writes_is_stored_redacted(home: Path) -> None:
    migrate(home)
    with session(home, write=True) as connection:
        append(connection, "review_items", [{"id": "i", "kind": "low_margin", "priority": 1.0, "created_at": NOW}])
    assert review_data.claim_item("t", "Ada", kind=None, item="i").showing
    words = {"note": "ann@example.com told me", "edited_answer": "Ask ann@example.com."}
    assert review_data.record_verdict("t", "edit", reviewer="Ada", **words).stored
    [row] = query(home, "SELECT note, edited_answer FROM verdicts")
    assert [bare(row[name]) for name in ("note", "edited_answer")] == [" told me", "Ask ."]
    assert "EMAIL" in row["edited_answer"]
