"""uvicorn's HTTP protocol with a deadline for the head of each request; uvicorn itself waits for ever for the rest of one."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SECONDS_FOR_HEAD = 15.0


class PatientProtocol(HttpToolsProtocol):
    """Closes a connection whose next request has not told all its headers SECONDS_FOR_HEAD after its first byte.

    A new connection has as long for its first request. Between requests, uvicorn's keep-alive decides.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Begin to wait, too, for bytes that begin no request: they end uvicorn's own wait between two."""
        super().data_received(data)
        if self._late is None and not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self._wait()

    def on_message_begin(self) -> None:
        """Begin to wait for the headers."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Stop waiting."""
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._late = self.loop.call_later(SECONDS_FOR_HEAD, self.transport.close)

    def _stop(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None
