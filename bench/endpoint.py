"""An OpenAI-compatible endpoint on loopback that counts its calls, answers after a set time, and can misbehave.

It judges by words: the answer that shares more words with the request is better. `python -m bench.endpoint PORT` serves it;
`GET /counts` returns the numbers of requests and answers; `POST /faults` sets the faults of the next calls.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_FENCED = re.compile(r"<data-([0-9a-f]+)>\n(.*?)\n</data-\1>", re.S)


def judged(text: str) -> str:
    """Return the letter of the better answer in a judge's question."""
    request, first, second = (part.lower() for _, part in _FENCED.findall(text)[:3])
    wanted = set(re.findall(r"\w+", request))
    shares = []
    for answer in (first, second):
        words = re.findall(r"\w+", answer)
        shares.append(len(wanted & set(words)) / max(len(words), 1) ** 0.5)
    return "A" if shares[0] > shares[1] else "B"


class Endpoint:
    """The server's state: its counts, and the faults to show, one per call."""

    def __init__(self, latency: float = 0.0, *, logprobs: bool = True) -> None:
        self.latency, self.logprobs = latency, logprobs
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.billed: set[str] = set()
        self.active = self.most_active = 0
        self.authorizations: set[str] = set()
        self.faults: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._answer(lines[0].split()[1], headers, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        if path == "/counts":
            return await _send(writer, 200, self.counts())
        if path == "/faults":
            self.faults += json.loads(body)
            return await _send(writer, 200, {})
        key = headers.get("idempotency-key", "")
        self.asked[key] += 1
        self.authorizations.add(headers.get("authorization", ""))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "hang up":
            return False
        if fault == "hang":
            await asyncio.sleep(30)
            return False
        if fault in ("429", "500", "401", "400"):
            more = {"Retry-After": "1"} if fault == "429" else {}
            said = f"you sent {headers.get('authorization', '')}"
            return await _send(writer, int(fault), {"error": {"message": said}}, more=more)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        await asyncio.sleep(self.latency)
        self.active -= 1
        self.billed.add(key)
        sent = await _send(writer, 200, self._completion(json.loads(body)), fault=fault)
        self.answered[key] += sent and not fault
        return sent

    def _completion(self, asked: dict[str, Any]) -> dict[str, Any]:
        said = asked["messages"][-1]["content"]
        letter = judged(said) if _FENCED.search(said) else "hello"
        logprobs = None
        if asked.get("logprobs") and self.logprobs:
            other = "B" if letter == "A" else "A"
            top = [{"token": letter, "logprob": -0.1}, {"token": other, "logprob": -2.4}]
            logprobs = {"content": [{"token": letter, "logprob": -0.1, "top_logprobs": top}]}
        elif "=<0-10>" in said:
            letter = "A=9 B=2" if letter == "A" else "A=2 B=9"
        choice = {"index": 0, "message": {"role": "assistant", "content": letter}, "logprobs": logprobs, "finish_reason": "stop"}
        tokens = len(said) // 4
        usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice], "usage": usage}

    def counts(self) -> dict[str, Any]:
        """Return calls asked and answered, distinct calls, those asked or answered more than once, and the most at once."""
        return {
            "asked": self.asked.total(),
            "answered": self.answered.total(),
            "distinct": len(self.asked),
            "billed": len(self.billed),
            "asked_twice": sum(number > 1 for number in self.asked.values()),
            "answered_twice": sum(number > 1 for number in self.answered.values()),
            "most_active": self.most_active,
            "authorizations": sorted(self.authorizations),
        }


async def _send(writer: asyncio.StreamWriter, status: int, value: Any, *, more: dict[str, str] | None = None, fault: str = "") -> bool:
    body = json.dumps(value).encode()
    if fault == "truncated":
        body = body[: len(body) // 2]
    length = len(body) * 2 if fault == "cut" else len(body)
    head = {"Content-Type": "application/json", "Content-Length": str(length), **(more or {})}
    lines = "".join(f"{name}: {each}\r\n" for name, each in head.items())
    writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode())
    if fault == "slow":
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.2)
    else:
        writer.write(body)
    await writer.drain()
    return fault != "cut"


@contextmanager
def running(latency: float = 0.0, *, logprobs: bool = True) -> Iterator[str]:
    """Serve in a separate process; yield the base URL."""
    import subprocess

    child = subprocess.Popen([sys.executable, "-m", "bench.endpoint", str(latency), str(int(logprobs))], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        yield f"http://127.0.0.1:{int(child.stdout.readline())}/v1"
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def counts(url: str) -> dict[str, Any]:
    """Return the counts of the endpoint at `url`."""
    import urllib.request

    with urllib.request.urlopen(url.removesuffix("/v1") + "/counts") as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def fail(url: str, *faults: str) -> None:
    """Make the next calls of the endpoint at `url` fail."""
    import urllib.request

    urllib.request.urlopen(url.removesuffix("/v1") + "/faults", data=json.dumps(faults).encode()).close()


async def _main(latency: float, logprobs: bool) -> None:
    server = await asyncio.start_server(Endpoint(latency, logprobs=logprobs).serve, "127.0.0.1", 0, limit=2**20, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1]), bool(int(sys.argv[2]))))
