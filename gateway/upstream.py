"""The model server behind the gateway, over HTTP.

An answer in a form that is not known here is an error, not an answer: it could carry text that no check reads.

aiohttp sends the requests: with a hundred open at once, httpx spends a quarter of the gateway's time on looking for a free connection.

Effects: HTTP requests to the configured server, none to a proxy or to where it redirects.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import aiohttp
import orjson

from alignment.http import loads
from alignment.release import BASE
from gateway.calls import Call, Choice, Completion, End, Event, Failure, Text, TokenCounts, Tool, ToolCall, content_text
from gateway.tracing import headers_of_call

MAX_ANSWER = 32 << 20
"""Largest answer in bytes, whole or streamed."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")
_DONE = "data: [DONE]"
_AT_ONCE = 1.0
"""Seconds within which a connection that was closed before a request shows it."""
_DROPPED = frozenset(
    ("role", "reasoning", "reasoning_content", "annotations", "refusal", "content", "tool_calls", "audio", "function_call")
)
_FINISHES = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "eos": "stop",
    "abort": "length",
}


class UpstreamError(Exception):
    """The upstream gave no answer that can be served; `refused` is what the client gets."""

    def __init__(self, status: int, message: str, *, code: str = "upstream_error") -> None:
        super().__init__(message)
        self.refused = Failure(status, code, message)


class _TooMuch(Exception):
    """The answer is larger than allowed."""


class Upstream(Protocol):
    """Something that answers calls, under the name of a release."""

    async def complete(self, call: Call, release: str) -> Completion:
        """Return the whole answer.

        Raises:
            UpstreamError: there is none.
        """
        ...

    def stream(self, call: Call, release: str) -> AsyncIterator[Event]:
        """Yield an answer as it is written: texts, whole tool calls, one `End` for each answer, at last the `TokenCounts`.

        Raises:
            UpstreamError: it breaks off.
        """
        ...

    async def ready(self) -> str:
        """Return why it cannot answer now, or ''."""
        ...

    async def close(self) -> None:
        """Let everything go."""
        ...


