# ruff: noqa: E501 - a table is read row by row
"""What real systems write becomes what was really asked and said: one row for each kind of fault that was found."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flows.ingest as flow
from alignment.config import load_settings
from alignment.errors import ConfigError, InputError
from alignment.evals.formats import open_suite
from alignment.ids import subject_key
from alignment.ingest import Batch, Context, LogFile, Part, blocks, datasets, make_source, otel, parse, parser, presets, vendors
from alignment.ingest.reading import from_start
from alignment.ingest.redact import redaction_key
from alignment.store import migrate, query
from flows.erase import erase
from flows.explain import explain
from tests.test_ingest import KEEP_ALL, ingest, line, raw, write
from tests.test_sources import attributes, otlp, text

Rows = Sequence[Mapping[str, Any]]
ASKED = "Which tea has no caffeine?"
SAID = "Rooibos has none."
TURN = {"role": "user", "content": ASKED}
USER, MODEL = [TURN], {"role": "assistant", "content": SAID}


class Case(NamedTuple):
    """A log, and what has to become of it: (read, stored, duplicate, quarantined, redacted, skipped), fields of the first exchange, its
    signals, and how many were skipped for which reason."""

    number: str
    preset: str
    rows: Rows
    counts: tuple[int, ...]
    fields: Mapping[str, Any] = {}
    signals: Mapping[str, str] = {}
    skipped: Mapping[str, int] = {}


def completion(message: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {"id": "r1", "created": 1793534400, "model": "m1", "choices": [{"message": {"role": "assistant", **message}, **changes}]}


def called(messages: Any, answer: Any, **changes: Any) -> dict[str, Any]:
    return {"request": {"model": "m0", "user": "u1", "messages": messages}, "response": answer, "timestamp": 1793534400, **changes}


def lite(**changes: Any) -> dict[str, Any]:
    row = {"id": "i", "trace_id": "c1", "startTime": 1793534400, "model": "m1", "messages": USER, "response": completion({"content": SAID})}
    return {**row, "end_user": "u1", **changes}


def fuse(**changes: Any) -> dict[str, Any]:
    row = {"id": "o", "traceId": "c1", "type": "GENERATION", "startTime": "2026-11-01T12:00:00Z", "input": USER, "output": MODEL}
    return {**row, "model": "m1", "userId": "u1", "sessionId": "s1", **changes}


def parts(role: str, *found: Mapping[str, Any], **more: Any) -> dict[str, str]:
    return text(json.dumps([{"role": role, "parts": list(found), **more}]))


WORDS = {"type": "text", "content": SAID}
QUESTION = {"type": "text", "content": ASKED}


def span(*said: Mapping[str, Any], name: str = "chat", **more: Any) -> dict[str, Any]:
    found = attributes(
        gen_ai__operation__name=text(name),
        gen_ai__request__model=text("m1"),
        gen_ai__input__messages=parts("user", QUESTION),
        gen_ai__output__messages=parts("assistant", *said),
    )
    return {"traceId": "c1", "spanId": name, "startTimeUnixNano": "1793534400000000000", "attributes": found, **more}


def log(name: str, body: Mapping[str, str], span_id: str = "s") -> dict[str, Any]:
    value = {"kvlistValue": {"values": attributes(**{key: text(said) for key, said in body.items()})}}
    return {"timeUnixNano": "1793534400000000000", "eventName": name, "traceId": "c1", "spanId": span_id, "body": value}


def logs(*found: Mapping[str, Any]) -> dict[str, Any]:
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": list(found)}]}]}


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "shop", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "rooibos, mint"}
THOUGHT = "They ask for tea. Policy? None."
ONE, SKIP = (1, 1, 0, 0, 0, 0), (1, 0, 0, 0, 0, 1)
WHOLE = {"prompt": ASKED, "response": SAID}

CASES = [
    Case(
        "0 a vendor's other spelling",
        "langfuse",
        [
            {
                "id": "o", "trace_id": "c1", "type": "GENERATION", "start_time": "2026-11-01 12:00:00.500", "user_id": "u1",
                "session_id": "s1", "provided_model_name": "m1", "input": json.dumps(USER), "output": json.dumps(MODEL),
            }
        ],
        ONE,
        {**WHOLE, "user_id": "u1", "session_id": "s1", "model": "m1", "created_at": datetime(2026, 11, 1, 12, 0, 0, 500000)},
    ),
    Case(
        "1 null does not override the trace's user",
        "langfuse",
        [{"id": "t", "userId": "u1", "sessionId": "s1", "observations": [fuse(userId=None, sessionId=None)]}],
        ONE,
        {**WHOLE, "user_id": "u1", "session_id": "s1"},
    ),
    Case("2 a column of feedback", "langfuse", [fuse(**{"user-feedback": [0]})], ONE, WHOLE, {"thumbs": "down"}),
    Case("2 scores", "langfuse", [fuse(scores=[{"name": "user_feedback", "value": 1}])], ONE, WHOLE, {"thumbs": "up"}),
    Case("2 a judge's score is no user's", "langfuse", [fuse(scores=[{"name": "faithfulness", "value": 0}])], ONE, WHOLE),
    Case("3 an answer that is JSON", "langfuse", [fuse(output='{"tea": "rooibos"}')], ONE, {"response": '{"tea": "rooibos"}'}),
    Case("3 a question that is JSON", "langfuse", [fuse(input="[1, 2]")], ONE, {"prompt": "[1, 2]"}),
    Case("4 a part that reasons", "otel", [otlp(span({"type": "reasoning", "content": THOUGHT}, WORDS))], ONE, WHOLE),
    Case("5 a call of a tool alone", "otel", [otlp(span({"type": "tool_call", "name": "shop"}))], SKIP, skipped={"tool_call": 1}),
    Case("6 a refusal as part", "openai", [called(USER, completion({"content": [{"type": "refusal", "refusal": "No."}]}))], ONE, {"response": "No."}),
    Case("6 a refusal beside null", "openai", [called(USER, completion({"content": None, "refusal": "No."}))], ONE, {"response": "No."}),
    Case(
        "7 a thinking block",
        "langfuse",
        [fuse(output={"role": "assistant", "content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": SAID}]})],
        ONE,
        WHOLE,
    ),
    Case(
        "8 thoughts in the text",
        "openai",
        [called(USER, completion({"content": f"<think>{THOUGHT}</think>\n{SAID}"}))],
        ONE,
        WHOLE,
        {"reasoning": f"{len(THOUGHT) + 16} bytes"},
    ),
    Case("8 thoughts without an end", "messages", [{"messages": [TURN, {**MODEL, "content": f"<think>{THOUGHT}"}]}], SKIP, skipped={"no_answer": 1}),
    Case(
        "8 thoughts of earlier turns",
        "gateway",
        [line(messages=[TURN, {**MODEL, "content": f"<think>{THOUGHT}</think>{SAID}"}, TURN], response=SAID)],
        ONE,
        {"messages": json.dumps([TURN, MODEL, TURN], separators=(",", ":"))},
    ),
    Case(
        "8 thoughts beside the text",
        "openai",
        [called(USER, completion({"content": SAID, "reasoning_content": THOUGHT})), called(USER, completion({"content": "", "reasoning": THOUGHT}))],
        (2, 1, 0, 0, 0, 1),
        WHOLE,
        skipped={"no_answer": 1},
    ),
    Case("9 a gateway's placeholder", "litellm", [lite(messages=[{**TURN, "content": "default-message-value"}])], SKIP, skipped={"placeholder": 1}),
    Case("9 redacted by the gateway", "gateway", [line(response="redacted-by-litellm")], SKIP, skipped={"placeholder": 1}),
    Case("10 a guardrail's words", "litellm", [lite(status_fields={"guardrail_status": "guardrail_intervened"})], SKIP, skipped={"filtered": 1}),
    Case("10 a filtered answer", "openai", [called(USER, completion({"content": "…"}, finish_reason="content_filter"))], SKIP, skipped={"filtered": 1}),
    Case("11 a key's owner", "litellm", [lite(end_user="", metadata={"user_api_key_user_id": "u9"})], ONE, {"user_id": ""}),
    Case("11 a default", "gateway", [line(user_id="Anonymous ")], ONE, {"user_id": ""}),
    Case("11 a person", "gateway", [line(user_id="ann")], ONE, {"user_id": "ann"}),
    Case(
        "12 an agent's log",
        "openai",
        [called(USER, completion(CALL)), called([TURN, CALL, RESULT], completion({"content": SAID})), called(USER, completion({"content": SAID + "!"}))],
        (3, 2, 0, 0, 0, 1),
        {"prompt": ASKED, "response": SAID, "messages": json.dumps(USER, separators=(",", ":"))},
        {"tools": "shop", "not_for_training": "true"},
        {"tool_call": 1},
    ),
    Case(
        "13 errors as answers",
        "openai",
        [
            called(USER, {"status_code": 503, "body": "busy"}),
            called(USER, {"error": {"message": "no"}}),
            called(USER, {"choices": [{"error": {"code": 1}}]}),
        ],
        (3, 0, 0, 0, 0, 3),
        skipped={"error": 3},
    ),
    Case(
        "12 a tool in the gateway's own form",
        "gateway",
        [line(messages=[TURN, CALL, RESULT], response=SAID), line(messages=[TURN, CALL, RESULT, MODEL, TURN], response=SAID)],
        (2, 2, 0, 0, 0, 0),
        {**WHOLE, "messages": json.dumps(USER, separators=(",", ":"))},
        {"tools": "shop", "not_for_training": "true"},
    ),
    Case("13 embeddings", "openai", [{"request": {"input": ["a"]}, "response": {"object": "list", "data": [{"embedding": [0.1]}]}}], SKIP, skipped={"not_a_chat": 1}),
    Case("14 spend logs", "litellm", [lite(messages=json.dumps(USER), response=json.dumps(completion({"content": SAID})), metadata="{}")], ONE, WHOLE),
    Case(
        "15 Responses",
        "openai",
        [
            {
                "request": {"instructions": "Be brief.", "input": [{"role": "user", "content": [{"type": "input_text", "text": ASKED}]}], "user": "u1"},
                "response": {
                    "object": "response", "created_at": 1793534400, "model": "m1",
                    "output": [
                        {"type": "reasoning", "summary": [{"type": "summary_text", "text": THOUGHT}]},
                        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": SAID}]},
                    ],
                },
            }
        ],
        ONE,
        {**WHOLE, "user_id": "u1", "messages": json.dumps([{"role": "system", "content": "Be brief."}, TURN], separators=(",", ":"))},
    ),
    Case(
        "16 Messages",
        "openai",
        [
            {
                "request": {"system": [{"type": "text", "text": "Be brief."}], "messages": USER, "metadata": {"user_id": "u1"}},
                "response": {"type": "message", "role": "assistant", "model": "m1", "content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": SAID}]},
                "timestamp": "2026-11-01T12:00:00Z",
            }
        ],
        ONE,
        {**WHOLE, "user_id": "u1", "model": "m1"},
    ),
    Case(
        "16 Messages after a tool",
        "openai",
        [
            {
                "request": {
                    "messages": [
                        TURN,
                        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "shop", "input": {}}]},
                        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "mint"}]}]},
                    ]
                },
                "response": {"type": "message", "role": "assistant", "content": [{"type": "text", "text": SAID}]},
                "timestamp": "2026-11-01T12:00:00Z",
            }
        ],
        ONE,
        WHOLE,
        {"tools": "shop", "not_for_training": "true"},
    ),
    Case("17 ShareGPT", "sharegpt", [{"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]}], ONE, WHOLE),
    Case("18 preferences as messages", "hh", [{"chosen": [TURN, MODEL], "rejected": [TURN, {**MODEL, "content": "Ask."}]}], (2, 2, 0, 0, 0, 0), WHOLE, {"thumbs": "up"}),
    Case("18 preferences beside a prompt", "hh", [{"prompt": ASKED, "chosen": SAID, "rejected": "Ask."}], (2, 2, 0, 0, 0, 0), WHOLE, {"thumbs": "up"}),
    Case("18 one answer that is good or not", "prompt_response", [{"prompt": ASKED, "completion": SAID, "label": False}], ONE, WHOLE, {"thumbs": "down"}),
    Case(
        "19 Open WebUI",
        "openwebui",
        [{"id": "c1", "user_id": "u1", "updated_at": 1793534400, "chat": {"models": ["m1"], "history": {"currentId": "b", "messages": {
            "a": {"parentId": None, **TURN}, "b": {"parentId": "a", "annotation": {"rating": -1}, **MODEL}}}}}],
        ONE,
        {**WHOLE, "user_id": "u1", "model": "m1"},
        {"thumbs": "down"},
    ),
    Case(
        "20 OpenInference",
        "otel",
        [
            otlp(
                {
                    "traceId": "c1",
                    "startTimeUnixNano": "1793534400000000000",
                    "attributes": [
                        {"key": key, "value": text(value)}
                        for key, value in {
                            "openinference.span.kind": "LLM",
                            "llm.input_messages.0.message.role": "user",
                            "llm.input_messages.0.message.contents.0.message_content.type": "text",
                            "llm.input_messages.0.message.contents.0.message_content.text": ASKED,
                            "llm.output_messages.0.message.content": SAID,
                            "user.id": "u1",
                        }.items()
                    ],
                }
            )
        ],
        ONE,
        {**WHOLE, "user_id": "u1"},
    ),
    Case("20 OpenLLMetry", "otel", [otlp({"traceId": "c1", "startTimeUnixNano": "1793534400000000000", "attributes": [
        {"key": "gen_ai.prompt.0.role", "value": text("user")}, {"key": "gen_ai.prompt.0.content", "value": text(ASKED)},
        {"key": "gen_ai.completion.0.content", "value": text(SAID)}]})], ONE, WHOLE),
    Case(
        "21 events before 1.37",
        "otel",
        [logs(log("gen_ai.user.message", {"content": ASKED}), log("gen_ai.choice", {"content": SAID})), logs(log("gen_ai.user.message", {"content": ASKED}))],
        (2, 1, 0, 0, 0, 1),
        WHOLE,
        skipped={"half_a_call": 1},
    ),
    Case("22 details in an event", "otel", [otlp({**span(WORDS), "attributes": [], "events": [
        {"name": "gen_ai.client.inference.operation.details", "attributes": span(WORDS)["attributes"]}]})], ONE, WHOLE),
    Case("22 details in a log", "otel", [logs({**log("gen_ai.client.inference.operation.details", {}), "attributes": span(WORDS)["attributes"]})], ONE, WHOLE),
    Case(
        "23 an agent's span repeats",
        "otel",
        [otlp(span(WORDS, name="invoke_agent")), otlp(span(WORDS))],
        (2, 1, 0, 0, 0, 1),
        WHOLE,
        skipped={"repeated": 1},
    ),
    Case(
        "22 as the SDK prints a span",
        "otel",
        [
            {
                "name": "chat", "context": {"trace_id": "0xc1", "span_id": "0x1"}, "start_time": "2026-11-01T12:00:00.000000Z",
                "attributes": {pair["key"]: pair["value"]["stringValue"] for pair in span(WORDS)["attributes"]}, "events": [],
            }
        ],
        ONE,
        {**WHOLE, "model": "m1", "created_at": datetime(2026, 11, 1, 12)},
    ),
    Case("23 an agent's span alone", "otel", [otlp(span(WORDS, name="invoke_agent"))], ONE, WHOLE),
    Case("24 nulls", "prompt_response", [{"prompt": None, "instruction": ASKED, "response": None, "completion": SAID}], ONE, WHOLE),
    Case("18 a prompt and a completion as messages", "prompt_response", [{"prompt": USER, "completion": [MODEL]}], ONE, WHOLE),
    Case("13 a call that was cut off", "langfuse", [fuse(output=None), fuse(output=None, level="ERROR")], (2, 0, 0, 0, 0, 2), skipped={"no_answer": 1, "error": 1}),
    Case("13 no room to answer", "openai", [called(USER, completion({"content": None}, finish_reason="length"))], SKIP, skipped={"no_answer": 1}),
    Case("24 what an instruction is about", "prompt_response", [{"instruction": "Sum up.", "input": ASKED, "output": SAID}], ONE, {"prompt": f"Sum up.\n\n{ASKED}"}),
    Case("24 question", "prompt_response", [{"question": "Which?", "context": ASKED, "answer": SAID}], ONE, {"prompt": f"Which?\n\n{ASKED}"}),
    Case("24 context", "prompt_response", [{"instruction": "Sum up.", "context": ASKED, "response": SAID}], ONE, {"prompt": f"Sum up.\n\n{ASKED}"}),
    *(
        Case(f"26 thumbs as {value!r}", "gateway", [line(signals={"thumbs": value})], ONE, {}, {"thumbs": thumb})
        for value, thumb in ((1, "up"), (-1, "down"), ("UP", "up"), ("thumbs_down", "down"), (True, "up"), ("negative", "down"), ("👍🏽", "up"))
    ),
    Case(
        "streamed chunks",
        "openai",
        [
            called(USER, [{"id": "r1", "created": 1793534400, "choices": [{"delta": {"content": word}}]} for word in ("Rooibos ", "has none.")]),
            called(USER, "".join(f"data: {json.dumps({'created': 1793534400, 'choices': [{'delta': {'content': word}}]})}\n\n" for word in ("Mi", "nt"))),
        ],
        (2, 2, 0, 0, 0, 0),
        WHOLE,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_what_real_systems_write(home: Path, case: Case) -> None:
    write(home / "log.jsonl", raw(*map(dict, case.rows)))
    assert ingest(home, home / "log.jsonl", preset=case.preset) == Batch(*case.counts)
    if case.counts[1]:
        [row, *_] = query(home, "SELECT *, messages::VARCHAR AS messages FROM interactions ORDER BY line_number, response = ? DESC", [SAID])
        assert {name: row[name] for name in case.fields} == case.fields
        said = query(home, "SELECT kind, value FROM signals WHERE interaction_id = ?", [row["id"]])
        assert {one["kind"]: one["value"] for one in said} == case.signals
    source = make_source("s", [str(home / "log.jsonl")], case.preset, {})
    assert why_skipped(source) == case.skipped


def why_skipped(source: Any) -> dict[str, int]:
    [log_file] = source.find()
    reading, context = from_start(log_file), Context(KEEP_ALL, b"k" * 32, datetime(2026, 11, 23), datetime(2026, 11, 24))
    found = [
        parse(parser(), source.statement(), source.undated, [Part(reading, one)], context)
        for one in blocks(reading, KEEP_ALL, now=context.now)
    ]
    return dict(sum((one.why_skipped for one in found), start=found[0].why_skipped - found[0].why_skipped))


def test_a_file_says_why_records_were_skipped_and_which_thumbs_nobody_can_read(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(home))
    migrate(home)
    write(home / "log.jsonl", raw(line(signals={"thumbs": 4}), line(response="redacted-by-litellm")))
    source = make_source("logs", [str(home / "log.jsonl")], "gateway", {})
    read = flow.read_file.fn(source, source.find()[0], dry_run=True)
    flow._tell(source.find()[0], read)
    told = capsys.readouterr().err
    assert "1 values for thumbs" in told
    assert "skipped 1 (placeholder 1)" in told


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_texts_without_their_annotation_are_texts(home: Path, kind: pa.DataType) -> None:
    """25"""
    answers = pa.array(["crème".encode(), "naïve".encode(), b"\xff\xfe", None], pa.binary()).cast(kind)
    asked = pa.array(
        [[{"role": b"user", "content": ASKED.encode()}]] * 4, pa.list_(pa.struct([("role", pa.binary()), ("content", pa.binary())]))
    )
    table = pa.table({"messages": asked, "response": answers, "created_at": ["2026-11-01T12:00:00Z"] * 4})
    pq.write_table(table, home / "log.parquet")
    assert ingest(home, home / "log.parquet") == Batch(4, 2, 0, 2, 0)
    assert [row["response"] for row in query(home, "SELECT response FROM interactions ORDER BY 1")] == ["crème", "naïve"]
    refused = query(home, "SELECT line_number, reason FROM quarantine ORDER BY 1")
    assert [tuple(row.values()) for row in refused] == [(3, "not_utf8"), (4, "response_not_text")]


def test_tables_of_text_are_read_and_an_odd_row_is_told(home: Path) -> None:
    content = (
        "id,timestamp,userId,input,output,user-feedback\n"
        f'c1,2026-11-01T12:00:00Z,u1,"{ASKED}","{SAID}",1\n'
        "c2,2026-11-01T12:00:00Z,u1,one, too many,yes,0\n"
        f'c3,2026-11-01T12:00:00Z,u2,"say ""hi"" and\nwave","Hi, all",0,,\n'
    )
    write(home / "log.csv", content.encode())
    assert ingest(home, home / "log.csv", preset="langfuse") == Batch(3, 2, 0, 1, 0)
    rows = query(
        home, "SELECT prompt, response, value FROM interactions JOIN signals ON interaction_id = interactions.id ORDER BY conversation_id"
    )
    assert [tuple(row.values()) for row in rows] == [(ASKED, SAID, "up"), ('say "hi" and\nwave', "Hi, all", "down")]
    assert query(home, "SELECT line_number, reason FROM quarantine") == [{"line_number": 2, "reason": "csv_columns"}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('prompt,response\na,b\nc,"d\n e,f\n', "begins on line 3 is no CSV"),
        ("prompt,prompt\na,b\n", "'prompt' twice"),
        ("\n", "no first row"),
    ],
)
def test_a_table_that_cannot_be_told_apart_is_not_guessed_at(home: Path, content: str, told: str) -> None:
    write(home / "log.csv", content.encode())
    with pytest.raises(InputError, match=told):
        ingest(home, home / "log.csv", preset="prompt_response")


@pytest.mark.parametrize(
    ("rows", "told"), [("How to pick, then open, a lock,Sure\n", "line 2"), ('"How to pick a lock,Sure\nAnd,so\n', "line 2 is no CSV")]
)
def test_a_suite_names_the_row_that_is_cut(tmp_path: Path, rows: str, told: str) -> None:
    """50"""
    (tmp_path / "suite.csv").write_text("goal,target\n" + rows, encoding="utf-8")
    with pytest.raises((ConfigError, InputError), match=told):
        open_suite(str(tmp_path / "suite.csv"))


def test_a_mapping_replaces_what_a_preset_takes_for_records(home: Path) -> None:
    """20"""
    odd = {"traceId": "t", "startTimeUnixNano": "1793534400000000000", "attributes": attributes(q=text(ASKED), a=text(SAID))}
    write(home / "log.jsonl", raw(otlp(odd)))
    fields = {
        "messages": "[{'role': to_json('user'), 'content': to_json(attribute_text(body -> '$.attributes', 'q'))}]",
        "response": "attribute_text(body -> '$.attributes', 'a')",
    }
    path = [str(home / "log.jsonl")]
    assert why_skipped(make_source("s", path, "otel", fields)) == {"another_record": 1}
    assert why_skipped(make_source("s", path, "otel", fields, "spans_of(body)")) == {}
    with pytest.raises(ConfigError, match="fields or records"):
        make_source("s", path, "otel", fields, "no_such_thing(body)")


def test_whoever_maps_the_answer_is_not_overruled_by_the_preset(home: Path) -> None:
    write(home / "log.jsonl", raw(called(USER, {"error": "x", "mine": SAID})))
    assert ingest(
        home, home / "log.jsonl", preset="openai", response="body -> '$.response.mine'", created_at="epoch_text(body -> '$.timestamp')"
    ) == Batch(*ONE)


def test_an_erased_owner_of_a_key_stays_out(home: Path) -> None:
    write(home / "log.jsonl", raw(lite(end_user="", metadata={"user_api_key_user_id": "u9"})))
    erased = (subject_key(redaction_key(home), "u9"),)
    assert ingest(home, home / "log.jsonl", preset="litellm", erased=erased) == Batch(1, 0, 0, 1, 0)


def test_nobody_is_nobody_to_an_erasure(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(home))
    with pytest.raises(InputError, match="no person"):
        erase(load_settings(), "default_user_id", reason="asked", actor="ann")


def test_an_id_on_most_lines_is_told_and_stays_capped(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(home))
    rows = [line(user_id="chat-service" if number % 4 else f"u{number}", response=f"Tea {number}.") for number in range(240)]
    write(home / "log.jsonl", raw(*rows))
    ingest(home, home / "log.jsonl")
    flow._tell_commonest(load_settings(), ["logs"], datetime(2026, 1, 1))
    assert "one user id stands on 180 of 240" in capsys.readouterr().err
    flow._tell_commonest(load_settings(), ["logs"], datetime(2027, 1, 1))
    assert capsys.readouterr().err == ""


def test_explaining_a_file_stores_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(home / "state"))
    write(home / "log.jsonl", raw(called(USER, completion({"content": SAID})), called(USER, completion(CALL)), {"x": 1}))
    found = explain(load_settings(), str(home / "log.jsonl"))
    assert found["fits"] == "openai"
    assert {one["preset"] for one in found["presets"]} == set(presets())
    assert {one["field"]: one["value"] for one in found["fields"]}["response"] == SAID
    assert [(one["line"], one["became"], one["reason"]) for one in found["not_read"]] == [
        (2, "skipped", "tool_call"),
        (3, "quarantined", "messages_not_a_list"),
    ]
    assert all(one["because"] for one in found["not_read"])
    assert not (home / "state" / "store.duckdb").exists()


SERVER_LOG = [
    b"(APIServer pid=7) INFO 11-01 12:00:00 [logger.py:39] Received request c1: prompt: '<|im_start|>user\\nWhy?<|im_end|>\\n"
    b"<|im_start|>assistant\\n', params: SamplingParams(n=1), prompt_token_ids: None",
    b"INFO 11-01 12:00:02 [logger.py:69] Generated response c1: output: 'Because.', output_token_ids: None, finish_reason: stop",
    b'INFO:     127.0.0.1:4000 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
]
VALUES: list[Any] = [None, True, -1, 1e308, "", "x", "[", "{}", [], {}, [None], {"a": None}, "\u0000", [[[]]], {"role": []}, "user", 0]


def mutated(value: Any, draw: random.Random) -> Any:
    """Return a record with one of its values, somewhere, gone or replaced."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], mutated(value[place], draw), *value[place + 1 :]]
    return draw.choice(VALUES)


