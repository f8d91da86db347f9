"""What real libraries wrote is read as what was asked and said: records of `bench.writers`, whose docstring says how they were made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from alignment.ingest import Batch, Context, Parsed, Part, blocks, make_source, parse, parser
from alignment.ingest.reading import from_start
from bench.writers.answers import CALLS, FOUND, SYSTEM, THOUGHT
from tests.test_cases_ingest import ASKED, MODEL, SAID, USER, fuse, lite
from tests.test_ingest import KEEP_ALL, ingest, raw, write

HERE = Path(__file__).parent / "writers"
ANSWERED = ("plain", "thinking", "after_tool", "refusal", "stream", "thinking_stream")


class Written(NamedTuple):
    """A file, and what has to become of it: how often each of `ANSWERED` is an exchange, by whom and of which model; how many records
    were skipped for which reason, how many are refused because the library left out what was said, and how often an answer is taken as
    given because the library left out that it was filtered."""

    name: str
    preset: str
    answered: Sequence[int]
    users: set[str]
    models: set[str]
    skipped: Mapping[str, int]
    refused: Mapping[str, int] = {}
    ended_unseen: Mapping[str, int] = {}


BOTH = {"tea-1", "claude-tea-1"}
FILES = [
    Written("openai", "openai", (2, 2, 2, 2, 2, 2), {"ann"}, {"tea-1"},
            {"error": 2, "filtered": 4, "no_answer": 2, "not_a_chat": 1, "tool_call": 4}),
    Written("anthropic", "openai", (1, 1, 1, 1, 2, 1), {"ann"}, {"claude-tea-1"},
            {"error": 1, "filtered": 2, "no_answer": 1, "tool_call": 2}),
    Written("litellm", "litellm", (3, 3, 3, 2, 3, 3), {"ann"}, BOTH,
            {"error": 3, "filtered": 6, "no_answer": 3, "not_a_chat": 1, "tool_call": 6}),
    Written("litellm_spend", "litellm", (3, 3, 3, 3, 3, 3), {"ann"}, {"openai/tea-1", "anthropic/claude-tea-1"},
            {"error": 3, "filtered": 6, "no_answer": 3, "not_a_chat": 1, "tool_call": 6}),
    Written("langfuse", "langfuse", (1, 1, 1, 1, 0, 0), {"ann"}, {"tea-1"}, {"error": 1, "no_answer": 1, "tool_call": 1},
            ended_unseen={"filtered": 1}),
    Written("langfuse_spans", "otel", (2, 2, 2, 1, 2, 2), {"ann"}, {"tea-1"}, {"error": 2, "no_answer": 1, "tool_call": 4},
            {"response_not_text": 2}, {"filtered": 2, "filtered_stream": 2}),
    Written("otel", "otel", (3, 3, 3, 3, 3, 3), {""}, BOTH, {"error": 3, "filtered": 6, "no_answer": 3, "tool_call": 6}),
    Written("otel_console", "otel", (3, 3, 3, 3, 3, 3), {""}, BOTH,
            {"another_record": 1, "error": 3, "filtered": 6, "no_answer": 3, "tool_call": 6}),
    # Its log records do not say that a call failed.
    Written("otel_details", "otel", (3, 3, 3, 3, 3, 3), {""}, BOTH,
            {"another_record": 1, "error": 3, "filtered": 6, "no_answer": 3, "tool_call": 6}),
    Written("otel_details_console", "otel", (3, 3, 3, 3, 3, 3), {""}, BOTH,
            {"another_record": 37, "error": 3, "filtered": 6, "no_answer": 3, "tool_call": 6}),
    Written("otel_both", "otel", (3, 3, 3, 3, 3, 3), {""}, BOTH,
            {"error": 3, "filtered": 6, "no_answer": 3, "repeated": 36, "tool_call": 6}),
    # It knows no Responses API and leaves refusals out, and its log records name no model.
    Written("otel_events", "otel", (1, 1, 1, 0, 1, 1), {""}, {""},
            {"another_record": 1, "filtered": 2, "half_a_call": 1, "no_answer": 1, "tool_call": 2}, {"response_not_text": 1}),
    # One record a line: those of a call are put together.
    Written("otel_events_console", "otel", (1, 1, 1, 0, 1, 1), {""}, {""},
            {"another_record": 13, "filtered": 2, "half_a_call": 2, "no_answer": 1, "part_of_a_call": 24, "tool_call": 2},
            {"response_not_text": 1}),
    # Of the Responses API it has neither the user nor, outside of streams, more than a plain answer.
    Written("openllmetry", "otel", (2, 1, 1, 1, 2, 2), {"", "ann"}, {"tea-1"}, {"error": 2, "filtered": 3, "no_answer": 1, "tool_call": 3}),
    Written("openinference", "openinference", (2, 2, 2, 2, 2, 2), {"ann"}, {"tea-1"},
            {"error": 2, "filtered": 3, "no_answer": 2, "tool_call": 4}, {"response_not_text": 1}),
    Written("openinference_console", "openinference", (2, 2, 2, 2, 2, 2), {"ann"}, {"tea-1"},
            {"another_record": 1, "error": 2, "filtered": 3, "no_answer": 2, "tool_call": 4}, {"response_not_text": 1}),
]  # fmt: skip


def read(path: Path, preset: str) -> Parsed:
    source = make_source("s", [str(path)], preset, {})
    [log_file] = source.find()
    context = Context(KEEP_ALL, b"k" * 32, datetime(2026, 12, 1), datetime(2026, 12, 2))
    reading = from_start(log_file)
    [block] = blocks(reading, KEEP_ALL, now=context.now)
    return parse(parser(), source.statement(), source.undated, [Part(reading, block)], context)


@pytest.mark.parametrize("one", FILES, ids=lambda one: one.name)
def test_what_a_library_writes_is_what_was_asked_and_said(one: Written) -> None:
    parsed = read(HERE / f"{one.name}.jsonl.gz", one.preset)
    rows = [parsed.rows.to_pylist()[place] for place in parsed.usable]
    expected = {**dict(zip(ANSWERED, one.answered, strict=True)), **one.ended_unseen}
    found = Counter((row["prompt"], row["response"]) for row in rows)
    assert found == {(CALLS[name].asked, CALLS[name].answer): times for name, times in expected.items() if times}
    assert {row["user_id"] for row in rows} == one.users
    assert {row["model"] for row in rows} == one.models
    assert dict(parsed.why_skipped) == one.skipped
    assert Counter(parsed.quarantine["reason"].to_pylist()) == one.refused
    assert parsed.read == len(rows) + parsed.skipped + len(parsed.quarantine)
    for row in rows:
        turns = json.loads(row["messages"])
        assert [turn["role"] for turn in turns] == ["system", "user"]
        assert turns[0]["content"] == SYSTEM
        assert row["tools"] == ("shop" if row["prompt"] == CALLS["after_tool"].asked else None)
        assert datetime(2026, 11, 1) <= row["created_at"] < datetime(2026, 12, 1)
        assert THOUGHT not in str(row) and FOUND not in str(row)


def test_every_recording_is_held_to_something() -> None:
    assert {one.name for one in FILES} == set(json.loads((HERE / "versions.json").read_text(encoding="utf-8")))
    assert {f"{one.name}.jsonl.gz" for one in FILES} == {path.name for path in HERE.glob("*.gz")}


@pytest.mark.parametrize(
    ("preset", "row", "reason"),
    [
        ("litellm", lite(messages="{}", response="{}"), "placeholder"),
        ("litellm", lite(messages={}, response={}), "placeholder"),
        ("openai", {"request": {"messages": USER}, "response": {"type": "rate_limit_error", "message": "x"}}, "error"),
        ("langfuse", fuse(output=[{"type": "reasoning", "summary": [{"type": "summary_text", "text": THOUGHT}]}]), "no_answer"),
        ("langfuse", fuse(output=json.dumps({"type": "function_call", "name": "shop", "arguments": "{}"})), "tool_call"),
    ],
)
def test_what_holds_no_words_is_skipped(home: Path, preset: str, row: dict[str, Any], reason: str) -> None:
    assert dict(read(write(home / "log.jsonl", raw(row)), preset).why_skipped) == {reason: 1}


@pytest.mark.parametrize("said", ['{"input": [1]}', '{"type": "tea", "text": "mint"}', "[]"])
def test_an_answer_that_is_json_stays_as_it_was_said(home: Path, said: str) -> None:
    write(home / "log.jsonl", raw(fuse(output=said)))
    [row] = read(home / "log.jsonl", "langfuse").rows.to_pylist()
    assert row["response"] == said


def test_an_id_that_a_gateway_made_long_keeps_no_answer_out(home: Path) -> None:
    answer = {"id": "resp_" + "x" * 400, "created_at": 1793534400, "model": "m", "output": [{"type": "message", **MODEL}]}
    write(home / "log.jsonl", raw({"request": {"input": ASKED}, "response": answer}))
    assert ingest(home, home / "log.jsonl", preset="openai") == Batch(1, 1, 0, 0, 0, 0)
    [row] = read(home / "log.jsonl", "openai").rows.to_pylist()
    assert (row["response"], len(row["conversation_id"])) == (SAID, 32)
