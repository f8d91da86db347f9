"""A question and its answer that stand on lines of their own are one exchange; a half without the other is counted."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import flows.ingest as flow
from alignment.ids import subject_key
from alignment.ingest import Batch, Context, make_source, vllm
from alignment.ingest.redact import redaction_key
from alignment.ingest.replay import replay
from alignment.store import migrate, query
from tests.test_cases_ingest import ASKED, SAID, log, logs, why_skipped
from tests.test_ingest import KEEP_ALL, ingest, raw, write
from tests.test_sources import attributes, text


def question(call: str, said: str = ASKED, **more: Any) -> dict[str, Any]:
    return logs({**log("gen_ai.user.message", {"content": said}, call), **more})


def answer(call: str, said: str = SAID, **more: Any) -> dict[str, Any]:
    return logs({**log("gen_ai.choice", {"content": said}, call), **more})


def exchanges(home: Path) -> list[tuple[str, str]]:
    return [(row["prompt"], row["response"]) for row in query(home, "SELECT prompt, response FROM interactions ORDER BY response")]


def test_events_of_one_span_are_one_exchange_wherever_they_stand(home: Path) -> None:
    system = logs(log("gen_ai.system.message", {"content": "Be kind."}, "aa"))
    rows = [system, question("aa"), question("bb", "And mint?"), answer("cc"), answer("bb", "Mint neither."), answer("aa")]
    write(home / "log.jsonl", raw(*rows))
    assert ingest(home, home / "log.jsonl", preset="otel") == Batch(6, 2, 0, 0, 0, 4)
    assert exchanges(home) == [("And mint?", "Mint neither."), (ASKED, SAID)]
    [row] = query(home, "SELECT messages::VARCHAR AS messages, line_number, conversation_id FROM interactions WHERE response = ?", [SAID])
    assert [turn["role"] for turn in json.loads(row["messages"])] == ["system", "user"]
    assert (row["line_number"], row["conversation_id"]) == (6, "c1")
    source = make_source("s", [str(home / "log.jsonl")], "otel", {})
    assert why_skipped(source) == {"part_of_a_call": 3, "half_a_call": 1}


@pytest.mark.parametrize("ids", [{"spanId": ""}, {"spanId": "0000000000000000"}, {"traceId": None}])
def test_halves_that_do_not_say_of_which_call_they_are_stay_halves(home: Path, ids: dict[str, Any]) -> None:
    write(home / "log.jsonl", raw(question("aa", **ids), answer("aa", **ids)))
    assert ingest(home, home / "log.jsonl", preset="otel") == Batch(2, 0, 0, 0, 0, 2)
    assert why_skipped(make_source("s", [str(home / "log.jsonl")], "otel", {})) == {"half_a_call": 2}


def test_a_flood_of_halves_of_one_call_costs_their_own_time(home: Path) -> None:
    write(home / "log.jsonl", raw(*[question("aa")] * 20_000, answer("aa"), question("bb"), answer("bb")))
    started = time.perf_counter()
    assert ingest(home, home / "log.jsonl", preset="otel") == Batch(20_003, 1, 0, 0, 0, 20_002)
    assert time.perf_counter() - started < 60


def test_halves_in_two_files_are_not_joined(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(home))
    migrate(home)
    (home / "logs").mkdir()
    write(home / "logs" / "a.jsonl", raw(question("aa"), question("bb"), answer("bb")))
    write(home / "logs" / "b.jsonl", raw(answer("aa")))
    source = make_source("logs", [str(home / "logs" / "*")], "otel", {})
    found = flow.read_small_files.fn(source, source.find())
    assert (found.total.batch.stored, dict(found.total.why_skipped)) == (1, {"half_a_call": 2, "part_of_a_call": 1})


def test_whom_one_half_names_has_the_whole_call(home: Path) -> None:
    named = question("aa", attributes=attributes(user__id=text("ann")))
    write(home / "log.jsonl", raw(named, answer("aa")))
    ingest(home, home / "log.jsonl", preset="otel")
    assert query(home, "SELECT user_id FROM interactions") == [{"user_id": "ann"}]
    (home / "again").mkdir()
    key = subject_key(redaction_key(home / "again"), "ann")
    assert ingest(home / "again", home / "log.jsonl", preset="otel", erased=(key,)) == Batch(2, 0, 0, 2, 0, 0)


def test_a_joined_call_that_was_quarantined_is_read_again_with_its_other_half(home: Path) -> None:
    late = {"timeUnixNano": str(int(datetime(2026, 12, 9).timestamp()) * 10**9)}
    write(home / "log.jsonl", raw(question("aa", **late), answer("aa", **late)))
    assert ingest(home, home / "log.jsonl", preset="otel")[:4] == (2, 0, 0, 1)
    assert query(home, "SELECT reason FROM quarantine") == [{"reason": "created_at_in_the_future"}]
    context = Context(KEEP_ALL, redaction_key(home), datetime(2026, 12, 10), datetime(2026, 12, 11))
    source = make_source("logs", [str(home / "log.jsonl")], "otel", {})
    assert replay(home, {"logs": source}, lambda *_: {}, context, reason=None, source=None) == {"stored": 1}
    assert exchanges(home) == [(ASKED, SAID)]


CHATML = "<|im_start|>user\n{0}<|im_end|>\n<|im_start|>assistant\n"
TEMPLATES = {
    "chatml": CHATML,
    "a reasoning model": CHATML + "<think>\n",
    "llama": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{0}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<bos><start_of_turn>user\n{0}<end_of_turn>\n<start_of_turn>model\n",
    "phi": "<|user|>\n{0}<|end|>\n<|assistant|>\n",
    "zephyr": "<|user|>\n{0}</s>\n<|assistant|>\n",
    "mistral": "<s>[INST] {0} [/INST]",
    "a completion": "{0}",
}


def received(call: str, prompt: str, head: str = "(APIServer pid=7) INFO 11-01 12:00:00 [logger.py:39]") -> str:
    return f"{head} Received request {call}: prompt: {prompt!r}, params: SamplingParams(n=1, stop=['x']), prompt_token_ids: None"


def generated(call: str, said: str, how: str = "", end: str = "stop") -> str:
    return (
        f"INFO 11-01 12:00:02 [logger.py:69] Generated response {call}{how}: output: {said!r}, output_token_ids: None, finish_reason: {end}"
    )


def take(home: Path, *lines: str) -> Batch:
    write(home / "vllm.log", "\n".join([*lines, ""]).encode())
    return ingest(home, home / "vllm.log", preset="vllm")


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_servers_text_log_is_read_out_of_its_template(home: Path, template: str) -> None:
    asked = "Which \"tea\"\nhas no 'caffeine'?"
    noise = 'INFO:     127.0.0.1:4000 - "POST /v1/chat/completions HTTP/1.1" 200 OK'
    assert take(home, noise, received("chatcmpl-1", template.format(asked)), generated("chatcmpl-1", SAID)) == Batch(3, 1, 0, 0, 0, 2)
    assert exchanges(home) == [(asked, SAID)]
    [row] = query(home, "SELECT conversation_id, created_at FROM interactions")
    # The file was last written in November 2023, so that the first of November was in it.
    assert tuple(row.values()) == ("chatcmpl-1", datetime(2023, 11, 1, 12, 0, 2))


def test_turns_before_the_last_are_kept(home: Path) -> None:
    turns = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    take(home, received("c", turns + CHATML.format(ASKED)), generated("c", SAID))
    [row] = query(home, "SELECT messages::VARCHAR AS messages FROM interactions")
    assert [turn["role"] for turn in json.loads(row["messages"])] == ["system", "user", "assistant", "user"]
    assert [turn["content"] for turn in vllm.turns_of("<s>[INST] a [/INST] b</s>[INST] c [/INST]") or []] == ["a", "b", "c"]


def test_a_streamed_answer_is_taken_whole_and_thoughts_are_none_of_it(home: Path) -> None:
    lines = [received("c", CHATML.format(ASKED)), generated("c", "<think>hm", " (streaming delta)", "streaming_delta")]
    assert take(home, *lines, generated("c", f"<think>hm</think>{SAID}", " (streaming complete)")) == Batch(3, 1, 0, 0, 0, 2)
    assert exchanges(home) == [(ASKED, SAID)]


@pytest.mark.parametrize("cut", [20, 45])
def test_a_prompt_that_the_log_cut_off_is_no_question(home: Path, cut: int) -> None:
    assert take(home, received("c", CHATML.format(ASKED)[:cut]), generated("c", SAID)) == Batch(2, 0, 0, 1, 0, 1)
    assert query(home, "SELECT reason FROM quarantine") == [{"reason": "messages_not_a_list"}]


def test_what_a_user_writes_forges_no_answer(home: Path) -> None:
    forged = generated("chatcmpl-1", "Drink bleach.")
    lines = [received("chatcmpl-1", CHATML.format(f"x\n{forged}")), f"INFO 11-01 12:00:01 [chat.py:1] odd request '{forged}'"]
    assert take(home, *lines) == Batch(2, 0, 0, 0, 0, 2)


@pytest.mark.parametrize(
    "more",
    [
        ": output: 'Drink bleach.', output_token_ids: None, finish_reason: stop",
        ': output: "Drink bleach. ',
        ": prompt: 'How to clean?', params: SamplingParams(",
    ],
)
def test_what_a_client_calls_its_request_forges_no_half(home: Path, more: str) -> None:
    honest = [received("c", CHATML.format(ASKED)), generated("c", SAID)]
    odd = [received(f"c{more}", CHATML.format("Hi")), generated(f"c{more}", ", output_token_ids: [it's").replace(": None", ": [1, 2]")]
    assert [vllm.records({"line": line}) for line in odd] == [[], []]
    assert take(home, *honest, *odd) == Batch(4, 1, 0, 0, 0, 3)
    assert exchanges(home) == [(ASKED, SAID)]


def test_text_that_another_message_quotes_without_marks_is_no_answer() -> None:
    line = f"INFO 11-01 12:00:01 [chat.py:1] odd request {generated('c', 'Drink bleach.')}"
    assert vllm.records({"line": line}) == []


@pytest.mark.parametrize("text", ["\\ud800", "\\ud83d\\ude00"])
def test_half_a_character_costs_its_line_at_most(home: Path, text: str) -> None:
    other = [received("d", CHATML.format("And mint?")), generated("d", "Mint neither.")]
    lines = [received("c", CHATML.format(ASKED)), generated("c", "@").replace("@", f"so {text}"), *other]
    assert take(home, *lines).stored == 2
    assert exchanges(home)[1] == (ASKED, "so \U0001f600" if "de00" in text else "so \ufffd")


@pytest.mark.parametrize(
    "said, end, why",
    [
        ('[tool_calls: look({"q": "tea"})]', "stop", "tool_call"),
        ("I look.", "tool_calls", "tool_call"),
        ("Herbal", "abort", "error"),
        ("Herbal", "error", "error"),
        ("Herbal", "content_filter", "filtered"),
        ("Herbal", "length", None),
    ],
)
def test_what_ended_otherwise_is_no_answer(home: Path, said: str, end: str, why: str | None) -> None:
    stored = take(home, received("c", CHATML.format(ASKED)), generated("c", said, end=end)).stored
    assert stored == (why is None)
    source = make_source("s", [str(home / "vllm.log")], "vllm", {})
    assert why_skipped(source) == {"part_of_a_call": 1, **({why: 1} if why else {})}


@pytest.mark.parametrize("prompt", [
    "<s>[INST] How do I clean? <|im_start|>user\nMay I drink it?<|im_end|>\n<|im_start|>assistant\n [/INST]",
    TEMPLATES["llama"].format("x<|user|>\nMay I drink it?<|end|>\n<|assistant|>\n"),
    TEMPLATES["phi"].format("x [INST] May I drink it? [/INST]"),
    "How do I clean? <|im_start|>user\nMay I drink it?<|im_end|>\n<|im_start|>assistant\n",
])  # fmt: skip
def test_the_marks_of_another_template_choose_no_question(home: Path, prompt: str) -> None:
    assert vllm.turns_of(prompt) is None
    assert take(home, received("c", prompt), generated("c", SAID)) == Batch(2, 0, 0, 0, 0, 2)
    assert why_skipped(make_source("s", [str(home / "vllm.log")], "vllm", {})) == {"part_of_a_call": 1, "mixed_template": 1}


def test_a_long_line_of_any_text_takes_little_time() -> None:
    for unit in ("'", "\\", "'\\", "INFO 11-01 12:00:00 [a] Received request x: prompt: '", "[INST]", "<|im_start|>user\n", "<|user|>"):
        started = time.perf_counter()
        line = received("c", unit * (1_000_000 // len(unit)))
        for one in (line, line[:900_000], unit * (1_000_000 // len(unit))):
            vllm.records({"line": one})
        assert time.perf_counter() - started < 5, unit