def unaccounted(preset: str, rows: Sequence[Any], folder: Path) -> list[str]:
    """Return the blocks and lines of a log that are not stored, a duplicate, quarantined or skipped for a reason."""
    return unaccounted_lines(preset, [json.dumps(row).encode() for row in rows], folder)


def unaccounted_lines(preset: str, lines: Sequence[bytes], folder: Path) -> list[str]:
    """As `unaccounted`, for lines of any bytes; blank ones are nothing."""
    path = write(folder / f"{preset}.jsonl", b"\n".join(lines))
    source = make_source("s", [str(path)], preset, {})
    reading = from_start(LogFile(str(path), path.stat().st_size, path.stat().st_mtime_ns))
    context = Context(KEEP_ALL, b"k" * 32, datetime(2026, 11, 23), datetime(2026, 11, 24))
    blank = re.compile(rb"[ \t\r\n]*")
    left, found_wrong = {number for number, one in enumerate(lines, 1) if not blank.fullmatch(one)}, list[str]()
    for block in blocks(reading, KEEP_ALL, now=context.now):
        found = parse(parser(), source.statement(), source.undated, [Part(reading, block)], context)
        if found.read != len(found.usable) + len(found.quarantine) + found.skipped or found.skipped != sum(found.why_skipped.values()):
            found_wrong.append(f"a block of {found.read} records")
        seen = set(found.rows["line_number"].to_pylist())
        found_wrong += [f"line {number} is nothing" for number in sorted(seen - left)]
        left -= seen
    return [*found_wrong, *(f"line {number}" for number in sorted(left))]


