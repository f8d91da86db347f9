"""What endpoints of many makes write beside, or instead of, an answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from alignment.models.remote import RemoteModel
from alignment.records import Message
from alignment.sections import Teacher
from alignment.store import TeacherCalls, query

Body = dict[str, Any]
Says = Callable[[Body], tuple[int, Any]]
ASKED: list[Message] = [{"role": "user", "content": "Which answer is the better one, A or B?"}]


@contextmanager
def endpoint(say: Says) -> Iterator[tuple[str, list[Body]]]:
    """Serve what `say` makes of each request's body; yield the address and the bodies."""
    seen: list[Body] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, value = say(seen[-1])
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(2)


def completion(content: Any = "A", *, usage: Any = None, top: dict[str, float] | None = None, finish: str = "stop", **message: Any) -> Body:
    """Return a chat completion; `top` are the first token's alternatives."""
    listed = [{"token": token, "logprob": logprob} for token, logprob in (top or {}).items()]
    logprobs = {"content": [{"token": listed[0]["token"], "logprob": listed[0]["logprob"], "top_logprobs": listed}]} if listed else None
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}, "logprobs": logprobs}
    return {"id": "r", "object": "chat.completion", "model": "m", "choices": [choice], **({"usage": usage} if usage is not None else {})}


SURE = {"A": -0.2, "B": -1.8}


def judge(url: str, home: Path, **changes: Any) -> RemoteModel:
    return RemoteModel(Teacher(**({"base_url": url, "model": "m", "retries": 1, "timeout_seconds": 5} | changes)), TeacherCalls(home))


def spent(home: Path) -> list[dict[str, Any]]:
    return query(home, "SELECT tokens_in, tokens_out, response IS NOT NULL AS kept FROM teacher_calls ORDER BY created_at")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 41}, (41, 1)),
        ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, (None, 1)),
        ({"input_tokens": 40, "output_tokens": 2}, (40, 2)),
        ({"prompt_tokens": 40, "total_tokens": 43}, (40, 3)),
        ({"prompt_tokens": "many", "completion_tokens": -4}, (None, 1)),
        ("none", (None, 1)),
    ],
)
def test_a_usage_that_is_partial_decides_nothing_over_the_answer(usage: Any, tokens: tuple[int | None, int], home: Path) -> None:
    with endpoint(lambda _: (200, completion(usage=usage, top=SURE))) as (url, seen):
        for _ in range(2):
            [choice] = judge(url, home).choose([ASKED], ("A", "B"), subjects=["x"])
            assert choice.probabilities == pytest.approx((0.832, 0.168), abs=0.001)
        assert len(seen) == 1, "what was paid for is not asked again"
    [row] = spent(home)
    most = len(ASKED[0]["content"]) + 16
    assert (row["tokens_in"], row["tokens_out"], row["kept"]) == (tokens[0] or most, tokens[1], True)


def few(body: Body) -> tuple[int, Any]:
    if body.get("top_logprobs", 0) > 5:
        return 422, {"error": "Input validation error: `top_n_tokens` must be >= 0 and <= 5", "error_type": "validation"}
    return 200, completion(top=SURE)


def fewer_without_words(body: Body) -> tuple[int, Any]:
    return (422, "Unprocessable") if body.get("top_logprobs", 0) > 5 else (200, completion(top=SURE))


def no_alternatives(body: Body) -> tuple[int, Any]:
    if "logprobs" in body:
        return 400, {"object": "error", "message": "logprobs are not enabled here", "code": 400}
    return 200, completion("A=8 B=2")


def newer(body: Body) -> tuple[int, Any]:
    if "max_tokens" in body:
        said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return 400, {"error": {"message": said, "type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter"}}
    if body.get("temperature", 1) != 1:
        said = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
        return 400, {"error": {"message": said, "param": "temperature", "code": "unsupported_value"}}
    return 200, completion(top=SURE)


