# ruff: noqa: E501 - a table is read row by row
"""More of what real systems write: gateways, SDKs, chat interfaces and tracers whose records look almost like those of others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from alignment.ingest import Batch, datasets, make_source
from alignment.store import query
from tests.test_cases_ingest import ASKED, MODEL, ONE, SAID, SKIP, THOUGHT, USER, WHOLE, Case, called, completion, fuse, otlp, why_skipped
from tests.test_ingest import ingest, raw, write
from tests.test_sources import text

HALVES = SAID[:8], SAID[8:]


def converse(*parts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """An answer of Bedrock's Converse."""
    asked = [{"role": "user", "content": [{"text": ASKED}]}]
    return called(asked, {"output": {"message": {"role": "assistant", "content": list(parts)}}, **more})


def traced(**more: Any) -> dict[str, Any]:
    pairs = [
        {"key": key.replace("__", "."), "value": text(value if isinstance(value, str) else json.dumps(value))}
        for key, value in more.items()
    ]
    return otlp({"traceId": "c1", "spanId": "s", "startTimeUnixNano": "1793534400000000000", "attributes": pairs})


def chat_of(*contents: str) -> dict[str, Any]:
    """An Open WebUI chat of one question; the answer is what its page keeps."""
    return {"id": "c1", "user_id": "u1", "updated_at": 1793534400, "chat": {"models": ["m1"], "history": {"currentId": "2", "messages": {
        "1": {"id": "1", "parentId": None, "role": "user", "content": ASKED},
        "2": {"id": "2", "parentId": "1", "role": "assistant", "content": "".join(contents), "model": "m1", "timestamp": 1793534400}}}}}  # fmt: skip


FOLDED = f'<details type="reasoning" done="true" duration="3">\n<summary>Thought for 3 seconds</summary>\n> {THOUGHT}\n</details>\n'
TOOL = (
    '<details type="tool_calls" done="true" id="1" name="shop" arguments="{}" result="{}">\n<summary>Tool Executed</summary>\n</details>\n'
)
SSE = f"event: content_block_delta\ndata: {json.dumps({'type': 'content_block_delta', 'delta': {'type': 'text_delta', 'text': SAID}})}\n\n"
EVENTS = [
    {"event.name": "gen_ai.user.message", "role": "user", "content": ASKED},
    {"event.name": "gen_ai.choice", "index": 0, "message": MODEL},
]

