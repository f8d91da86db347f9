# ruff: noqa: E501 - a table is read row by row
"""What real systems write becomes what was really asked and said: one row for each kind of fault that was found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import flows.ingest as flow
from alignment.ingest import Batch, blocks, make_source, parse, parser
from alignment.ingest.reading import from_start
from alignment.store import query
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
    Case("23 an agent's span alone", "otel", [otlp(span(WORDS, name="invoke_agent"))], ONE, WHOLE),
    Case("24 nulls", "prompt_response", [{"prompt": None, "instruction": ASKED, "response": None, "completion": SAID}], ONE, WHOLE),
    Case("24 what an instruction is about", "prompt_response", [{"instruction": "Sum up.", "input": ASKED, "output": SAID}], ONE, {"prompt": f"Sum up.\n\n{ASKED}"}),
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
    reading, context = from_start(log_file), flow.Context(KEEP_ALL, b"k" * 32, datetime(2026, 11, 23), datetime(2026, 11, 24))
    found = [
        parse(parser(), source.statement(), source.undated, reading, one, context) for one in blocks(reading, KEEP_ALL, now=context.now)
    ]
    return dict(sum((one.why_skipped for one in found), start=found[0].why_skipped - found[0].why_skipped))
