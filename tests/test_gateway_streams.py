"""Streams of the gateway: no byte leaves unchecked, whatever the pieces, and the end is sent when the exchange is in the log."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.guard import Guard, StageFindings
from gateway.policy import Policy, PolicyRule, Stream
from gateway.windows import Window
from tests.gateway_server import KEY, gateway, hangs
from tests.test_gateway import ANSWERS, SECRET, SECRETS, policy

FILL = "plain words go by and by " * 30


@pytest.mark.parametrize("piece", [1, 7, 5000])
@pytest.mark.parametrize("buffer", ["window", "whole"])
def test_a_harmless_stream_arrives_whole_whatever_its_pieces(tmp_path: Path, piece: int, buffer: Any) -> None:
    with gateway(tmp_path, policy(ANSWERS, stream=Stream(buffer=buffer))) as gate:
        gate.scripted.piece = piece
        text, chunks, raw = gate.stream(f"say: {FILL}", stream_options={"include_usage": True})
        assert text == FILL.strip() and raw.endswith("data: [DONE]\n\n")
        assert chunks[-1]["usage"]["completion_tokens"] == 5
        assert gate.log()[0]["response"] == FILL.strip()


def test_text_leaves_before_the_answer_is_complete(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(ANSWERS)) as gate:
        _, chunks, _ = gate.stream(f"say: {FILL}")
    assert sum(bool(choice["delta"].get("content")) for chunk in chunks for choice in chunk["choices"]) >= 3


@pytest.mark.parametrize("piece", [1, 3, 400])
def test_harm_late_in_a_stream_ends_it_before_it_leaves(tmp_path: Path, piece: int) -> None:
    with gateway(tmp_path, policy(ANSWERS)) as gate:
        gate.scripted.piece = piece
        text, chunks, raw = gate.stream(f"say: {FILL}HARM {FILL}")
        assert text and "HARM" not in raw and text in FILL
        assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
        [line] = gate.log()
    # Not a success: the log says what was withheld.
    assert line["gateway"]["action"] == "refuse" and line["gateway"]["delivered"] == text


@pytest.mark.parametrize("piece", [1, 5, 64, 400])
@pytest.mark.parametrize("before", [0, 150, 233, 239, 310])
def test_a_secret_across_pieces_and_windows_never_leaves(tmp_path: Path, piece: int, before: int) -> None:
    lead = FILL[:before]
    with gateway(tmp_path, policy(SECRETS)) as gate:
        gate.scripted.piece = piece
        gate.scripted.text = lambda _: f"{lead} {SECRET} {FILL}"  # type: ignore[method-assign]
        text, _, raw = gate.stream("a key, please")
    assert not any(SECRET[start : start + 12] in text for start in range(len(SECRET) - 12)) and SECRET not in raw
    assert text.count("<KEY_") == 1 and text.split("<KEY_")[0].strip() == lead.strip() and text.endswith(FILL)


def test_words_that_are_only_apart_are_not_joined_into_something_blocked(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(ANSWERS)) as gate:
        gate.scripted.piece = 3
        text, _, _ = gate.stream(f"say: HA RM {FILL}")
    assert text == f"HA RM {FILL}".strip()


def test_a_stream_that_nobody_could_check_does_not_begin(tmp_path: Path) -> None:
    rule = {**ANSWERS, "timeout": 0.2}
    with gateway(tmp_path, policy(rule)) as gate:
        gate.spoil("harmful_answer", hangs)
        text, _, raw = gate.stream(f"say: {FILL}")
    assert "plain words" not in raw and text.startswith("I'm sorry")


def test_an_unknown_form_in_a_stream_ends_it_with_an_error(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(ANSWERS)) as gate:
        gate.scripted.how = "odd stream"
        _, chunks, raw = gate.stream(f"say: {FILL}")
        assert "unseen" not in raw and "[DONE]" not in raw and chunks[-1]["error"]["code"] == "upstream_error"
        assert gate.log()[0]["gateway"]["error"] == "upstream_error"


def test_an_upstream_that_breaks_off_is_an_error_and_no_end(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(ANSWERS)) as gate:
        gate.scripted.how = "breaks"
        _, chunks, raw = gate.stream(f"say: {FILL}")
    assert "[DONE]" not in raw and '"finish_reason":"stop"' not in raw and chunks[-1]["error"]


def test_without_a_log_a_stream_does_not_end_well(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(ANSWERS)) as gate:
        gate.chat("x")
        gate.gateway.log._append = lambda body: (_ for _ in ()).throw(OSError(28, "No space left on device"))  # type: ignore[method-assign]
        _, chunks, raw = gate.stream("say: hello")
    assert "[DONE]" not in raw and chunks[-1]["error"]["code"] == "log_unavailable"


def test_a_client_that_leaves_ends_the_upstreams_work_and_is_logged(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(ANSWERS)) as gate:
        gate.scripted.piece = 1
        body = json.dumps({"messages": [{"role": "user", "content": f"say: {FILL * 100}"}], "stream": True}).encode()
        address = gate.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=10) as client:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while b"plain words" not in client.recv(4096):
                pass
        deadline = time.monotonic() + 10
        while not gate.log() and time.monotonic() < deadline:
            time.sleep(0.05)
        [line] = gate.log()
    assert line["gateway"]["error"] == "client_left" and line["gateway"].get("delivered", line["response"])


def test_streams_of_several_answers_are_checked_each_for_itself(tmp_path: Path) -> None:
    with gateway(tmp_path, policy(ANSWERS)) as gate:
        _, chunks, raw = gate.stream("say: HARM", n=2)
    ends = {choice["index"]: choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]}
    assert ends == {0: "content_filter", 1: "content_filter"} and "HARM" not in raw


def test_a_rewrite_takes_the_place_of_a_stream_of_which_nothing_has_left(tmp_path: Path) -> None:
    said = iter(["HARM", "It helps with weapons.", "Better words."])
    with gateway(tmp_path, policy({**ANSWERS, "action": "rewrite"})) as gate:
        gate.scripted.text = lambda _: next(said)  # type: ignore[method-assign]
        text, chunks, _ = gate.stream("how?")
    assert text == "Better words." and chunks[-1]["choices"][0]["finish_reason"] == "stop"


# The window by itself


def _guard(stream: Stream) -> Guard:
    rules = (PolicyRule(id="r", stage="answer", check="secrets", action="redact"),)
    return Guard(Policy(version=1, rules=rules, stream=stream), None, None, None, key=KEY)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(40, 120), st.data())
def test_a_window_checks_every_character_with_what_surrounds_it_and_none_more_than_twice(
    pieces: list[int], overlap: int, data: st.DataObject
) -> None:
    stream = Stream(size=data.draw(st.integers(overlap, 200)), overlap=overlap)
    text = "".join(f"{number:05d} " for number in range(sum(pieces) // 6 + 1))[: sum(pieces)]
    checked: list[str] = []
    left: list[str] = []

    async def judge(seen: str) -> StageFindings:
        checked.append(seen)
        return StageFindings()

    async def run() -> None:
        window, at = Window(judge, _guard(stream), stream), 0
        for piece in pieces:
            released = (await window.feed(text[at : at + piece])).text
            at += piece
            left.append(released)
            # Nothing has left that was not in a check.
            assert not released or released in checked[-1]
        left.append((await window.finish()).text)

    asyncio.run(run())
    assert "".join(left) == text
    counts = [sum(number in seen for seen in checked) for number in text.split() if len(number) == 5]
    assert all(1 <= count <= 2 for count in counts)
    # Any run of up to `overlap` characters stands whole in some check.
    assert all(any(text[at : at + overlap] in seen for seen in checked) for at in range(max(1, len(text) - overlap)))


def test_readiness_says_what_is_missing(tmp_path: Path) -> None:
    with gateway(tmp_path, policy()) as gate:
        assert httpx2.get(f"{gate.url}/livez").json() == {"alive": True}
        assert httpx2.get(f"{gate.url}/readyz").status_code == 200
