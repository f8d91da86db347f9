"""The gateway's HTTP: who may ask, how much, and every answer as JSON or as server-sent events.

No text of a request appears in a server log, and what is not known here is refused: a path or a form that nobody checks must not pass.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from opentelemetry.trace import Span
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from alignment.errors import ConfigError
from gateway.calls import Failure, Wire
from gateway.exchange import ClientReply
from gateway.keys import Key, Keys
from gateway.metrics import Metrics
from gateway.moderations import moderation
from gateway.service import Pipeline
from gateway.tracing import ended, request_span
from gateway.wire import WIRES
from gateway.wire.sse import openai_error

_LOOPBACK, _HERE = frozenset(("127.0.0.1", "localhost", "[::1]")), frozenset(("127.0.0.1", "::1"))
_PORT = re.compile(r":\d{1,5}\Z")
_SECONDS_TO_SEND = 30
_STREAM = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_DEEP = 64


class App:
    """The routes of one gateway. With `locked` a key is needed even if there is none, as beyond loopback."""

    def __init__(
        self,
        gateway: Pipeline,
        keys: Keys,
        metrics: Metrics,
        *,
        most_bytes: int,
        most_open: int,
        locked: bool,
        warm: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._gateway, self._keys, self._metrics = gateway, keys, metrics
        self._most_bytes, self._most_open, self._warm = most_bytes, most_open, warm
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._open, self._locked = 0, locked
        self._wires = {wire.name: wire for wire in WIRES}
        self._warmed: asyncio.Task[None] | None = None

    def starlette(self) -> Starlette:
        """Return the application."""
        routes = [Route(wire.path, self._answers(wire), methods=["POST"]) for wire in WIRES]
        routes += [
            Route("/v1/moderations", self._guarded(self._moderations), methods=["POST"]),
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/held/{name}", self._guarded(self._held), methods=["GET"]),
            Route("/livez", _alive, methods=["GET"]),
            Route("/readyz", self._ready, methods=["GET"]),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers={404: _unknown, 405: _unknown, 500: _broken})

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._warmed = asyncio.create_task(self._warm())
        yield
        self._warmed.cancel()
        await self._gateway.upstream.close()

    def _answers(self, wire: Wire) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            with request_span(wire.name, request.headers) as span:
                return await self._answered(wire, request, span)

        return answer

    async def _answered(self, wire: Wire, request: Request, span: Span) -> Response:
        status, action, release, streams = 500, "error", "", False
        response: Response
        try:
            key = self._client(request)
            with self._counted():
                call = wire.parse(await self._body(request))
                reply = await self._gateway.answer(wire, call, key.name)
            status, action, release = reply.status, reply.exchange.action.value, reply.exchange.release
            headers = {"x-align-exchange": reply.exchange.id, "x-align-release": release}
            if streams := reply.stream is not None:
                response = StreamingResponse(self._while_open(wire, reply), media_type="text/event-stream", headers=headers | _STREAM)
            else:
                response = _json(reply.status, reply.body, headers | {"x-align-action": action})
        except Failure as refused:
            status, action = refused.status, refused.code
            response = _error(refused, wire.error(refused))
        finally:
            ended(span, status, action, release)
            if not streams:
                self._metrics.answered(wire.name, status, action)
        return response

    def _guarded(self, handle: Callable[[Request, Key], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                key = self._client(request)
                with self._counted():
                    return await handle(request, key)
            except Failure as refused:
                return _error(refused, openai_error(refused))

        return answer

    @contextmanager
    def _counted(self, *, limited: bool = True) -> Iterator[None]:
        """Count a request while it is received and answered.

        Raises:
            Failure: too many are.
        """
        if limited and self._open >= self._most_open:
            raise Failure(503, "overloaded", f"{self._open} requests are being answered; try again later", retry_after=1)
        self._open += 1
        self._metrics.open.inc()
        try:
            yield
        finally:
            self._open -= 1
            self._metrics.open.dec()

    async def _while_open(self, wire: Wire, reply: ClientReply) -> AsyncIterator[bytes]:
        stream: Any = reply.stream
        with self._counted(limited=False):
            try:
                async for frame in stream:
                    yield frame
            finally:
                await stream.aclose()
                # What becomes of a stream is known when it ends.
                self._metrics.answered(wire.name, reply.status, reply.exchange.action.value)

    def _client(self, request: Request) -> Key:
        """Return who asks.

        Raises:
            Failure: a page of a browser asks, the key is unknown, or it asks too often.
        """
        if "origin" in request.headers or request.headers.get("sec-fetch-mode") in ("cors", "no-cors", "navigate"):
            raise Failure(403, "browser_request", "a page in a browser may not use this gateway: its key would be everybody's")
        try:
            known = self._keys.known
        except ConfigError as error:
            raise Failure(
                503, "keys_unavailable", "the keys of this gateway cannot be read; its operator runs 'align gateway key list'"
            ) from error
        # Once there was a key, one is needed: taking the last one back must not open the door.
        self._locked = self._locked or bool(known)
        if not self._locked:
            host = _PORT.sub("", request.headers.get("host", ""))
            if host not in _LOOPBACK or (request.client is None or request.client.host not in _HERE):
                raise Failure(403, "unknown_host", "without keys this gateway serves this machine only; 'align gateway key add NAME'")
            return Key("anonymous", "")
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        presented = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        key = self._keys.find(presented) if presented else None
        if key is None:
            raise Failure(401, "invalid_api_key", "the key is missing or unknown; send it as 'Authorization: Bearer KEY' or 'x-api-key'")
        if key.per_minute and not self._limiter.hit(item := RateLimitItemPerMinute(key.per_minute), key.sha256):
            wait = max(1, round(self._limiter.get_window_stats(item, key.sha256).reset_time - time.time()))
            raise Failure(429, "rate_limit_exceeded", f"{key.per_minute} requests a minute are allowed; try again later", retry_after=wait)
        return key

    async def _body(self, request: Request) -> Mapping[str, Any]:
        """Return the body of a request.

        Raises:
            Failure: it is no JSON object, too large, or comes too slowly.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Failure(415, "unsupported_media_type", "the body must be application/json")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Failure(415, "unsupported_encoding", "a compressed body is not read")
        parts, size = [], 0
        try:
            async with asyncio.timeout(_SECONDS_TO_SEND):
                async for part in request.stream():
                    size += len(part)
                    if size > self._most_bytes:
                        raise Failure(
                            413, "body_too_large", f"the body is larger than {self._most_bytes:,} bytes, [gateway] max_body_bytes"
                        )
                    parts.append(part)
        except TimeoutError:
            raise Failure(408, "body_too_slow", f"the body did not arrive within {_SECONDS_TO_SEND} s") from None
        except ClientDisconnect:
            raise Failure(400, "client_left", "the client left before its body had arrived") from None
        try:
            found = orjson.loads(b"".join(parts))
        except orjson.JSONDecodeError as error:
            raise Failure(400, "invalid_json", f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
        if not isinstance(found, dict):
            raise Failure(400, "invalid_json", "the body is JSON, but no object")
        if not _shallow(found, _DEEP):
            raise Failure(400, "invalid_json", f"the body is nested deeper than {_DEEP} levels")
        return found

    async def _moderations(self, request: Request, _: Key) -> Response:
        body = await self._body(request)
        return _json(200, await moderation(self._gateway.guard, body), {})

    async def _models(self, request: Request, _: Key) -> Response:
        served = self._gateway.releases.now()
        names = dict.fromkeys(filter(None, (served["champion"], served["canary"])))
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "align"} for name in names]
        return _json(200, {"object": "list", "data": data}, {})

    async def _held(self, request: Request, key: Key) -> Response:
        status, body = await self._gateway.outcome(self._wires, request.path_params["name"], key.name)
        return _json(status, body, {"Retry-After": "5"} if status == 202 else {})

    async def _ready(self, _: Request) -> Response:
        troubles = []
        if self._warmed is None or not self._warmed.done():
            troubles.append("the detectors are loading")
        elif not self._warmed.cancelled() and self._warmed.exception():
            troubles.append(f"the detectors cannot be loaded ({type(self._warmed.exception()).__name__}); run 'align doctor'")
        troubles += filter(None, [await asyncio.to_thread(self._gateway.log.probe), await self._gateway.upstream.ready()])
        return _json(503 if troubles else 200, {"ready": not troubles, "troubles": troubles}, {})


def _shallow(value: Any, levels: int) -> bool:
    """Return whether a JSON value is nested at most `levels` deep."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_shallow(one, levels - 1) for one in inner)


def _json(status: int, body: Any, headers: Mapping[str, str]) -> Response:
    return Response(orjson.dumps(body), status, dict(headers), "application/json")


def _error(refused: Failure, body: Mapping[str, Any]) -> Response:
    headers = {"Retry-After": str(refused.retry_after)} if refused.retry_after else {}
    return _json(refused.status, body, headers)


async def _alive(_: Request) -> Response:
    return _json(200, {"alive": True}, {})


async def _unknown(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    known = ", ".join(wire.path for wire in WIRES)
    refused = Failure(
        status, "unknown_endpoint", f"this gateway does not serve that; it would pass unchecked. Served: {known}, /v1/moderations"
    )
    return _error(refused, openai_error(refused))


async def _broken(request: Request, error: Exception) -> Response:
    refused = Failure(500, "internal_error", "the gateway failed on this request; nothing was answered")
    return _error(refused, openai_error(refused))
