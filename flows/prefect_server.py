"""`python -m flows.prefect_server`: a Prefect server for one state folder's commands and pages, which ends with its starter.

Prefect itself asks API callers for the secret. This module adds a check in front of pages, sockets and API alike: the request's host must
be one of the server's own addresses, and a browser's request must come from one of its own pages. A page of another site whose name was
rebound to 127.0.0.1 therefore gets nothing, not even Prefect's files.

Effects: listens on loopback; writes the port to stdout.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from alignment.parent import end_with, gone

ORIGINS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
_NAMES = ("127.0.0.1", "localhost")
_END_SECONDS = 3
_Message = MutableMapping[str, Any]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]


def own_origins(port: int, configured: str = "") -> list[str]:
    """Return the allowed origins, such as `http://127.0.0.1:4200`, with those in `configured` (comma-separated) except `*`.

    >>> own_origins(4200, "*,https://prefect.example.com")
    ['http://127.0.0.1:4200', 'http://localhost:4200', 'https://prefect.example.com']
    """
    more = [one.strip().rstrip("/") for one in configured.split(",")]
    return [f"http://{name}:{port}" for name in _NAMES] + [one for one in more if one and one != "*"]


class OwnAddressOnly:
    """Refuses, with 403, requests that name another host or come from another site's page."""

    def __init__(self, app: _App, origins: Iterable[str]) -> None:
        self.app = app
        self.origins = frozenset(origins)
        self.hosts = frozenset(origin.split("://", 1)[1] for origin in self.origins)

    async def __call__(self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[..., Awaitable[None]]) -> None:
        """Answer one request, or one socket's opening handshake."""
        if scope["type"] == "lifespan" or self._is_own(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Closed before it is accepted: the server then answers the handshake with 403.
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            words = b'{"detail": "This server answers at its own address and its own pages only."}'
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(words)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": words})

    def _is_own(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        origins = [value.decode("latin-1").lower() for name, value in headers if name == b"origin"]
        return len(hosts) == 1 and hosts[0] in self.hosts and all(origin in self.origins for origin in origins)


_FOR_ALL = (b"access-control-allow-origin", b"*")
_FRAMED_BY_NOBODY = (b"content-security-policy", b"frame-ancestors 'none'")


def _kept_from_other_pages(app: _App) -> _App:
    """Wrap `app` so that other pages can neither frame nor read it: Prefect's refusal of a wrong CSRF token would let all read it."""

    async def answer(scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[..., Awaitable[None]]) -> None:
        async def tell(message: _Message) -> None:
            if message["type"] == "http.response.start":
                kept = [header for header in message.get("headers", ()) if tuple(header) != _FOR_ALL]
                message["headers"] = [*kept, _FRAMED_BY_NOBODY]
            await send(message)

        await app(scope, receive, tell)

    return answer


def _end_in_time(*, orphaned: bool) -> None:
    # Prefect's services and open sockets may take longer to end than the waiting process allows; an orphan has no clients any more.
    timer = threading.Timer(1 if orphaned else 2 * _END_SECONDS, os._exit, [0])
    timer.daemon = True
    timer.start()


def main() -> None:
    """Serve until stopped, or until the parent process is gone."""
    parser = argparse.ArgumentParser(prog="python -m flows.prefect_server", description="A Prefect server behind a lock.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which stdout tells")
    parser.add_argument("--parent", type=int, required=True, help="stop when this process is gone")
    parser.add_argument("--short", action="store_true", help="for one command: no pages, no scheduler")
    arguments = parser.parse_args()
    end_with(arguments.parent)
    if not os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        raise SystemExit("error: PREFECT_SERVER_API_AUTH_STRING is not set; 'align serve' sets it to the secret of the state folder")
    listener = socket.create_server(("127.0.0.1", arguments.port))
    port = int(listener.getsockname()[1])
    origins = own_origins(port, os.environ.get(ORIGINS, ""))
    os.environ[ORIGINS] = ",".join(origins)
    os.environ["PREFECT_UI_API_URL"] = f"http://127.0.0.1:{port}/api"
    print(port, flush=True)  # noqa: T201
    _serve(listener, origins, arguments.parent, short=arguments.short)


def _serve(listener: socket.socket, origins: list[str], parent: int, *, short: bool) -> None:
    started_by = os.getppid()
    # Prefect reads its settings on import.
    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            # A service manager signals all processes at once, but runs that are ending still report here. SIGINT is for the starter.
            orphaned = gone(parent, started_by)
            if sig == signal.SIGTERM and not orphaned:
                return
            _end_in_time(orphaned=orphaned)
            super().handle_exit(sig, frame)

    app = OwnAddressOnly(_kept_from_other_pages(create_app(ephemeral=short, final=True)), origins)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_END_SECONDS, ws_ping_interval=20, ws_ping_timeout=20)
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
