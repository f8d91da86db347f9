"""Streams: an answer's text is held back until it is checked, window by window.

A window is checked with the `overlap` characters before and after it, so that nothing slips through between two windows. As `overlap` is
at most `size`, a character is checked at most three times: ahead of its window, in it, and as the context of the next. Only something to
redact that goes on beyond the window keeps its text back, and is then checked once for each further window.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from gateway.checks import Span
from gateway.guard import Guard, Ruling
from gateway.policy import Action, Stream

_WORD = 40
Judge = Callable[[str], Awaitable[Ruling]]


class Released(NamedTuple):
    """Text that may leave, and the ruling that stops the stream (None: it goes on)."""

    text: str
    stopped: Ruling | None = None


class Window:
    """One streamed answer."""

    def __init__(self, judge: Judge, guard: Guard, stream: Stream) -> None:
        self._judge, self._guard, self._stream = judge, guard, stream
        self._context = self._pending = ""
        self._due = stream.size + stream.overlap
        self.written: list[str] = []
        """What the model wrote, whatever left."""
        self.sent: list[str] = []
        self.rulings: list[Ruling] = []

    @property
    def length(self) -> int:
        """Characters that the model wrote."""
        return sum(map(len, self.written))

    async def feed(self, text: str) -> Released:
        """Take what the model wrote, and return what may leave."""
        self.written.append(text)
        self._pending += text
        if self._stream.release == "whole" or len(self._pending) < self._due:
            return Released("")
        return await self._release(len(self._pending) - self._stream.overlap)

    async def finish(self) -> Released:
        """Return the rest."""
        return await self._release(len(self._pending)) if self._pending else Released("")

    async def _release(self, cut: int) -> Released:
        before = len(self._context)
        ruling = await self._judge(self._context + self._pending)
        self.rulings.append(ruling)
        if ruling.strictest not in (Action.ALLOW, Action.REDACT):
            return Released("", ruling)
        spans = [Span(0, max(span.start - before, 0), span.end - before, span.kind) for span in ruling.spans(0) if span.end > before]
        if cut < len(self._pending):
            # Half a word may look like another one, and half of a number like none.
            cut = self._pending.rfind(" ", max(0, cut - _WORD), cut) + 1 or cut
            cut = min([cut, *(span.start for span in spans if span.end > cut)])
        leaving, self._pending = self._pending[:cut], self._pending[cut:]
        self._due = len(self._pending) + self._stream.size
        self._context = (self._context + leaving)[-self._stream.overlap :]
        text = self._guard.redacted(leaving, [span for span in spans if span.end <= cut])
        self.sent.append(text)
        return Released(text)
