"""Connections to the model server: which lost request goes out once more, and which does not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.calls import Call
from gateway.upstream import HttpUpstream, UpstreamError

ANSWER = json.dumps({"choices": [{"index": 0, "message": {"content": "fine"}, "finish_reason": "stop"}]}).encode()

LOST = "the model server cannot be reached, or broke off"


async def ask(calls: int, answered_on_a_connection: int, *, works: float = 0.0) -> tuple[list[str], int]:
    """Ask a server that closes each connection after that many answers; return the answers, or errors, and the requests seen.

    It works for some seconds on a request that it loses.
    """
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        for answered in range(answered_on_a_connection + 1):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            seen += 1
            if answered < answered_on_a_connection:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER)
        await asyncio.sleep(works)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream = HttpUpstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", key="", seconds=10, base_name="base")
    payload: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
    got = []
    async with server:
        for _ in range(calls):
            try:
                got.append((await upstream.complete(Call("chat/completions", payload, 1), "base")).choices[0].text)
            except UpstreamError as error:
                got.append(str(error))
        await upstream.close()
    return got, seen


@pytest.mark.fast
def test_a_request_goes_out_again_where_the_server_closed_a_connection_between_two() -> None:
    assert asyncio.run(ask(3, answered_on_a_connection=1)) == (["fine"] * 3, 4)


@pytest.mark.fast
def test_a_request_that_may_have_been_worked_on_is_not_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.upstream._AT_ONCE", 0.1)
    assert asyncio.run(ask(2, answered_on_a_connection=1, works=0.3)) == (["fine", LOST], 2)


@pytest.mark.fast
def test_a_request_that_a_new_connection_lost_is_not_sent_twice() -> None:
    assert asyncio.run(ask(1, answered_on_a_connection=0)) == ([LOST], 1)
