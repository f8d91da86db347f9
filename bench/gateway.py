"""What the gateway adds: latency, requests a second, time to the first token and memory, beside the bare upstream in the same run.

The upstream answers at once, with a fixed text, so that every millisecond measured is the gateway's, its client's or the machine's.
Variants take turns, round by round. Processes: the upstream, the gateway, and this client, on however many cores there are.

Effects: starts processes that listen on loopback.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

TEXT = "Water boils at a hundred degrees at sea level, and at less on a mountain, since the air is thinner there. " * 4
PROMPTS = ("How do I boil an egg?", "Write a short poem about rain.", "What is the capital of Norway?", "Explain how a lock works.")
_PIECE = 24
_PAUSE = 0.01
POLICIES = {
    "no rules": [],
    "rules": [
        ("jailbreak", "prompt", "jailbreak", "refuse"),
        ("injection", "prompt", "injection", "refuse"),
        ("secrets", "prompt", "secrets", "redact"),
        ("personal", "prompt", "personal_data", "redact"),
        ("said-secrets", "answer", "secrets", "redact"),
        ("said-personal", "answer", "personal_data", "redact"),
        ("leak", "answer", "prompt_leak", "refuse"),
    ],
}
"""Policies measured beside the bundled one, which adds the detectors."""


class Timed(NamedTuple):
    """Times of requests in seconds: to the first byte of the answer's text, to its end, and between frames."""

    first: float
    whole: float
    gaps: tuple[float, ...]


