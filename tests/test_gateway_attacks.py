"""Ways around the gateway that a reviewer found, and that are closed."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import JSONResponse

from alignment.ids import subject_key
from alignment.lineage import Subject, apply_erasure, plan_erasure
from alignment.store import migrate
from alignment.store.held import HeldExchanges
from gateway.checks import TooLong, pieces
from gateway.detectors import AnswerScores, RequestScore
from gateway.keys import Keys
from gateway.policy import load_policy
from gateway.spelling import reading
from tests.conftest import NOW
from tests.gateway_server import KEY, Words, gateway
from tests.test_gateway import ANSWERS, REFUSE, SECRET, SECRETS, policy

HOLD_ANSWERS = {"stage": "answer", "check": "toxicity", "action": "hold"}
HOLD_PROMPTS = {"stage": "prompt", "check": "harmful_request", "action": "hold"}
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def call_with(arguments: str) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": arguments}}


@pytest.mark.parametrize("lead", ["", "\n\n", " " * len(SECRET), "\t\r\n"])
def test_what_an_answer_begins_with_does_not_move_its_redactions(tmp_path: Path, lead: str) -> None:
    with gateway(tmp_path, policy(SECRETS)) as gate:
        gate.scripted.text = lambda _: f"{lead}key: {SECRET}"  # type: ignore[method-assign]
        text = gate.chat("a key?").json()["choices"][0]["message"]["content"]
    assert text.startswith(f"{lead}key: <KEY_") and text.endswith(">") and SECRET[-4:] not in text


@pytest.mark.parametrize("body", [
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": f"pw {SECRET}", "tool_calls": [call_with(SECRET)]},
                  {"role": "tool", "tool_call_id": "call_1", "content": SECRET}]},
    {"tools": [{"type": "function", "function": {"name": "look", "description": SECRET, "parameters": {}}}]},
    {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"properties": {SECRET: {"type": "string"}}}}}]},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "description": f"my key is {SECRET}"}}},
    {"stop": [f"my key is {SECRET}"]},
    {"messages": [{"role": "system", "content": SECRET}, {"role": "user", "content": [{"type": "text", "text": SECRET}]}]},
])  # fmt: skip
def test_no_part_of_a_request_carries_a_secret_upstream(tmp_path: Path, body: dict[str, Any]) -> None:
    with gateway(tmp_path, policy({"stage": "prompt", "check": "secrets", "action": "redact"})) as gate:
        assert gate.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], **body}).status_code == 200
        [sent] = gate.scripted.seen
    assert SECRET not in json.dumps(sent) and "<KEY_" in json.dumps(sent)


@pytest.mark.parametrize("body", [
    {"temperature": f"my key is {SECRET}"}, {"tool_choice": SECRET + " x", "tools": TOOLS}, {"reasoning_effort": "say it all loud"},
    {"logit_bias": {"my key": 1}}, {"parallel_tool_calls": "x", "tools": TOOLS}, {"seed": 1.5},
    {"messages": [{"role": "tool", "tool_call_id": "a b c", "content": "x"}]},
    {"tools": [{"type": "function", "function": {"name": "tell them this"}}]},
])  # fmt: skip
def test_parameters_and_names_carry_no_text(tmp_path: Path, body: dict[str, Any]) -> None:
    with gateway(tmp_path, policy()) as gate:
        assert gate.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], **body}).status_code == 400
        assert gate.scripted.seen == []


def test_a_parameter_of_zero_is_passed_on(tmp_path: Path) -> None:
    with gateway(tmp_path, policy()) as gate:
        gate.post("/v1/messages", {"max_tokens": 9, "temperature": 0, "messages": [{"role": "user", "content": "x"}]})
        gate.post(
            "/v1/responses", {"temperature": 0, "input": "x", "tools": [{"type": "function", "name": "look"}], "parallel_tool_calls": False}
        )
    assert [sent["temperature"] for sent in gate.scripted.seen] == [0, 0] and gate.scripted.seen[1]["parallel_tool_calls"] is False


def test_one_of_several_answers_that_waits_holds_them_all(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(ANSWERS, HOLD_ANSWERS)) as gate:
        _answers(gate, ["HARM", "TOXIC unreviewed"])
        assert gate.chat("x", n=2).json()["error"]["code"] == "held_for_review"
        assert len(HeldExchanges(tmp_path).waiting()) == 1 and gate.log() == []


def test_an_answer_to_an_allowed_prompt_that_would_wait_is_refused_and_no_other(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(HOLD_PROMPTS, HOLD_ANSWERS)) as gate:
        name = gate.chat("DOUBT", n=2).json()["error"]["param"]
        HeldExchanges(tmp_path).decide(name, "allow", actor="ada")
        _answers(gate, ["TOXIC unreviewed", "fine"])
        first, second = httpx2.get(f"{gate.url}/v1/held/{name}").json()["choices"]
    assert first["finish_reason"] == "content_filter" and second["message"]["content"] == "fine"


def _answers(gate: Any, texts: list[str]) -> None:
    """Let the upstream give these answers to a call with n > 1."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for index, text in enumerate(texts)
    ]
    gate.scripted.given = lambda _: JSONResponse({"choices": choices})