@pytest.mark.parametrize("preset", sorted(presets()))
def test_mutated_lines_crash_nothing_and_are_all_accounted_for(home: Path, preset: str) -> None:
    draw = random.Random(preset)
    known = {"openinference": "otel", "vllm": "otel"}.get(preset, preset)
    whole = [row for case in CASES if case.preset == known for row in case.rows]
    rows = [mutated(mutated(draw.choice(whole), draw) if draw.random() < 0.5 else draw.choice(whole), draw) for _ in range(920)]
    rows = [row if isinstance(row, dict) else {"x": row} for row in rows]
    # Not only that one door holds: no reader raises.
    for row in rows:
        for read in (vendors.READERS.get(preset), otel.records, datasets.preferences, datasets.web_chats):
            json.dumps(read(row) if read else None)
    assert unaccounted(preset, rows, home) == []


PIECES = [
    b"\n",
    b"\r",
    b"\x00",
    b"\xff",
    b"\xf0\x9f\x98",
    b"\\",
    b'"',
    b"'",
    b"{",
    b"}",
    b"]",
    b",",
    b" ",
    b"<think>",
    b"\\ud800",
    b"1e999",
    b"NaN",
]


def spoilt(line: bytes, draw: random.Random) -> bytes:
    """Return a line with up to three places cut, doubled or put into."""
    for _ in range(draw.randint(0, 3)):
        start, end = sorted(draw.randrange(len(line) + 1) for _ in range(2))
        line = draw.choice((line[:start] + line[start + draw.randint(1, 9) :], line[:start] + draw.choice(PIECES) + line[start:],
                            line[:end] + line[start : start + 40] + line[end:], line[:start]))  # fmt: skip
    return line