@pytest.mark.parametrize(
    ("say", "asked"),
    [(few, 4), (fewer_without_words, 4), (no_alternatives, 4), (newer, 5)],
    ids=["tgi", "tgi_bare", "no_logprobs", "newer"],
)
def test_a_server_that_takes_less_is_asked_for_less(say: Says, asked: int, home: Path) -> None:
    asks: list[list[Message]] = [[{"role": "user", "content": f"A or B? Question {number}."}] for number in range(3)]
    with endpoint(say) as (url, seen):
        choices = judge(url, home, concurrency=1).choose(asks, ("A", "B"), subjects=["x"] * 3)
        assert [choice.probabilities and choice.probabilities[0] > 0.7 for choice in choices] == [True] * 3
        assert len(seen) == asked + (say is no_alternatives), "each thing is refused once"
        assert judge(url, home).choose(asks, ("A", "B"), subjects=["x"] * 3) == choices
    assert [row["kept"] for row in spent(home)] == [True] * 3, "a refusal costs nothing, and nothing is billed twice"


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["A"], "token_logprobs": [-0.2], "top_logprobs": [SURE]},
        {"content": [{"token": "A", "logprob": -0.2, "top_logprobs": SURE}]},
        {
            "content": [
                {"token": "A", "top_logprobs": [{"token": "C", "logprob": None}, {"token": None}, 7, {"token": "A", "logprob": -0.2},
                                                {"token": "B", "logprob": -1.8, "bytes": None}]}
            ]
        },
    ],
    ids=["older", "by name", "some unreadable"],
)  # fmt: skip
def test_alternatives_are_read_in_any_form(logprobs: Any, home: Path) -> None:
    whole = completion("A")
    whole["choices"][0]["logprobs"] = logprobs
    with endpoint(lambda _: (200, whole)) as (url, seen):
        [choice] = judge(url, home).choose([ASKED], ("A", "B"))
        assert len(seen) == 1
    assert choice.probabilities == pytest.approx((0.832, 0.168), abs=0.001)


def test_a_refusal_is_told_in_the_servers_words(home: Path) -> None:
    told = {"detail": [{"loc": ["body", "model"], "msg": "this model judges nobody", "type": "value_error"}]}
    with endpoint(lambda _: (422, told)) as (url, _):
        [choice] = judge(url, home).choose([ASKED], ("A", "B"))
    assert choice.reason == "refused: status 422 (this model judges nobody)"


THOUGHTS = "The first one is kinder, so I lean"
THINKING: dict[str, Says] = {
    "inline": lambda _: (200, completion("<think>", top={"<think>": -0.001, "A": -9.0}, finish="length")),
    "in pieces": lambda _: (200, completion("<th", top={"<th": -0.01, "A": -6.0}, finish="length")),
    "a parser's": lambda _: (200, completion(None, reasoning_content="Okay", top={"Okay": -0.1, "A": -2.5}, finish="length")),
    "without logprobs": lambda _: (200, completion("", reasoning="Okay", finish="length")),
    "unseen": lambda _: (
        200,
        completion("", usage={"prompt_tokens": 9, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 1}}),
    ),
}


@pytest.mark.parametrize("kind", THINKING)
def test_a_teacher_that_thinks_first_is_told_of_and_not_paid_for(kind: str, home: Path) -> None:
    with endpoint(THINKING[kind]) as (url, seen):
        choices = judge(url, home, concurrency=1).choose([ASKED] * 2 + [[{"role": "user", "content": "Again?"}]] * 6, ("A", "B"))
        assert len(seen) == 1
    assert all(choice.probabilities is None and "[teacher] thinking_tokens" in choice.reason for choice in choices)


@pytest.mark.parametrize("inline", [True, False])
def test_a_teacher_that_thinks_is_waited_for_or_asked_not_to(inline: bool, home: Path) -> None:
    def say(body: Body) -> tuple[int, Any]:
        if body.get("chat_template_kwargs") == {"enable_thinking": False}:
            return 200, completion(top=SURE)
        assert body["max_tokens"] >= 500
        return 200, completion(f"<think>{THOUGHTS}</think>\n\nA=9 B=3") if inline else completion("A=9 B=3", reasoning_content=THOUGHTS)

    with endpoint(say) as (url, seen):
        [waited] = judge(url, home, thinking_tokens=500).choose([ASKED], ("A", "B"), subjects=["x"])
        assert waited.probabilities == (0.75, 0.25)
        [off] = judge(url, home, extra={"chat_template_kwargs": {"enable_thinking": False}}).choose([ASKED], ("A", "B"), subjects=["x"])
        assert off.probabilities and off.probabilities[0] > 0.8
        assert len(seen) == 2
    assert THOUGHTS not in (home / "teacher_calls.jsonl").read_text()
    assert not [row for row in query(home, "SELECT response FROM teacher_calls") if THOUGHTS in str(row["response"])]