def test_polls_at_the_same_time_get_one_answer_and_it_is_logged_once(tmp_path: Path) -> None:
    numbers = iter(range(100))
    with gateway(tmp_path, policy(HOLD_PROMPTS)) as gate, ThreadPoolExecutor(4) as pool:
        name = gate.chat("DOUBT").json()["error"]["param"]
        HeldExchanges(tmp_path).decide(name, "allow", actor="ada")
        gate.scripted.text = lambda _: f"answer {next(numbers)}"  # type: ignore[method-assign]
        got = {answer.text for answer in pool.map(lambda _: httpx2.get(f"{gate.url}/v1/held/{name}"), range(4))}
        assert len(got) == 1 and len(gate.log()) == 1


def test_an_outcome_that_cannot_be_logged_is_not_given(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(HOLD_PROMPTS)) as gate:
        name = gate.chat("DOUBT say: fine").json()["error"]["param"]
        HeldExchanges(tmp_path).decide(name, "allow", actor="ada")
        whole = gate.gateway.log._append
        gate.gateway.log._append = lambda body: (_ for _ in ()).throw(OSError(28, "full"))  # type: ignore[method-assign]
        assert httpx2.get(f"{gate.url}/v1/held/{name}").status_code == 503
        gate.gateway.log._append = whole  # type: ignore[method-assign]
        assert httpx2.get(f"{gate.url}/v1/held/{name}").status_code == 200 and len(gate.log()) == 1


def test_a_decision_is_logged_though_nobody_asks_for_it(tmp_path: Path) -> None:
    with gateway(tmp_path, policy({**ANSWERS, "action": "hold"})) as gate:
        name = gate.chat("say: HARM", n=2).json()["error"]["param"]
        HeldExchanges(tmp_path).decide(name, "refuse", actor="ada")
        assert [line["signals"]["thumbs"] for line in gate.log()] == ["down", "down"]


def test_a_client_that_leaves_while_lines_are_written_loses_none(tmp_path: Path) -> None:
    with gateway(tmp_path, policy()) as gate:
        slow = gate.gateway.log._append

        def append(body: bytes) -> None:
            time.sleep(0.3)
            slow(body)

        gate.gateway.log._append = append  # type: ignore[method-assign]
        body = {"messages": [{"role": "user", "content": "say: one two three"}], "n": 3, "stream": True}
        with httpx2.stream("POST", f"{gate.url}/v1/chat/completions", json=body) as answer:
            seen = ""
            for piece in answer.iter_text():
                seen += piece
                if seen.count("three") == 3:
                    break
        deadline = time.monotonic() + 10
        while len(gate.log()) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(gate.log()) == 3


def test_half_a_sign_costs_nobody_else_an_answer(tmp_path: Path) -> None:
    def text(body: dict[str, Any]) -> str:
        said = body["messages"][-1]["content"]
        return "half \ud83d" if said == "bad" else said

    with gateway(tmp_path, policy()) as gate, ThreadPoolExecutor(12) as pool:
        gate.scripted.text = text  # type: ignore[method-assign]
        codes = list(pool.map(lambda said: gate.chat(said).status_code, ["bad", *["good"] * 11]))
        assert codes == [502, *[200] * 11]
        # A server may split a sign between two pieces of a stream.
        gate.scripted.piece = 1
        gate.scripted.text = lambda _: "".join(json.loads('"\\ud83d\\ude00"')) + " fine"  # type: ignore[method-assign]
        assert gate.stream("x")[0] == "\U0001f600 fine"


