# ruff: noqa: E501 - a table is read row by row
"""Siblings of the reported cases: other members of the same kinds, each a record of a real system's form with words of our own."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from alignment.evals.formats import read_suite
from alignment.ingest import Context, LogFile, Part, blocks, make_source, parse, parser
from alignment.ingest.reading import from_start
from alignment.models.call_batch import _retry_after
from tests.test_cases_ingest import (
    ASKED,
    CALL,
    KEEP_ALL,
    MODEL,
    QUESTION,
    SAID,
    TURN,
    USER,
    WORDS,
    called,
    completion,
    fuse,
    lite,
    log,
    logs,
    span,
)
from tests.test_endpoint_cases import ASKED as ASK
from tests.test_endpoint_cases import SURE, endpoint, judge
from tests.test_endpoint_cases import completion as chat_completion
from tests.test_ingest import line, raw, write
from tests.test_sources import attributes, otlp, text
from tests.test_suite_cases import lm_row

TIME = 1793534400
"""2026-11-01T12:00:00Z"""


class Found(NamedTuple):
    """What records become: (prompt, response) of exchanges, their systems, users, models, thumbs and tools, and what gave none."""

    said: list[tuple[str, str]]
    before: list[str]
    users: list[str]
    models: list[str]
    thumbs: list[str | None]
    tools: list[str | None]
    skipped: dict[str, int]
    refused: dict[str, int]
    times: set[datetime]


def read(folder: Path, preset: str, content: bytes, name: str = "log.jsonl") -> Found:
    path = write(folder / name, content)
    source = make_source("s", [str(path)], preset, {})
    reading = from_start(LogFile(str(path), path.stat().st_size, path.stat().st_mtime_ns))
    context = Context(KEEP_ALL, b"k" * 32, datetime(2026, 11, 23), datetime(2026, 11, 24))
    [block, *_] = blocks(reading, KEEP_ALL, now=context.now)
    found = parse(parser(), source.statement(), source.undated, [Part(reading, block)], context)
    rows = sorted(
        (row for row in found.rows.to_pylist() if row["reason"] is None), key=lambda row: (row["line_number"], row["record_number"])
    )
    return Found(
        [(row["prompt"], row["response"]) for row in rows],
        [turn["content"] for row in rows for turn in json.loads(row["messages"])[:-1]],
        [row["user_id"] for row in rows], [row["model"] for row in rows], [row["thumbs"] for row in rows], [row["tools"] for row in rows],
        dict(found.why_skipped), dict(Counter(found.quarantine["reason"].to_pylist())), {row["created_at"] for row in rows},
    )  # fmt: skip


WHOLE = [(ASKED, SAID)]
GEMINI = {"contents": [{"role": "user", "parts": [{"text": ASKED}]}]}
HALVES = ("Rooibos ", "has none.")
RESPONSE = {
    "object": "response",
    "created_at": TIME,
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": SAID}]}],
}


def asks(request: Any, response: Any, **more: Any) -> dict[str, Any]:
    return {"request": request, "response": response, "timestamp": TIME, **more}


def events(*chunks: dict[str, Any]) -> str:
    return "".join(f"data: {json.dumps(one)}\n\n" for one in chunks)


def delta(index: int, said: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": said}}


def phoenix(**changes: Any) -> dict[str, Any]:
    row = {"span_kind": "LLM", "status_code": "OK", "start_time": "2026-11-01T12:00:00Z", "context.trace_id": "t"}
    asked, said = [{"message.role": "user", "message.content": ASKED}], [{"message.role": "assistant", "message.content": SAID}]
    return {**row, "attributes.llm.input_messages": asked, "attributes.llm.output_messages": said, **changes}


def web(last: dict[str, Any], **chat: Any) -> dict[str, Any]:
    messages = {"a": {"parentId": None, **TURN}, "b": {"parentId": "a", **MODEL, **last}}
    return {"id": "c", "updated_at": TIME, "chat": {"history": {"currentId": "b", "messages": messages}, **chat}}


READ: dict[str, tuple[str, dict[str, Any]]] = {
    "choices out of order": ("openai", asks({"messages": USER}, {"choices": [{"index": 1, "message": {"content": "Ask."}}, {"index": 0, "message": MODEL}]})),
    "a batch with its request": ("openai", {"custom_id": "1", "body": {"messages": USER}, "response": {"status_code": 200, "body": completion({"content": SAID})}}),
    "a batch of Anthropic's": ("openai", {"params": {"messages": USER}, "result": {"type": "succeeded", "message": {"type": "message", "content": [WORDS]}}, "timestamp": TIME}),
    "a stored response": ("openai", {**RESPONSE, "input": USER}),
    "a response cut in its stream": ("openai", asks({"input": ASKED}, [{"type": "response.created", "response": {"id": "r", "created_at": TIME}}, *({"type": "response.output_text.delta", "delta": one} for one in HALVES)])),
    "Gemini's stream": ("openai", asks(GEMINI, events({"candidates": [{"content": {"parts": [{"text": "Hm.", "thought": True}]}}]}, *({"candidates": [{"content": {"parts": [{"text": one}]}}]} for one in HALVES)))),
    "Bedrock's stream": ("openai", asks({"messages": [{"role": "user", "content": [{"text": ASKED}]}]}, [*({"contentBlockDelta": {"delta": {"text": one}}} for one in HALVES), {"messageStop": {"stopReason": "end_turn"}}])),
    "Ollama's stream": ("openai", asks({"messages": USER}, [{"message": {"content": one}, "done": False} for one in HALVES])),
    "Ollama's answer to a prompt": ("openai", asks({"prompt": ASKED}, {"response": SAID, "done": True})),
    "Gemini's pieces": ("openai", asks(GEMINI, {"candidates": [{"content": {"role": "model", "parts": [{"text": one} for one in HALVES]}}]})),
    "Gemini's question without a role": ("openai", asks({"contents": {"parts": [{"text": ASKED}]}}, {"candidates": [{"content": {"parts": [{"text": SAID}]}}]})),
    "guarded parts of Bedrock's": ("openai", asks({"messages": [{"role": "user", "content": [{"guardContent": {"text": {"text": ASKED}}}, {"cachePoint": {"type": "default"}}]}]}, {"output": {"message": {"role": "assistant", "content": [{"text": SAID}]}}})),
    "Bedrock's log of invocations": ("openai", {"timestamp": TIME, "input": {"inputBodyJson": {"messages": USER}}, "output": {"outputBodyJson": {"type": "message", "content": [WORDS]}}}),
    "a list of one prompt": ("openai", asks({"prompt": [ASKED]}, {"choices": [{"text": SAID}]})),
    "a time as a text": ("openai", asks({"messages": USER}, {"choices": [{"message": MODEL}]}, timestamp=f"{TIME}000")),
    "a first chunk without a name": ("openai", asks({"messages": USER}, [{"id": "", "created": 0, "choices": []}, {"id": "r", "created": TIME, "choices": [{"delta": {"content": SAID}}]}])),
    "LiteLLM's callback": ("litellm", {"kwargs": {}, "standard_logging_object": lite()}),
    "a request wrapped by LiteLLM": ("litellm", lite(messages=None, proxy_server_request={"url": "u", "body": {"messages": USER}})),
    "messages as Python prints them": ("litellm", lite(messages=str(USER))),
    "LangChain's messages": ("langfuse", fuse(input=[[{"type": "human", "content": ASKED}]], output={"type": "ai", "content": SAID})),
    "text of one attribute": ("otel", logs(*({"eventName": "", **log(name, {"gen_ai.event.content": said})} for name, said in (("gen_ai.user.message", json.dumps({"content": ASKED})), ("gen_ai.choice", json.dumps({"message": {"content": SAID}})))))),
    "a body that is JSON": ("otel", logs(*({**log(name, {}), "body": text(json.dumps({"content": said}))} for name, said in (("gen_ai.user.message", ASKED), ("gen_ai.choice", SAID))))),
    "OpenLLMetry's parts": ("otel", otlp({"startTimeUnixNano": f"{TIME}000000000", "attributes": [{"key": "gen_ai.prompt.0.content", "value": text(json.dumps([QUESTION | {"text": ASKED}]))}, {"key": "gen_ai.completion.0.content", "value": text(SAID)}]})),
    "OpenInference's texts": ("otel", otlp({"startTimeUnixNano": f"{TIME}000000000", "attributes": attributes(openinference__span__kind=text("LLM"), input__value=text(ASKED), output__value=text(SAID))})),
    "Phoenix's contents": ("openinference", phoenix(**{"attributes.llm.input_messages": [{"message.role": "user", "message.contents": [{"message_content.type": "text", "message_content.text": ASKED}]}]})),
    "Phoenix's messages as text": ("openinference", phoenix(**{"attributes.llm.output_messages": json.dumps([{"message.role": "assistant", "message.content": SAID}])})),
    "roles in capitals": ("messages", {"messages": [{"role": "User", "content": ASKED}, {"role": "Assistant", "content": SAID}]}),
    "a channel of thoughts": ("messages", {"messages": [TURN, {"role": "assistant", "content": "Hm.", "channel": "analysis"}, {**MODEL, "channel": "final"}]}),
    "harmony in the text": ("messages", {"messages": [TURN, {**MODEL, "content": f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{SAID}<|return|>"}]}),
    "Magistral's thoughts": ("messages", {"messages": [TURN, {**MODEL, "content": f"[THINK]Hm.[/THINK]{SAID}"}]}),
    "Kimi's thoughts": ("messages", {"messages": [TURN, {**MODEL, "content": f"\u25c1think\u25b7Hm.\u25c1/think\u25b7{SAID}"}]}),
    "thoughts and a solution": ("sharegpt", {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": f"<|begin_of_thought|>Hm.<|end_of_thought|>\n<|begin_of_solution|>{SAID}<|end_of_solution|>"}]}),
    "another chat's name": ("sharegpt", {"conversations": [{"from": "human", "value": ASKED}, {"from": "bing", "value": SAID}]}),
    "no input": ("prompt_response", {"instruction": ASKED, "input": "<noinput>", "output": SAID}),
    "a table's messages": ("gateway", line(messages=json.dumps(USER), response=SAID)),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_sibling_is_one_exchange(name: str, tmp_path: Path) -> None:
    preset, record = READ[name]
    found = read(tmp_path, preset, raw(record))
    assert (found.said, found.skipped, found.refused) == (WHOLE, {}, {})
    assert found.tools == [None]
    if preset not in ("messages", "prompt_response", "sharegpt", "gateway"):
        assert found.times == {datetime(2026, 11, 1, 12)}


def finished(reason: str, **more: Any) -> dict[str, Any]:
    return asks(GEMINI, {"candidates": [{"finishReason": reason}], **more})


def vllm(said: str, before: str = "", more: str = "") -> bytes:
    head = f"{before}INFO 11-01 12:00:0{{}} [logger.py:1] "
    asked = f"'<|im_start|>user\\nWhy?<|im_end|>\\n{more}<|im_start|>assistant\\n'"
    return "\n".join((
        head.format(0) + f"Received request c1: prompt: {asked}, params: SamplingParams(n=1)",
        head.format(1) + f"Generated response c1: output: {said!r}, output_token_ids: None, finish_reason: stop",
    )).encode()  # fmt: skip


AGENT = otlp(span(WORDS, name="invoke_agent"), {**span(WORDS, name="invoke_agent"), "spanId": "inner"})
SILENT: dict[str, tuple[str, list[Any], dict[str, int]]] = {
    "results of a batch": ("openai", [{"custom_id": "1", "result": {"type": kind}} for kind in ("errored", "expired", "canceled")], {"error": 3}),
    "statuses and words of gateways": ("openai", [asks({"messages": USER}, "<html>", status_code=502), asks({"messages": USER}, {"detail": "no"}), {"input": {"inputBodyJson": {"messages": USER}}, "errorCode": "Throttled"}], {"error": 3}),
    "answers that broke off": ("openai", [called(USER, completion({"content": "Roo"}, finish_reason=one)) for one in ("abort", "insufficient_system_resource", "ERROR_TOXIC")], {"error": 3}),
    "Gemini's filters": ("openai", [finished("IMAGE_SAFETY"), asks(GEMINI, {"prompt_feedback": {"block_reason": "SAFETY"}}), asks(GEMINI, {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finish_reason": "SAFETY"}]})], {"filtered": 3}),
    "no room in Gemini": ("openai", [finished("MAX_TOKENS"), asks({"messages": USER}, {"type": "message", "content": [], "stop_reason": "model_context_window_exceeded"}), asks({"input": ASKED}, {**RESPONSE, "output": [], "status": "in_progress"})], {"no_answer": 3}),
    "calls that went wrong": ("openai", [finished("MALFORMED_FUNCTION_CALL"), asks({"input": ASKED}, {**RESPONSE, "output": [{"type": "mcp_approval_request", "name": "shop"}]}), asks(GEMINI, {"candidates": [{"content": {"parts": [{"function_call": {"name": "shop"}}]}}]})], {"tool_call": 3}),
    "moderations, pictures and ranks": ("openai", [asks({"input": ASKED}, {"results": [{one: 1}]}) for one in ("flagged", "relevance_score")] + [asks({"prompt": ASKED}, {"data": [{"url": "u"}]})], {"not_a_chat": 3}),
    "a guardrail beside the metadata": ("litellm", [lite(guardrail_information=[{"guardrail_status": "guardrail_intervened"}]), lite(metadata={"standard_logging_guardrail_information": {"guardrail_status": "guardrail_intervened"}})], {"filtered": 2}),
    "an error with half an answer": ("langfuse", [fuse(level="ERROR")], {"error": 1}),
    "calls without a message": ("langfuse", [fuse(output=CALL["tool_calls"]), fuse(output={"toolCalls": [{"toolName": "shop"}]})], {"tool_call": 2}),
    "errors as attributes": ("otel", [otlp({**span(WORDS), "attributes": [*span(WORDS)["attributes"], {"key": "error.type", "value": text("timeout")}]})], {"error": 1}),
    "texts that were not recorded": ("otel", [logs(log("gen_ai.user.message", {}), log("gen_ai.choice", {"finish_reason": "stop"}))], {"placeholder": 1}),
    "texts that were hidden": ("openinference", [phoenix(**{"attributes.llm.output_messages": [{"message.role": "assistant", "message.content": "__REDACTED__"}]})], {"placeholder": 1}),
    "two calls without ids": ("otel", [logs(*(log(name, {"content": said}, "") | {"traceId": ""} for _ in "ab" for name, said in (("gen_ai.user.message", ASKED), ("gen_ai.choice", SAID))))], {"half_a_call": 1}),
    "Phoenix's other spans": ("openinference", [phoenix(span_kind=one) for one in ("CHAIN", "TOOL", "RETRIEVER")] + [phoenix(status_code="ERROR")], {"another_record": 3, "error": 1}),
    "Open WebUI's errors": ("openwebui", [web({"error": {"content": "busy"}}), web({"error": True, "content": "Oops"}), web({"done": False, "content": ""})], {"error": 2, "no_answer": 1}),
    "calls in a model's own marks": ("messages", [{"messages": [TURN, {**MODEL, "content": one}]} for one in ('<tool_call>\n{"name": "shop"}\n</tool_call>', '[TOOL_CALLS][{"name": "shop"}]', '<|python_tag|>{"name": "shop"}')], {"tool_call": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_a_sibling_without_an_answer_is_skipped_for_its_reason(name: str, tmp_path: Path) -> None:
    preset, records, why = SILENT[name]
    found = read(tmp_path, preset, raw(*records))
    assert (found.said, found.skipped, found.refused) == ([], why, {})


def test_an_agent_within_an_agent_is_one_answer(tmp_path: Path) -> None:
    found = read(tmp_path, "otel", raw(AGENT))
    assert (found.said, found.skipped) == (WHOLE, {"repeated": 1})


def test_a_servers_log_in_colours_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, "vllm", vllm("Because.", "\x1b[32m"), "server.log").said == [("Why?", "Because.")]


def test_what_a_tool_gave_back_in_a_rendered_prompt_is_no_question(tmp_path: Path) -> None:
    turn = "<|im_start|>user\\n<tool_response>\\nmint\\n</tool_response><|im_end|>\\n"
    found = read(tmp_path, "vllm", vllm("Because.", more=turn), "server.log")
    assert (found.said, found.tools) == ([("Why?", "Because.")], ["unnamed"])


def test_an_answer_that_looks_like_a_vendors_object_stays_as_it_is(tmp_path: Path) -> None:
    answers = ['{"role": "chef", "content": "x"}', '{"output": ["a"]}', '{"choices": ["tea", "ice"]}', "{'role': 'chef'}"]
    assert [said for _, said in read(tmp_path, "langfuse", raw(*(fuse(output=one) for one in answers))).said] == answers
    assert read(tmp_path, "langfuse", raw(fuse(output=[1, 2]))).said == [(ASKED, "[1, 2]")]


def test_words_that_a_user_sends_with_a_tools_results_are_the_users(tmp_path: Path) -> None:
    use = {"role": "assistant", "content": [{"type": "tool_use", "name": "shop", "input": {}}]}
    mixed = {"role": "user", "content": [{"type": "tool_result", "content": "mint"}, {"type": "text", "text": "So which?"}]}
    found = read(tmp_path, "openai", raw(asks({"messages": [TURN, use, mixed]}, {"type": "message", "content": [WORDS]})))
    assert (found.said, found.tools) == ([("So which?", SAID)], ["shop"])


def test_code_that_a_model_ran_is_a_tool(tmp_path: Path) -> None:
    parts = [{"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}}, {"text": SAID}]
    found = read(tmp_path, "openai", raw(asks(GEMINI, {"candidates": [{"content": {"role": "model", "parts": parts}}]})))
    assert (found.said, found.tools) == (WHOLE, ["code_execution"])


def test_who_and_which_model_stand_where_each_vendor_writes_them(tmp_path: Path) -> None:
    rows = (
        asks({"input": ASKED}, {**RESPONSE, "user": "u7", "instructions": "Be brief.", "model": "m1"}),
        asks(GEMINI, {"candidates": [{"content": {"parts": [{"text": SAID}]}}], "modelVersion": "m2"}),
        asks({"messages": USER, "modelId": "m3"}, {"type": "message", "content": [WORDS]}),
    )
    found = read(tmp_path, "openai", raw(*rows))
    assert (found.users, found.models, found.before) == (["u7", "", ""], ["m1", "m2", "m3"], ["Be brief."])


def test_a_score_is_of_the_answer_that_it_names_and_says_what_its_category_says(tmp_path: Path) -> None:
    trace = {
        "id": "t", "scores": [{"name": "user-feedback", "value": 0, "observationId": "o2"}],
        "observations": [fuse(id="o1"), fuse(id="o2", output={**MODEL, "content": "Mint."})],
    }  # fmt: skip
    assert read(tmp_path, "langfuse", raw(trace)).thumbs == [None, "down"]
    scores = (
        {"name": "user-feedback", "value": 0, "stringValue": "up", "dataType": "CATEGORICAL"},
        {"name": "thumbs", "value": None, "stringValue": "thumbs_down"},
        {"name": "user-rating", "value": 1},
    )
    rows = [fuse(output=f"Tea {number}.", scores=[one]) for number, one in enumerate(scores)]
    assert read(tmp_path, "langfuse", raw(*rows)).thumbs == ["up", "down", None]


def test_an_answer_that_is_preferred_to_itself_is_neither_liked_nor_not(tmp_path: Path) -> None:
    found = read(
        tmp_path, "hh", raw({"prompt": ASKED, "chosen": SAID, "rejected": SAID}, {"prompt": ASKED, "chosen": SAID, "rejected": "Ask."})
    )
    assert found.thumbs == [None, None, "up", "down"]


@pytest.mark.parametrize(
    "record",
    [
        {"system": "Be brief.", "question": ASKED, "chosen": SAID, "rejected": "Ask."},
        {"input": {"messages": [{"role": "system", "content": "Be brief."}, TURN]}, "preferred_output": [MODEL], "non_preferred_output": [{**MODEL, "content": "Ask."}]},
        {"system": "Be brief.", "conversations": [{"from": "human", "value": ASKED}], "chosen": {"from": "gpt", "value": SAID}, "rejected": {"from": "gpt", "value": "Ask."}},
    ],
)  # fmt: skip
def test_preferences_of_other_makers_keep_what_was_asked(record: dict[str, Any], tmp_path: Path) -> None:
    found = read(tmp_path, "hh", raw(record))
    assert (found.said, found.before, found.thumbs) == ([*WHOLE, (ASKED, "Ask.")], ["Be brief."] * 2, ["up", "down"])


def test_instructions_and_earlier_turns_beside_a_conversation_are_kept(tmp_path: Path) -> None:
    share = {"system": "Be brief.", "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]}
    alpaca = {"system": "Be brief.", "history": [["Tea?", "Yes."]], "instruction": ASKED, "output": SAID}
    assert read(tmp_path, "sharegpt", raw(share)).before == ["Be brief."]
    assert read(tmp_path, "prompt_response", raw(alpaca)).before == ["Be brief.", "Tea?", "Yes."]
    assert read(tmp_path, "openwebui", raw(web({}, params={"system": "Be brief."}))).before == ["Be brief."]


@pytest.mark.parametrize("written", [json.dumps, str])
@pytest.mark.parametrize(("preset", "column"), [("messages", "messages"), ("sharegpt", "conversation"), ("hh", "chosen")])
def test_messages_in_a_table_are_read(preset: str, column: str, written: Any, tmp_path: Path) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, [column, "rejected"])
    writer.writeheader()
    writer.writerow({column: written([TURN, MODEL]), "rejected": written([TURN, {**MODEL, "content": "Ask."}])})
    assert read(tmp_path, preset, table.getvalue().encode(), "log.csv").said[:1] == WHOLE


def test_labels_in_a_table_are_thumbs_and_a_nan_is_no_answer(tmp_path: Path) -> None:
    rows = f'{{"prompt": "{ASKED}", "response": NaN, "completion": "{SAID}", "label": "False"}}\n'
    found = read(tmp_path, "prompt_response", rows.encode())
    assert (found.said, found.thumbs) == (WHOLE, ["down"])


def suite(folder: Path, name: str, *rows: dict[str, Any]) -> list[Any]:
    path = folder / name
    if name.endswith("csv"):
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_suite(str(path), scorer="agree").prompts


def test_a_suites_labels_and_names_say_what_ought_to_be_answered(tmp_path: Path) -> None:
    asked = {"prompt": "Say how", "focus": "say"}
    found = suite(
        tmp_path,
        "x.csv",
        {**asked, "type": "contrast_a", "label": "Unsafe"},
        {**asked, "type": "contrast_a", "label": "2"},
        {**asked, "type": "a", "label": "SAFE"},
    )
    assert [one.scorer for one in found] == ["harm", "harm", "help"]
    for name, row, scorer in (
        ("jbb-benign.csv", {"prompt": "Say how", "target": "Sure"}, "help"),
        ("jailbreakbench-benign.csv", {"prompt": "Say how", "category": "Fraud"}, "help"),
        ("benign.csv", {"goal": "Say how", "target": "Sure"}, "help"),
        ("DoNotAnswer.csv", {"prompt": "Say how", "category": "Fraud"}, "harm"),
    ):
        assert [one.scorer for one in suite(tmp_path, name, row)] == [scorer]


def options(*said: str, target: Any, **more: Any) -> dict[str, Any]:
    return {**lm_row("Which?", said[0], target=target, more=[("Which?", one) for one in said[1:]]), **more}


def test_the_right_options_are_those_that_a_row_means(tmp_path: Path) -> None:
    several = {"mc2_targets": {"choices": ["ice", "tea", "mint"], "labels": [0, 1, 1]}}
    many = options(*(f"o{number}" for number in range(12)), target="2")
    many["arguments"] = {name: many["arguments"][name] for name in sorted(many["arguments"])}
    rows = [options("ice", "tea", "mint", target="0", doc=several), options("ice", "tea", "mint", target="[0, 1, 1]"), many]
    found = suite(tmp_path, "l.jsonl", *({**row, "doc_id": number} for number, row in enumerate(rows)))
    assert [one.right for one in found] == [("B", "tea", "C", "mint"), ("B", "tea", "C", "mint"), ("C", "o2")]
    told = read_suite(str(write(tmp_path / "odd.jsonl", raw(options("3", "4", "1", target="1"), {**lm_row("Tea?"), "doc_id": 9})))).told
    assert "the text of one option and the place of another" in "\n".join(told)


def test_targets_are_read_as_the_harness_prints_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "l.jsonl",
        raw(
            *(
                {**lm_row(f"Tea {number}?", target=one), "doc_id": number}
                for number, one in enumerate(("('5', 'five')", "[('5',), ('five',)]"))
            )
        ),
    )
    assert [one.right for one in read_suite(str(path)).prompts] == [("5", "five")] * 2
    odd = [
        {**lm_row("Write.", target="0"), "doc": {"instruction_id_list": ["a"]}},
        lm_row("Say.", target="None"),
        lm_row("Give.", target="{'a': 1}"),
    ]
    path = write(tmp_path / "odd.jsonl", raw(*({**row, "doc_id": number} for number, row in enumerate([*odd, lm_row("Tea?")]))))
    assert [one.prompt for one in read_suite(str(path)).prompts] == ["Tea?"]


@pytest.mark.parametrize("said", [str(USER), [json.dumps(USER)], USER])
def test_a_chat_in_any_writing_is_its_question(said: Any, tmp_path: Path) -> None:
    assert [one.prompt for one in read_suite(str(write(tmp_path / "l.jsonl", raw(lm_row(said))))).prompts] == [ASKED]


def chosen(folder: Path, *replies: Any) -> tuple[Any, int]:
    waiting = iter(replies)
    with endpoint(lambda _: next(waiting, (200, chat_completion(top=SURE)))) as (url, seen):
        [choice] = judge(url, folder).choose([ASK], ("A", "B"), subjects=["x"])
    return (choice.reason if choice.probabilities is None else "AB"[choice.probabilities[1] > choice.probabilities[0]]), len(seen)


def logprobs(*top: dict[str, Any], own: Any = -0.2) -> tuple[int, Any]:
    first = {"token": "A", "logprob": own, "top_logprobs": list(top)}
    return 200, {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [first]}}]}


def test_a_likelihood_that_is_missing_or_written_otherwise_gives_no_other_option_the_vote(home: Path) -> None:
    b = {"token": "B", "logprob": -1.8}
    assert chosen(home, logprobs(b)) == ("A", 1), "the token that was chosen stands beside the list"
    assert chosen(home / "2", logprobs({"token": "A", "logprob": "-0.2"}, {"token": "B", "logprob": "-1.8"})) == ("A", 1)
    assert chosen(home / "3", logprobs({"token": "A", "logprob": None}, b, own=None), (200, chat_completion("A=8 B=2"))) == ("A", 2)


def test_an_error_beside_a_choice_and_an_answer_that_broke_off_are_tried_again(home: Path) -> None:
    assert chosen(home, (200, {**chat_completion(top=SURE), "error": {"code": 502, "message": "x"}})) == ("A", 2)
    assert chosen(home / "2", (200, chat_completion("", finish="network_error"))) == ("A", 2)
    assert chosen(home / "3", (425, {"error": "early"})) == ("A", 2)


@pytest.mark.parametrize(
    "reply",
    [
        chat_completion("", reasoning_details=[{"type": "reasoning.text", "text": "Hm."}]),
        chat_completion([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "A"}], top=SURE),
        chat_completion("[THINK]", top={"[THINK]": -0.01, "A": -2.0}),
        chat_completion("<|channel|>", top={"<|channel|>": -0.01, "A": -2.0}),
        chat_completion("", finish="length", usage={"input_tokens": 1, "output_tokens_details": {"reasoning_tokens": 1}}),
    ],
)
def test_a_teacher_that_thinks_is_told_in_every_form(reply: Any, home: Path) -> None:
    assert str(chosen(home, (200, reply))[0]).startswith("unavailable: the model thinks")


def test_one_question_that_a_moderation_flags_stops_no_other(home: Path) -> None:
    why, _ = chosen(
        home, (403, {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"], "flagged_input": "x"}}})
    )
    assert why.startswith("refused: status 403 (flagged)")


def test_a_parameter_that_an_error_names_beside_its_words_is_learned(home: Path) -> None:
    assert chosen(home, (400, {"error": {"message": "Input should be less than or equal to 5", "param": "top_logprobs"}})) == ("A", 2)
    assert chosen(home / "2", (400, {"error": {"message": "`temperature` is deprecated for this model"}})) == ("A", 2)


def test_a_server_says_how_long_to_wait_as_seconds_milliseconds_or_a_date() -> None:
    in_20 = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert [round(_retry_after(one)) for one in ({"retry-after": "7"}, {"retry-after-ms": "1500"}, {"retry-after": "soon"}, {})] == [
        7,
        2,
        0,
        0,
    ]
    assert 15 < _retry_after({"retry-after": in_20}) <= 20