@pytest.mark.parametrize("preset", sorted(presets()))
def test_spoilt_bytes_crash_nothing_and_are_all_accounted_for(home: Path, preset: str) -> None:
    draw = random.Random(f"bytes of {preset}")
    known = {"openinference": "otel"}.get(preset, preset)
    whole = [json.dumps(row).encode() for case in CASES if case.preset == known for row in case.rows] or SERVER_LOG
    lines = b"\n".join(spoilt(draw.choice(whole), draw) for _ in range(900)).split(b"\n")
    assert unaccounted_lines(preset, lines, home) == []


@pytest.mark.parametrize("suffix", ["json", "jsonl.gz", "csv", "parquet"])
@pytest.mark.parametrize("preset", ["gateway", "messages", "openai", "langfuse", "otel", "prompt_response"])
def test_spoilt_records_in_files_of_other_kinds_are_accounted_for(home: Path, preset: str, suffix: str) -> None:
    draw = random.Random(f"{preset} {suffix}")
    rows = [mutated(draw.choice([row for case in CASES if case.preset == preset for row in case.rows]), draw) for _ in range(80)]
    rows = [row if isinstance(row, dict) else {"x": row} for row in rows]
    path = home / f"log.{suffix}"
    cells = [{key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()} for row in rows]
    if suffix == "json":
        write(path, json.dumps(rows).encode())
    elif suffix == "jsonl.gz":
        write(path, gzip.compress(raw(*rows)))
    elif suffix == "csv":
        with path.open("w", newline="", encoding="utf-8") as out:
            table = csv.DictWriter(out, sorted({key for row in cells for key in row}))
            table.writeheader()
            table.writerows({key: value.replace("\x00", "") for key, value in row.items()} for row in cells)
    else:
        pq.write_table(pa.Table.from_pylist(cells), path)
    found = ingest(home, path, preset=preset)
    assert found.read == found.stored + found.duplicate + found.quarantined + found.skipped
    assert found.read >= len(rows)


def test_deep_and_long_records_crash_nothing(home: Path) -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = {"kvlistValue": {"values": [{"key": "a", "value": deep}]}}
    attribute = {"key": "gen_ai.output.messages", "value": deep}
    many = [{"key": f"llm.input_messages.{number}.message.content", "value": text("x")} for number in range(20_000)]
    ring = {"a": {"parentId": "b", **MODEL}, "b": {"parentId": "a", **TURN}}
    spans = [otlp({"attributes": [attribute]}), otlp({"attributes": many}), otlp(*[span(WORDS)] * 300)]
    assert unaccounted("otel", spans, home) == []
    assert unaccounted("openwebui", [{"chat": {"history": {"currentId": "a", "messages": ring}}}], home) == []
