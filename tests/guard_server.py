"""A loopback server that speaks the interfaces of guards as they are documented, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass
class Seen:
    """The requests that came: paths, headers in lower case, bodies."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)


@contextmanager
def guard_server(say: Callable[[str, Body], Any]) -> Iterator[Seen]:
    """Serve what `say` makes of each path and body: a JSON value, bytes as they are, a status, (status, value), or seconds to hang."""
    seen, lock = Seen(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.paths.append(self.path)
                seen.headers.append({name.lower(): value for name, value in self.headers.items()})
                seen.bodies.append(body)
            said = say(self.path, body)
            if isinstance(said, float):
                time.sleep(said)
                return
            status, value = (
                said if isinstance(said, tuple) else (said, {"error": {"message": "x"}}) if isinstance(said, int) else (200, said)
            )
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(2)


def chat(content: str, *, top: dict[str, float] | None = None, finish: str = "stop", **message: Any) -> Body:
    """Return a chat completion; `top` are the first token's alternatives."""
    listed = [{"token": token, "logprob": logprob} for token, logprob in (top or {}).items()]
    logprobs = {"content": [{**listed[0], "top_logprobs": listed}]} if listed else None
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}, "logprobs": logprobs}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": {"prompt_tokens": 9}}


def moderation(**scores: float) -> Body:
    """Return an answer of /v1/moderations; a category is true from .3 on, as the service's own thresholds lie below a half."""
    named = {name.replace("__", "/").replace("_", "-"): score for name, score in scores.items()}
    flags = {name: score >= 0.3 for name, score in named.items()}
    result = {"flagged": any(flags.values()), "categories": flags, "category_scores": named}
    return {"id": "modr-1", "model": "omni-moderation-latest", "results": [result]}


def attributes(**scores: float) -> Body:
    """Return an answer of Perspective's comments:analyze."""
    return {
        "attributeScores": {name: {"summaryScore": {"value": score, "type": "PROBABILITY"}} for name, score in scores.items()},
        "languages": ["en"],
        "detectedLanguages": ["en"],
    }