class HttpUpstream:
    """An OpenAI-compatible server. `seconds` is the deadline for a whole answer; `base_name` is the base model's name there."""

    def __init__(self, base_url: str, *, key: str, seconds: float, base_name: str, connections: int = 200) -> None:
        self._url, self._base_name = base_url.rstrip("/"), base_name
        self._seconds, self._connections = seconds, connections
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})

    @cached_property
    def _client(self) -> aiohttp.ClientSession:
        return self._session(aiohttp.TCPConnector(limit=self._connections))

    @cached_property
    def _fresh(self) -> aiohttp.ClientSession:
        return self._session(aiohttp.TCPConnector(limit=self._connections, force_close=True))

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        # It belongs to the event loop that runs when it is made. Cookies of one user's answer must not go out with another's request.
        return aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[_tells_of_reuse()],
        )

    async def _post(self, call: Call, release: str, *, stream: bool) -> aiohttp.ClientResponse:
        """Send a call and return the head of its answer.

        Raises:
            UpstreamError: the server declines.
            ValueError: the answer is compressed, which was not asked for.
        """
        body = orjson.dumps(self._body(call, release, stream=stream))
        headers = {"Content-Type": "application/json"} | headers_of_call()
        answer = await self._head(f"{self._url}/{call.path}", body, headers)
        if answer.status != 200:
            answer.close()
            raise _declined(answer.status)
        if answer.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            answer.close()
            raise ValueError("a compressed answer")
        return answer

    async def _head(self, url: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Send a request and return the head of its answer.

        A server may close an idle connection at the moment a request goes out on it (RFC 9112, section 9.3.1). A request that an old
        connection loses at once goes out again, on a new one. What is lost later, or on a new one, may have been worked on.
        """
        told: dict[str, bool] = {}
        begun = time.monotonic()
        try:
            return await self._client.post(url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=told)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not told.get("reused") or time.monotonic() - begun > _AT_ONCE:
                raise
        return await self._fresh.post(url, data=body, headers=headers, allow_redirects=False)

    async def complete(self, call: Call, release: str) -> Completion:
        """See `Upstream.complete`."""
        try:
            async with asyncio.timeout(self._seconds), await self._post(call, release, stream=False) as answer:
                body = b"".join([part async for part in _pieces(answer)])
            return _completion(loads(body), call)
        except (TimeoutError, aiohttp.ClientError, _TooMuch) as error:
            raise self._lost(error) from error
        except (ValueError, KeyError, TypeError, AttributeError, Failure) as error:
            raise UpstreamError(502, "the model server answered in a form that cannot be checked") from error

    async def stream(self, call: Call, release: str) -> AsyncIterator[Event]:
        """See `Upstream.stream`."""
        parts = _Parts(call.n)
        # Not `asyncio.timeout`: a generator's steps may run in different tasks.
        ends = time.monotonic() + self._seconds
        try:
            async with await asyncio.wait_for(self._post(call, release, stream=True), self._seconds) as answer:
                lines = _lines(_pieces(answer))
                while (line := await asyncio.wait_for(anext(lines, _DONE), max(0.001, ends - time.monotonic()))) != _DONE:
                    # Comments and names of events carry no text.
                    if line.startswith("data:"):
                        for event in parts.read(loads(line[5:])):
                            yield event
                    elif line and not line.startswith((":", "event:", "id:", "retry:")):
                        raise ValueError("not server-sent events")
        except (TimeoutError, aiohttp.ClientError, _TooMuch) as error:
            raise self._lost(error) from error
        except (ValueError, KeyError, TypeError, AttributeError, Failure) as error:
            raise UpstreamError(502, "the model server streamed in a form that cannot be checked") from error
        if not parts.complete:
            raise UpstreamError(502, "the model server's stream broke off")
        yield parts.usage

    async def ready(self) -> str:
        """See `Upstream.ready`."""
        try:
            async with asyncio.timeout(min(self._seconds, 5)), self._client.get(f"{self._url}/models", allow_redirects=False) as answer:
                return "" if answer.status == 200 else f"the model server answers with status {answer.status}"
        except (TimeoutError, aiohttp.ClientError) as error:
            return f"the model server cannot be reached ({type(error).__name__})"

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._client.close()
        await self._fresh.close()

    def _body(self, call: Call, release: str, *, stream: bool) -> dict[str, Any]:
        body = {**call.payload, "model": self._base_name if release == BASE else release}
        return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})

    def _lost(self, error: BaseException) -> UpstreamError:
        if isinstance(error, TimeoutError):
            return UpstreamError(504, f"the model server did not answer within {self._seconds:g} s", code="upstream_timeout")
        if isinstance(error, _TooMuch):
            return UpstreamError(502, f"the model server's answer is larger than {MAX_ANSWER >> 20} MiB")
        return UpstreamError(502, "the model server cannot be reached, or broke off")


def _tells_of_reuse() -> aiohttp.TraceConfig:
    """Return a trace that notes in a request's context whether its connection had served another one."""

    async def note(_session: aiohttp.ClientSession, trace: Any, _params: aiohttp.TraceConnectionReuseconnParams) -> None:
        if trace.trace_request_ctx is not None:
            trace.trace_request_ctx["reused"] = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(note)
    return config


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield an answer's body as it arrives.

    Raises:
        _TooMuch: it is larger than MAX_ANSWER.
    """
    size = 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER:
            raise _TooMuch
        yield part


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield lines that end with a line feed: JSON may hold other signs that some take for an end of line."""
    left, text = "", codecs.getincrementaldecoder("utf-8")("replace")
    async for part in parts:
        *lines, left = (left + text.decode(part)).split("\n")
        for line in lines:
            yield line.rstrip("\r")
    yield left.rstrip("\r")


def _declined(status: int) -> UpstreamError:
    if status == 429:
        return UpstreamError(429, "the model server is busy; try again later", code="upstream_busy")
    if status in (400, 404, 413, 422):
        return UpstreamError(400, f"the model server refused the request with status {status}", code="upstream_refused")
    return UpstreamError(502, f"the model server answered with status {status}")


def _completion(body: Mapping[str, Any], call: Call) -> Completion:
    choices = sorted((_choice(raw, call) for raw in body["choices"]), key=lambda one: one.index)
    if [one.index for one in choices] != list(range(call.n)):
        raise ValueError(f"{len(choices)} answers instead of {call.n}")
    return Completion(new_id(), int(time.time()), "", tuple(choices), _usage(body.get("usage")))


def _choice(raw: Mapping[str, Any], call: Call) -> Choice:
    finish = _FINISHES[raw.get("finish_reason") or "stop"]
    if call.path == "completions":
        return Choice(int(raw["index"]), _text(raw["text"]), (), finish)
    message = raw["message"]
    _only_known(message)
    tools = tuple(_tool(one) for one in message.get("tool_calls") or ())
    return Choice(
        int(raw["index"]), content_text({"content": message.get("content")}) or _text(message.get("refusal") or ""), tools, finish
    )


def _only_known(message: Mapping[str, Any]) -> None:
    unknown = [key for key, value in message.items() if key not in _DROPPED and value not in (None, "", [], {})]
    if unknown or message.get("audio") or message.get("function_call"):
        raise ValueError(f"an answer with {', '.join(unknown) or 'audio or a function_call'}")


def _text(value: Any) -> str:
    """Return a text, with halves of a sign that JSON wrote apart joined.

    Raises:
        TypeError, ValueError: it is no text, or has half of a sign.
    """
    if not isinstance(value, str):
        raise TypeError("a text is needed")
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16")


def _tool(raw: Mapping[str, Any]) -> ToolCall:
    if raw.get("type", "function") != "function":
        raise ValueError("a tool call that is no function's")
    return _named(_text(raw["function"]["name"]), _text(raw["function"].get("arguments") or ""))


def _named(name: str, arguments: str) -> ToolCall:
    """Return a tool call under an id of ours; a name that is none could carry a message.

    Raises:
        ValueError: the name is none.
    """
    if not _NAME.match(name):
        raise ValueError("a tool's name that is none")
    return ToolCall(f"call_{new_id()}", name, arguments)


def _usage(raw: Any) -> TokenCounts:
    raw = raw if isinstance(raw, dict) else {}
    return TokenCounts(int(raw.get("prompt_tokens") or 0), int(raw.get("completion_tokens") or 0))


class _Parts:
    """Puts the chunks of a stream together. Tool calls are given out whole, when their answer ends."""

    def __init__(self, n: int) -> None:
        self._n, self._ended = n, set[int]()
        self._tools: dict[int, dict[int, ToolCall]] = {}
        self._half: dict[int, str] = {}
        self.usage = TokenCounts()

    @property
    def complete(self) -> bool:
        """Whether every answer has ended."""
        return len(self._ended) == self._n

    def read(self, chunk: Mapping[str, Any]) -> list[Event]:
        """Return the events of a chunk.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it has another form.
        """
        if chunk.get("error"):
            raise ValueError("the stream holds an error")
        if chunk.get("usage"):
            self.usage = _usage(chunk["usage"])
        events: list[Event] = []
        for raw in chunk["choices"]:
            events += self._read(raw)
        return events

    def _read(self, raw: Mapping[str, Any]) -> list[Event]:
        index = int(raw["index"])
        if not 0 <= index < self._n or index in self._ended:
            raise ValueError(f"answer {index} was not asked for, or had ended")
        events: list[Event] = []
        if "text" in raw:
            text = self._whole(index, raw["text"])
        else:
            delta = raw["delta"]
            _only_known(delta)
            text = self._whole(index, delta.get("content") or "") + _text(delta.get("refusal") or "")
            for part in delta.get("tool_calls") or ():
                self._add(index, part)
        if text:
            events.append(Text(index, text))
        if raw.get("finish_reason"):
            self._ended.add(index)
            tools = self._tools.get(index, {})
            if self._half.get(index):
                raise ValueError("half of a sign at the end of an answer")
            made = [_named(tools[place].name, _text(tools[place].arguments)) for place in sorted(tools)]
            events += [Tool(index, number, call) for number, call in enumerate(made)]
            events.append(End(index, _FINISHES[raw["finish_reason"]]))
        return events

    def _add(self, index: int, part: Mapping[str, Any]) -> None:
        tools = self._tools.setdefault(index, {})
        before = tools.get(int(part["index"]), ToolCall("", "", ""))
        function = part.get("function") or {}
        if part.get("type", "function") not in ("function", None):
            raise ValueError("a tool call that is no function's")
        tools[int(part["index"])] = ToolCall(
            "",
            before.name + _text(function.get("name") or ""),
            before.arguments + str(function.get("arguments") or ""),
        )

    def _whole(self, index: int, piece: Any) -> str:
        """Return a piece of text; half of a sign at its end waits for the other half."""
        if not isinstance(piece, str):
            raise TypeError("a text is needed")
        piece = self._half.pop(index, "") + piece
        if piece and "\ud800" <= piece[-1] <= "\udbff":
            self._half[index], piece = piece[-1], piece[:-1]
        return _text(piece)


def new_id() -> str:
    """Return the id of an answer."""
    return uuid.uuid4().hex
