"""Streams: an answer's text is held back until it is checked, window by window.

A window is checked together with the `overlap` characters that follow it, so that what goes across its end is seen whole before any of it
leaves. As `overlap` is at most `size`, a character is checked at most twice: ahead of its window, and in it. Only something to redact
that goes on beyond the window keeps its text back, and is then checked once for each further window.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from gateway.guard import Guard, StageFindings
from gateway.policy import Action, Stream

_WORD = 40
Check = Callable[[str], Awaitable[StageFindings]]


class Passed(NamedTuple):
    """Text that may leave, and the ruling that stops the stream (None: it goes on)."""

    text: str
    stopped: StageFindings | None = None


class Window:
    """One streamed answer."""

    def __init__(self, check: Check, guard: Guard, stream: Stream) -> None:
        self._check, self._guard, self._stream = check, guard, stream
        self._pending = ""
        self._due = stream.size + stream.overlap
        self.written: list[str] = []
        """What the model wrote, whatever left."""
        self.length = 0
        """Characters of that."""

    def note(self, text: str) -> None:
        """Take what the model wrote, of which nothing leaves."""
        self.written.append(text)
        self.length += len(text)

    async def feed(self, text: str) -> Passed:
        """Take what the model wrote, and return what may leave."""
        self.note(text)
        self._pending += text
        if self._stream.buffer == "whole" or len(self._pending) < self._due:
            return Passed("")
        return await self._release(len(self._pending) - self._stream.overlap)

    async def finish(self) -> Passed:
        """Return the rest."""
        return await self._release(len(self._pending)) if self._pending else Passed("")

    async def _release(self, cut: int) -> Passed:
        ruling = await self._check(self._pending)
        if ruling.strictest not in (Action.ALLOW, Action.REDACT):
            return Passed("", ruling)
        spans = ruling.spans(0)
        if cut < len(self._pending):
            # Half a word may look like another one, and half of a number like none.
            cut = self._pending.rfind(" ", max(0, cut - _WORD), cut) + 1 or cut
            cut = min([cut, *(span.start for span in spans if span.end > cut)])
        leaving, self._pending = self._pending[:cut], self._pending[cut:]
        self._due = len(self._pending) + self._stream.size
        return Passed(self._guard.redacted(leaving, [span for span in spans if span.end <= cut]))
