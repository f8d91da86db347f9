"""HTTP requests with a deadline for the whole answer, a size limit, no compression, no redirects, and our secrets removed.

Timeouts of HTTP libraries apply to one read, and a server that sends a byte a second never exceeds them. Here the deadline covers the
whole answer, its head included.

Effects: HTTP requests to the given addresses, no others; redirects are not followed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

import httpx2

MAX_BYTES = 8 << 20
"""Largest answer in bytes. A completion of 32,000 tokens with log-probabilities has about 4 MB."""
_SHORTEST_SECRET, _LONG_SEGMENT = 3, 8


class Reply(NamedTuple):
    """An answer, whatever its status; the secrets that were sent are removed from `text`."""

    status: int
    body: bytes
    text: str

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


class TooMuch(httpx2.RemoteProtocolError):
    """The answer is larger than allowed, or compressed."""


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most = stream, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > self._most:
                raise TooMuch(f"the answer is larger than {self._most:,} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class BoundedTransport(httpx2.AsyncBaseTransport):
    """A client's transport that refuses answers of more than `most` bytes and compressed answers."""

    def __init__(self, *, most: int = MAX_BYTES, **options: Any) -> None:
        self._inner, self._most = httpx2.AsyncHTTPTransport(**options), most

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request and return its answer; reading the body enforces the limit."""
        request.headers["Accept-Encoding"] = "identity"
        answer = await self._inner.handle_async_request(request)
        if (packing := answer.headers.get("Content-Encoding", "identity").lower()) not in ("identity", ""):
            await answer.aclose()
            raise TooMuch(f"the answer is packed ({packing[:20]!r}), which was not asked for")
        answer.stream = _Bounded(answer.stream, self._most)
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def ask(
    method: str,
    url: str,
    *,
    seconds: float,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    secrets: Collection[str] = (),
    most: int = MAX_BYTES,
) -> Reply:
    """Return the answer to one request, whatever its status. Proxies from environment variables are not used.

    Raises:
        TimeoutError: the whole answer did not arrive within `seconds`.
        httpx2.TransportError: the server was not reached, broke off, or sent more than `most` bytes.
        httpx2.InvalidURL: `url` is not a URL.
    """
    try:
        # With a port beyond 65,535 the connection would fail with an exception group instead.
        _ = urlsplit(url).port
    except ValueError as error:
        raise httpx2.InvalidURL(str(error)) from None
    return asyncio.run(_ask(method, url, seconds, content, dict(headers or {}), secrets, most))


async def _ask(
    method: str, url: str, seconds: float, content: bytes | None, headers: dict[str, str], secrets: Collection[str], most: int
) -> Reply:
    async with asyncio.timeout(seconds), httpx2.AsyncClient(transport=BoundedTransport(most=most), timeout=seconds) as client:
        answer = await client.request(method, url, content=content, headers=headers, follow_redirects=False)
        return Reply(answer.status_code, answer.content, without_secrets(answer.content.decode("utf-8", "replace"), secrets))


def without_secrets(text: str, secrets: Collection[str]) -> str:
    """Return `text` with `***` for each secret, including its JSON, URL and Base64 forms.

    >>> without_secrets("the key sk-12345678 is wrong", ["sk-12345678"])
    'the key *** is wrong'
    """
    # Longest first: replacing a secret that is part of a longer secret would leave the rest readable.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) < _SHORTEST_SECRET:
            continue
        packed = base64.b64encode(secret.encode()).decode().rstrip("=")
        for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote_plus(secret), packed}:
            text = text.replace(form, "***")
    return text


def secrets_in(url: str) -> list[str]:
    """Return every part of a URL that may be a secret, as written and decoded: a server may echo any of them.

    >>> secrets_in("https://bot:p%40ss@example.com/hook/T0000000?token=1234")
    ['/hook/T0000000', '1234', 'T0000000', 'bot', 'bot:p%40ss', 'bot:p@ss', 'p%40ss', 'p@ss', 'token=1234']
    """
    try:
        parts = urlsplit(url)
        fields = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        return [url]
    found = {parts.username, parts.password, parts.netloc.rpartition("@")[0], parts.path, parts.query, parts.fragment}
    found |= {part.partition("=")[2] for part in parts.query.split("&")} | {value for _, value in fields}
    found |= {part for part in parts.path.split("/") if len(part) >= _LONG_SEGMENT}
    written = {one for one in found if one}
    return sorted(written | {unquote(one) for one in written})


def address(url: str) -> str:
    """Return the part of a URL that may be shown: no name, password, path or query, any of which may hold a token.

    >>> address("https://bot:pw@hooks.example.com:8443/services/T0/B0/secret?token=1")
    'https://hooks.example.com:8443/…'
    """
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{host}{port}{'/…' if parts.path.strip('/') or parts.query else ''}"


def loads(body: bytes | str) -> Any:
    """Return the JSON value of an answer.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or holds NaN or Infinity.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(body, parse_constant=refuse)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