CASES = [
    Case("Bedrock", "openai", [converse({"text": SAID}, stopReason="end_turn")], ONE, WHOLE),
    Case("Bedrock's thoughts", "openai", [converse({"reasoningContent": {"reasoningText": {"text": THOUGHT}}}, {"text": SAID})], ONE, WHOLE),
    Case("Bedrock's guardrail speaks", "openai", [converse({"text": "Sorry."}, stopReason="guardrail_intervened")], SKIP, skipped={"filtered": 1}),
    Case("Bedrock calls a tool", "openai", [converse({"toolUse": {"name": "shop", "input": {}}}, stopReason="tool_use")], SKIP, skipped={"tool_call": 1}),
    Case("Gemini blocks the question", "openai", [called(USER, {"promptFeedback": {"blockReason": "SAFETY"}})], SKIP, skipped={"filtered": 1}),
    Case("a text cut at its citations", "openai", [called(USER, {"type": "message", "role": "assistant", "content": [
        {"type": "text", "text": HALVES[0]}, {"type": "text", "text": HALVES[1], "citations": [{"cited_text": "x"}]}]})], ONE, WHOLE),
    Case("server-sent events with names", "openai", [called(USER, SSE)], ONE, WHOLE),
    Case("an answer that was spoken", "openai", [called(USER, completion({"content": None, "audio": {"id": "a", "transcript": SAID}}))], ONE, WHOLE),
    Case("a stored completion", "openai", [{**completion({"content": SAID}), "messages": USER}], ONE, WHOLE),
    Case("bodies by name", "openai", [{"request_body": {"messages": USER}, "response_body": completion({"content": SAID})}], ONE, WHOLE),
    Case("Vercel's SDK in Langfuse", "langfuse", [fuse(output={"text": SAID, "toolCalls": []})], ONE, WHOLE),
    Case("Vercel's SDK calls in Langfuse", "langfuse", [fuse(output={"text": "", "toolCalls": [{"toolName": "shop"}]})], SKIP, skipped={"tool_call": 1}),
    Case("a completion in Langfuse", "langfuse", [fuse(output={"completion": SAID})], ONE, WHOLE),
    Case("a structured answer in Langfuse", "langfuse", [fuse(output={"text": "a", "score": 3})], ONE, {"response": '{"text": "a", "score": 3}'}),
    Case("turns called text", "sharegpt", [{"conversations": [{"role": "prompter", "text": ASKED}, {"role": "assistant", "text": SAID}]}], ONE, WHOLE),
    Case("thoughts folded on the page", "openwebui", [chat_of(FOLDED, SAID)], ONE, WHOLE),
    Case("a tool folded on the page", "openwebui", [chat_of(FOLDED, TOOL, FOLDED, SAID)], ONE, WHOLE, {"tools": "shop", "not_for_training": "true"}),
    Case("other folds are words", "openwebui", [chat_of("<details type=\"x\">", SAID)], ONE, {"response": f'<details type="x">{SAID}'}),
    Case("a fold after words hides none of them", "openwebui", [chat_of(SAID, FOLDED)], ONE, {"response": (SAID + FOLDED).strip()}),
    Case("the Arena", "hh", [{"winner": "model_b", "conversation_a": [*USER, {**MODEL, "content": "No."}], "conversation_b": [*USER, MODEL]}],
         (2, 2, 0, 0, 0, 0), WHOLE, {"thumbs": "up"}),
    Case("the Arena's tie", "hh", [{"winner": "tie", "conversation_a": [*USER, MODEL], "conversation_b": [*USER, MODEL]}], (2, 1, 1, 0, 0, 0), WHOLE),
    Case("the Arena's consent", "hh", [{"winner": "model_b", "conversation_a": [*USER, {**MODEL, "content": "No."}], "conversation_b": [*USER, MODEL],
        "model_a": "m1", "model_b": "m2", "consent": False, "user_id": "ann", "purpose": "evaluation", "tstamp": 1793534400, "conversation_id": "c9"}],
         (2, 2, 0, 0, 0, 0), {"consent": False, "user_id": "ann", "purpose": "evaluation", "conversation_id": "c9", "model": "m2",
                              "created_at": datetime(2026, 11, 1, 12)}, {"thumbs": "up", "no_consent": "true"}),
    Case("values only", "openinference", [traced(openinference__span__kind="LLM", input__value={"messages": USER}, output__value=completion({"content": SAID}))], ONE, WHOLE),
    Case("values of a chain", "openinference", [traced(openinference__span__kind="CHAIN", input__value={"messages": USER}, output__value=SAID)], SKIP, skipped={"another_record": 1}),
    Case("Vercel's spans", "otel", [traced(ai__prompt__messages=USER, ai__response__text=SAID), traced(ai__prompt="x", ai__response__text=SAID)],
         (2, 1, 0, 0, 0, 1), WHOLE, skipped={"another_record": 1}),
    Case("Vercel's span calls a tool", "otel", [traced(ai__prompt__messages=USER, ai__response__toolCalls=[{"toolName": "shop"}])], SKIP, skipped={"tool_call": 1}),
    Case("events in an attribute", "otel", [traced(events=EVENTS)], ONE, WHOLE),
    Case("a question and its answer", "prompt_response", [{"question": ASKED, "answer": SAID}], ONE, WHOLE),
    Case("a query and its response", "prompt_response", [{"query": ASKED, "response": SAID}], ONE, WHOLE),
    Case("an input and its output", "prompt_response", [{"input": ASKED, "output": SAID}], ONE, WHOLE),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_what_more_systems_write(home: Path, case: Case) -> None:
    write(home / "log.jsonl", raw(*map(dict, case.rows)))
    assert ingest(home, home / "log.jsonl", preset=case.preset) == Batch(*case.counts)
    if case.counts[1]:
        [row, *_] = query(home, "SELECT * FROM interactions ORDER BY response = ? DESC", [SAID])
        assert {name: row[name] for name in case.fields} == case.fields
        said = query(home, "SELECT kind, value FROM signals WHERE interaction_id = ?", [row["id"]])
        assert {one["kind"]: one["value"] for one in said} == case.signals
    assert why_skipped(make_source("s", [str(home / "log.jsonl")], case.preset, {})) == case.skipped


def test_an_unfinished_fold_is_no_answer() -> None:
    [found] = datasets.web_chats(chat_of(FOLDED.removesuffix("</details>\n")))
    assert found["messages"][-1]["content"] == ""
