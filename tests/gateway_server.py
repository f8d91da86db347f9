"""A gateway on loopback before a scripted OpenAI-compatible server, for tests: both are real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from alignment.labels.check import load_constitution
from alignment.store.held import HeldExchanges
from gateway.app import App
from gateway.checks import Checked, Checks, Hit
from gateway.detectors import AnswerScores, RequestScore
from gateway.guard import Guard
from gateway.holding import Holding
from gateway.keys import Keys
from gateway.logs import ExchangeLog
from gateway.metrics import Metrics
from gateway.patience import PatientProtocol
from gateway.policy import Policy
from gateway.releases import Releases
from gateway.service import Pipeline
from gateway.upstream import HttpUpstream

KEY = b"k" * 32


class Scripted:
    """The upstream: answers with what follows "say:" in the last message, in the manner that `how` names."""

    def __init__(self) -> None:
        self.how = "well"
        self.piece = 7
        self.seen: list[dict[str, Any]] = []
        self.cancelled = 0
        self.given: Callable[[Request], Response] | None = None
        """What answers instead, whatever is asked."""

    def text(self, body: dict[str, Any]) -> str:
        said = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        return said.split("say:", 1)[1].strip() if "say:" in said else "All is well."

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    async def answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.seen.append(body)
        if self.given:
            return self.given(request)
        if self.how == "down":
            return JSONResponse({"error": "down"}, 500)
        if self.how == "hang":
            await asyncio.sleep(60)
        plain = request.url.path.endswith("/v1/completions")
        text, n = self.text(body), body.get("n", 1)
        if self.how == "odd":
            return JSONResponse({"choices": [{"index": 0, "message": {"content": None, "hologram": text}, "finish_reason": "stop"}]})
        tools = [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": text}}] if body.get("tools") else []
        if body.get("stream"):
            return StreamingResponse(self._stream(text, n, tools, plain), media_type="text/event-stream")
        if plain:
            choices = [{"index": index, "text": text, "finish_reason": "stop"} for index in range(n)]
        else:
            message = {"role": "assistant", "content": None if tools else text} | ({"tool_calls": tools} if tools else {})
            finish = "tool_calls" if tools else "stop"
            choices = [{"index": index, "message": message, "finish_reason": finish} for index in range(n)]
        return JSONResponse({"id": "x", "choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 5}})

    async def _stream(self, text: str, n: int, tools: list[dict[str, Any]], plain: bool) -> Any:
        def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
            return f"data: {json.dumps({'id': 'x', 'choices': choices, **more})}\n\n"

        try:
            for index in range(n):
                if tools:
                    for part in ({"id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}, *self._halves(text)):
                        yield chunk([{"index": index, "delta": {"tool_calls": [{"index": 0, **part}]}, "finish_reason": None}])
                for start in range(0, 0 if tools else len(text), self.piece):
                    piece = text[start : start + self.piece]
                    delta = {"text": piece} if plain else {"delta": {"content": piece}}
                    yield chunk([{"index": index, **delta, "finish_reason": None}])
                    await asyncio.sleep(0)
                    if self.how == "breaks" and start > len(text) // 2:
                        return
                    if self.how == "odd stream" and start > len(text) // 2:
                        yield chunk([{"index": index, "delta": {"hologram": "unseen"}, "finish_reason": None}])
                ended = {"text": ""} if plain else {"delta": {}}
                yield chunk([{"index": index, **ended, "finish_reason": "tool_calls" if tools else "stop"}])
            yield chunk([], usage={"prompt_tokens": 3, "completion_tokens": 5})
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @staticmethod
    def _halves(text: str) -> Iterator[dict[str, Any]]:
        for part in (text[: len(text) // 2], text[len(text) // 2 :]):
            yield {"function": {"arguments": part}}

    def starlette(self) -> Starlette:
        routes = [Route(f"/v1/{path}", self.answer, methods=["POST"]) for path in ("chat/completions", "completions")]
        return Starlette(routes=[*routes, Route("/v1/models", self.models)])


@contextlib.contextmanager
def serving(app: Any, http: Any = "auto") -> Iterator[str]:
    """Serve an application on a free port of loopback, on a thread; yield its address."""
    config = uvicorn.Config(app, port=0, http=http, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


class Words:
    """Detectors that know words: a text is as harmful as it says, "HARM", "DOUBT" or "TOXIC"; one that says "DECLINE" refuses."""

    async def asked(self, talk: Any) -> RequestScore:
        said = " ".join(turn["content"] for turn in talk if turn["role"] == "user")
        return RequestScore(0.99 if "HARM" in said else 0.6 if "DOUBT" in said else 0.01, "weapons")

    async def said(self, exchange: tuple[str, str]) -> AnswerScores:
        return AnswerScores(0.99 if "HARM" in exchange[1] else 0.01, 0.99 if "DECLINE" in exchange[1] else 0.01)

    async def toxic(self, text: str) -> float:
        return 0.99 if "TOXIC" in text else 0.0

    async def warm(self) -> None:
        return None


class Setup:
    """A running gateway: its addresses, its parts, and what it logged."""

    def __init__(self, url: str, scripted: Scripted, gateway: Pipeline, checks: Checks, home: Path, metrics: Metrics) -> None:
        self.url, self.scripted, self.gateway, self.checks, self.home, self.metrics = url, scripted, gateway, checks, home, metrics

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return httpx2.post(f"{self.url}{path}", json=body, headers=headers, timeout=30)

    def chat(self, said: str, **more: Any) -> httpx2.Response:
        return self.post("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": said}], **more})

    def stream(self, said: str, **more: Any) -> tuple[str, list[dict[str, Any]], str]:
        """Return the text, the chunks and the raw body of a streamed chat completion."""
        raw = self.chat(said, stream=True, **more).text
        chunks = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
        text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))
        return text, chunks, raw

    def log(self) -> list[dict[str, Any]]:
        """Return the log's lines, oldest first."""
        files = sorted((self.home / "gateway" / "logs").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def spoil(self, name: str, check: Callable[[Checked], Awaitable[Any]]) -> None:
        """Put something else in a check's place."""
        self.checks.by_name[name] = check  # type: ignore[index]


@contextlib.contextmanager
def gateway(
    home: Path, policy: Policy, *, detectors: Any = None, keep_going: bool = False, seconds: float = 5, **limits: int
) -> Iterator[Setup]:
    """Run a gateway with this policy before a scripted upstream."""
    scripted = Scripted()
    with serving(scripted.starlette()) as upstream:
        metrics, checks = Metrics(), Checks(detectors or Words())
        guard = Guard(policy, checks, load_constitution(), metrics, key=KEY)
        log = ExchangeLog(home / "gateway" / "logs", KEY)
        made = Pipeline(
            guard=guard,
            upstream=HttpUpstream(f"{upstream}/v1", key="", seconds=seconds, base_name="base"),
            releases=Releases(home),
            log=log,
            holding=Holding(HeldExchanges(home), KEY),
            metrics=metrics,
            base_name="base",
            keep_going=keep_going,
        )
        most: dict[str, Any] = {"most_bytes": 100_000, "most_open": 100, "locked": False} | limits
        app = App(made, Keys(home), metrics, warm=(detectors or Words()).warm, **most)
        with serving(app.starlette(), PatientProtocol) as url:
            yield Setup(url, scripted, made, checks, home, metrics)
        log.close()


async def raises(_: Checked) -> Hit:
    raise RuntimeError("a detector that breaks, with a secret of the text in its message")


async def hangs(_: Checked) -> Hit:
    await asyncio.sleep(60)
    return Hit(0.0)


async def garbage(_: Checked) -> Hit:
    return Hit(float("nan"))