def test_a_letter_that_is_next_to_nothing_is_no_vote(home: Path) -> None:
    with endpoint(lambda _: (200, completion("Both", top={"Both": -0.01, "A": -15.0}))) as (url, _):
        [choice] = judge(url, home).choose([ASKED], ("A", "B"))
    assert choice.probabilities is None
    assert "3e-07 of the probability" in choice.reason


@pytest.mark.parametrize("before", ["\u0120", "\u2581", "\u010a", " ", "\n"])
def test_a_token_is_read_as_the_tokenizer_writes_it(before: str, home: Path) -> None:
    with endpoint(lambda _: (200, completion("A", top={f"{before}A": -0.2, f"{before}B": -1.8}))) as (url, _):
        [choice] = judge(url, home).choose([ASKED], ("A", "B"))
    assert choice.probabilities == pytest.approx((0.832, 0.168), abs=0.001)


BROKEN = {"message": "upstream is overloaded", "code": 502, "metadata": {"raw": "no capacity left"}}
ERRORS: dict[str, Body] = {
    "in a choice": {"choices": [{"index": 0, "finish_reason": "error", "error": BROKEN, "message": {"role": "assistant", "content": "A"}}]},
    "by its finish": completion("A", finish="error", top=SURE),
    "alone": {"error": BROKEN},
    "without its name": {"object": "error", **BROKEN},
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_in_a_200_is_tried_again_and_never_kept(kind: str, home: Path) -> None:
    bad = iter([ERRORS[kind]])
    with endpoint(lambda _: (200, next(bad, completion(top=SURE)))) as (url, seen):
        [choice] = judge(url, home).choose([ASKED], ("A", "B"), subjects=["x"])
        assert choice.probabilities and choice.probabilities[0] > 0.8
        assert len(seen) == 2
    with endpoint(lambda _: (200, ERRORS[kind])) as (url, _):
        [choice] = judge(url, home, retries=0).choose([ASKED], ("A", "B"), subjects=["y"])
    assert "error" in choice.reason
    assert ("overloaded: no capacity left" in choice.reason) is (kind != "by its finish")
    assert sum(row["kept"] for row in spent(home)) == 1


def test_a_first_reply_that_is_filtered_says_nothing_of_the_others(home: Path) -> None:
    filtered = iter([completion(None, finish="content_filter"), completion(None, refusal="I will not judge this.")])
    asks: list[list[Message]] = [[{"role": "user", "content": f"A or B? Question {number}."}] for number in range(4)]
    with endpoint(lambda _: (200, next(filtered, completion(top=SURE)))) as (url, seen):
        choices = judge(url, home, concurrency=1).choose(asks, ("A", "B"), subjects=["x"] * 4)
        assert len(seen) == 4
        assert all("logprobs" in body for body in seen)
    assert [choice.reason for choice in choices[:2]] == [
        "refused: the provider filtered the answer (content_filter)", "refused: the model declines (I will not judge this.)",
    ]  # fmt: skip
    assert all(choice.probabilities for choice in choices[2:])


def test_what_a_teacher_says_is_its_answer_without_its_thinking(home: Path) -> None:
    said = iter([completion("<think>Hm.</think>\nHello."), completion([{"type": "text", "text": "Hi."}]), completion(None, refusal="No.")])
    with endpoint(lambda _: (200, next(said))) as (url, _):
        asks: list[list[Message]] = [[{"role": "user", "content": f"Say {number}."}] for number in range(3)]
        assert judge(url, home, concurrency=1).generate(asks, max_new_tokens=8) == ["Hello.", "Hi.", "No."]