def run(seconds: float, clients: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """Return a row per variant and number of clients."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        upstream = stack.enter_context(_process([sys.executable, "-m", "bench.gateway", "upstream"], {}))
        targets = {"upstream": (upstream[0], upstream[1])}
        for name in (*POLICIES, "detectors"):
            targets[name] = stack.enter_context(_gateway(Path(folder) / name.replace(" ", "-"), name, upstream[0]))
        samples: dict[tuple[str, int, bool], list[Timed]] = {}
        spent: dict[tuple[str, int, bool], float] = {}
        for _ in range(rounds):
            for many in clients:
                for stream in (False, True):
                    for name, (port, _) in targets.items():
                        found, took = asyncio.run(_load(port, many, seconds / rounds, stream))
                        samples.setdefault((name, many, stream), []).extend(found)
                        spent[name, many, stream] = spent.get((name, many, stream), 0.0) + took
        memory = {name: _resident(pid) for name, (_, pid) in targets.items()}
        return [_row(name, many, samples, spent, memory) for many in clients for name in targets]


def _row(
    name: str, many: int, samples: Mapping[Any, list[Timed]], spent: Mapping[Any, float], memory: Mapping[str, float]
) -> dict[str, Any]:
    whole, streamed = samples[name, many, False], samples[name, many, True]
    bare, bare_streamed = samples["upstream", many, False], samples["upstream", many, True]

    def at(values: list[float], share: float) -> float:
        return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))]

    def added(part: str, here: list[Timed], there: list[Timed], share: float) -> float:
        return at([getattr(one, part) for one in here], share) - at([getattr(one, part) for one in there], share)

    gaps = [gap for one in streamed for gap in one.gaps]
    return {
        "variant": name,
        "clients": many,
        "requests_per_second": round(len(whole) / spent[name, many, False], 1),
        "added_ms_p50": round(added("whole", whole, bare, 0.5), 2),
        "added_ms_p99": round(added("whole", whole, bare, 0.99), 2),
        "first_token_added_ms_p50": round(added("first", streamed, bare_streamed, 0.5), 2),
        "frame_gap_ms_p50": round(1000 * statistics.median(gaps), 2) if gaps else None,
        "streams_per_second": round(len(streamed) / spent[name, many, True], 1),
        "resident_mib": round(memory[name]),
    }


async def _load(port: int, clients: int, seconds: float, stream: bool) -> tuple[list[Timed], float]:
    found: list[Timed] = []
    begun = time.perf_counter()

    async def client(number: int) -> None:
        async with _connection(port) as (reader, writer):
            turn = number
            while time.perf_counter() - begun < seconds:
                turn += 1
                found.append(await _ask(reader, writer, PROMPTS[turn % len(PROMPTS)], stream))

    await asyncio.gather(*(client(number) for number in range(clients)))
    return found, time.perf_counter() - begun


@asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, prompt: str, stream: bool) -> Timed:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": stream, "user": prompt}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    begun = time.perf_counter()
    writer.write(head.encode() + body)
    status = await reader.readuntil(b"\r\n\r\n")
    if not status.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"a request failed: {status[:200]!r}")
    headers = dict(line.lower().split(": ", 1) for line in status.decode().split("\r\n")[1:] if ": " in line)
    if "content-length" in headers:
        await reader.readexactly(int(headers["content-length"]))
        now = time.perf_counter() - begun
        return Timed(now, now, ())
    arrivals: list[float] = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunk = await reader.readexactly(size + 2)
        if b'"content":"' in chunk.replace(b'"content": "', b'"content":"') and b'"content":""' not in chunk:
            arrivals.append(time.perf_counter())
    await reader.readexactly(2)
    gaps = tuple(after - before for before, after in zip(arrivals, arrivals[1:], strict=False))
    return Timed(arrivals[0] - begun if arrivals else time.perf_counter() - begun, time.perf_counter() - begun, gaps)


@contextmanager
def _gateway(home: Path, name: str, upstream: int) -> Iterator[tuple[int, int]]:
    home.mkdir(parents=True)
    environment = {
        "ALIGN_HOME": str(home / "state"),
        "ALIGN_GATEWAY__UPSTREAM": f"http://127.0.0.1:{upstream}/v1",
        "ALIGN_GATEWAY__MAX_OPEN": "4096",
    }
    if name in POLICIES:
        rules = [{"id": rule, "stage": stage, "check": check, "action": action} for rule, stage, check, action in POLICIES[name]]
        (home / "policy.yaml").write_text(json.dumps({"version": 1, "rules": rules}))
        environment["ALIGN_GATEWAY__POLICY"] = str(home / "policy.yaml")
    with _process([sys.executable, "-m", "flows.cli", "gateway"], environment) as started:
        yield started


@contextmanager
def _process(command: list[str], environment: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Start a server on a free port; yield its port and process id once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    more = {"ALIGN_GATEWAY__PORT": str(port), "BENCH_PORT": str(port)}
    process = subprocess.Popen(command, env={**os.environ, **environment, **more}, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(_ready(port))
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def _ready(port: int) -> None:
    for _ in range(1200):
        try:
            async with _connection(port) as (reader, writer):
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                if (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200"):
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.1)
    raise RuntimeError("a server did not become ready within two minutes")


def _resident(pid: int) -> float:
    """Return a process's resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _serve_upstream() -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    usage = {"prompt_tokens": 9, "completion_tokens": 90}
    message = {"role": "assistant", "content": TEXT}
    whole = json.dumps({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(TEXT), _PIECE):
            delta = {"index": 0, "delta": {"content": TEXT[start : start + _PIECE]}, "finish_reason": None}
            yield b"data: " + json.dumps({"id": "x", "choices": [delta]}).encode() + b"\n\n"
            await asyncio.sleep(_PAUSE)
        yield (
            b"data: "
            + json.dumps({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}).encode()
            + b"\n\n"
        )
        yield b"data: [DONE]\n\n"

    async def answer(request: Request) -> Response:
        if json.loads(await request.body()).get("stream"):
            return StreamingResponse(pieces(), media_type="text/event-stream")
        return Response(whole, media_type="application/json")

    async def fine(_: Request) -> Response:
        return Response(b"{}", media_type="application/json")

    routes = [Route("/v1/chat/completions", answer, methods=["POST"]), Route("/v1/models", fine), Route("/readyz", fine)]
    uvicorn.run(Starlette(routes=routes), port=int(os.environ["BENCH_PORT"]), log_level="critical", access_log=False)


if __name__ == "__main__":
    _serve_upstream()