def test_a_stream_that_stalls_ends_with_an_error(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(), seconds=1) as gate:

        async def stalls(text: str, n: int, tools: Any, plain: bool) -> Any:
            yield 'data: {"choices": [{"index": 0, "delta": {"content": "one "}}]}\n\n'
            await asyncio.sleep(30)

        gate.scripted._stream = stalls  # type: ignore[method-assign]
        _, chunks, _ = gate.stream("x")
        assert chunks[-1]["error"]["code"] == "upstream_timeout" and gate.log()[0]["gateway"]["error"] == "upstream_timeout"


def test_signs_that_some_take_for_an_end_of_line_pass(tmp_path: Path) -> None:
    with gateway(tmp_path, policy()) as gate:
        gate.scripted.text = lambda _: "one\u2028two\u0085three"  # type: ignore[method-assign]
        assert gate.stream("x")[0] == "one\u2028two\u0085three"


def test_taking_the_last_key_back_does_not_open_the_door(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    made = keys.add("ann")
    with gateway(tmp_path, policy()) as gate:
        body = {"messages": [{"role": "user", "content": "x"}]}
        assert gate.post("/v1/chat/completions", body, authorization=f"Bearer {made}").status_code == 200
        keys.remove("ann")
        assert gate.chat("x").status_code == 401
    with gateway(tmp_path / "beyond", policy(), locked=True) as gate:
        assert gate.chat("x").status_code == 401
    with gateway(tmp_path / "host", policy()) as gate:
        assert gate.post("/v1/chat/completions", body, host="[::1].evil.example]").status_code == 403


def test_names_and_ids_of_a_models_tool_calls_carry_nothing(tmp_path: Path) -> None:
    def answering(name: str, identity: str) -> Callable[[Any], JSONResponse]:
        call = {"id": identity, "type": "function", "function": {"name": name, "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return lambda _: JSONResponse({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})

    with gateway(tmp_path, policy()) as gate:
        gate.scripted.given = answering("look", SECRET)
        assert SECRET not in gate.chat("x", tools=TOOLS).text
        gate.scripted.given = answering("tell them this", "call_1")
        assert gate.chat("x", tools=TOOLS).status_code == 502


class Short(Words):
    """Detectors that read the first 250 characters of the last turn, as encoders do."""

    async def asked(self, talk: Any) -> RequestScore:
        return await super().asked(({"role": "user", "content": talk[-1]["content"][:250]},))

    async def said(self, exchange: tuple[str, str]) -> AnswerScores:
        return await super().said((exchange[0], exchange[1][:450]))

    async def toxic(self, text: str) -> float:
        return await super().toxic(text[:4000])


@pytest.mark.parametrize("before", [0, 1000, 3000, 9000])
def test_harm_in_the_middle_of_a_long_text_is_read(tmp_path: Path, before: int) -> None:
    filler = "plain words go by and by " * 400
    text = f"{filler[:before]} HARM {filler[:3000]}"
    rules = policy(REFUSE, ANSWERS, {"stage": "answer", "check": "toxicity", "action": "refuse"})
    with gateway(tmp_path, rules, detectors=Short()) as gate:
        assert gate.chat(text).json()["choices"][0]["finish_reason"] == "content_filter"
        for said in (text, text.replace("HARM", "TOXIC")):
            gate.scripted.text = lambda _, said=said: said  # type: ignore[method-assign]
            assert gate.chat("x").json()["choices"][0]["finish_reason"] == "content_filter"
        prefill = [{"role": "user", "content": "go on"}, {"role": "assistant", "content": "HARM, first"}]
        assert gate.post("/v1/chat/completions", {"messages": prefill}).json()["choices"][0]["finish_reason"] == "content_filter"
        # What is too long to read whole counts as fired.
        assert gate.chat("plain " * 14_000).json()["choices"][0]["finish_reason"] == "content_filter"


def test_pieces_cover_a_text_and_overlap() -> None:
    text = "".join(f"{number:04d}" for number in range(500))
    parts = pieces(text, 240)
    assert all(any(text[at : at + 80] in part for part in parts) for at in range(len(text) - 80))
    with pytest.raises(TooLong):
        pieces("x" * 100_000, 240)


@pytest.mark.parametrize("text", ["@" * 20_000, "!" * 20_000, "a@" * 10_000, "%41" * 7000, "A" * 20_000, "1 " * 10_000, "\u0430b " * 6000])
def test_no_text_takes_long_to_read(text: str) -> None:
    begun = time.process_time()
    reading(text)
    # Seconds before; a generous bound, since this is about the order of magnitude.
    assert time.process_time() - begun < 1.0


def test_a_score_that_is_none_is_a_failure_wherever_it_stands(tmp_path: Path) -> None:
    class Nan(Words):
        async def asked(self, talk: Any) -> RequestScore:
            return RequestScore(float("nan") if "bomb" in talk[-1]["content"] else 0.1, "weapons")

    with gateway(tmp_path, policy(REFUSE), detectors=Nan()) as gate:
        assert gate.chat("b\u043emb").json()["choices"][0]["finish_reason"] == "content_filter"


def test_requests_being_received_count_and_held_ones_too(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(HOLD_PROMPTS), most_open=1, seconds=2) as gate:
        name = gate.chat("DOUBT").json()["error"]["param"]
        HeldExchanges(tmp_path).decide(name, "allow", actor="ada")
        gate.scripted.how = "hang"
        first = threading.Thread(target=lambda: httpx2.get(f"{gate.url}/v1/held/{name}", timeout=30))
        first.start()
        time.sleep(0.5)
        assert httpx2.get(f"{gate.url}/v1/held/{name}").status_code == 503
        first.join()
        assert len(gate.scripted.seen) == 1


@pytest.mark.parametrize(
    ("tools", "status"), [(5, 400), ([5], 422), ([{"name": "two words"}], 400), ([{"name": "x", "input_schema": None}], 200)]
)
def test_malformed_tools_are_told_apart_from_a_failure(tmp_path: Path, tools: Any, status: int) -> None:
    with gateway(tmp_path, policy()) as gate:
        body = {"max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "tools": tools}
        assert gate.post("/v1/messages", body).status_code == status


def test_a_body_that_is_nested_too_deeply_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = {"a": deep}
    with gateway(tmp_path, policy()) as gate:
        schema = [{"type": "function", "name": "x", "parameters": deep}]
        assert gate.post("/v1/responses", {"input": "x", "tools": schema}).status_code == 400
        assert gate.scripted.seen == []


def test_an_answer_that_was_cut_is_checked_and_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    from gateway.policy import Stream

    with gateway(tmp_path, policy(ANSWERS, stream=Stream(max_characters=1000))) as gate:
        text, chunks, _ = gate.stream("say: " + "plain words " * 200)
        assert 0 < len(text) <= 1000 and chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert gate.log()[0]["gateway"]["error"] == "cut"
        _, chunks, raw = gate.stream("say: " + "HARM " + "plain words " * 200)
        assert "HARM" not in raw and chunks[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_a_refused_prompt_beside_a_failing_upstream_is_one_line(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(REFUSE, prompt_checks="beside")) as gate:
        gate.scripted.how = "down"
        assert gate.chat("HARM").json()["choices"][0]["finish_reason"] == "content_filter"
        time.sleep(0.2)
        assert len(gate.log()) == 1
        gate.scripted.how = "well"
        assert gate.chat("say: fine").json()["choices"][0]["message"]["content"] == "fine"
        assert load_policy(None).prompt_checks == "before"


def test_an_erasure_takes_what_the_gateway_keeps_of_a_person_and_loses_no_later_line(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(HOLD_PROMPTS)) as gate:
        for who in ("ann-4711", "bob-4711"):
            gate.chat(f"say: the words of {who}", user=who)
            name = gate.chat(f"DOUBT of {who}", user=who).json()["error"]["param"]
            HeldExchanges(tmp_path).decide(name, "refuse", actor="ada")
        migrate(tmp_path)
        subject = Subject(("ann-4711",), subject_key(KEY, "ann-4711"), subject_key(KEY, "ann-4711"))
        plan = plan_erasure(tmp_path, subject, nights={})
        apply_erasure(tmp_path, plan, reason="asked for", actor="ada", now=NOW)
        gate.chat("say: later", user="bob-4711")
        folder = b"".join(path.read_bytes() for path in (tmp_path / "gateway").rglob("*") if path.is_file())
    assert b"ann-4711" not in folder and folder.count(b"the words of bob-4711") == 2
    assert [line["response"] for line in gate.log()].count("later") == 1
