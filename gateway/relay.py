"""Streams: every event of the upstream passes a window, and the end is sent when the exchange is in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from gateway.calls import Call, Choice, Completion, End, Event, Failure, Frames, Text, TokenCounts, Tool, ToolCall, Wire
from gateway.exchange import Delivery, Exchange
from gateway.guard import StageFindings
from gateway.policy import Action
from gateway.upstream import UpstreamError
from gateway.vetting import Vetting
from gateway.windows import Window

Log = Callable[[Sequence[Delivery], str | None], Awaitable[None]]
"""Writes the answers of an exchange to the log, with why they are incomplete, or None; raises `Failure` if that fails."""
_left_behind: set[asyncio.Task[None]] = set()


async def relay(
    frames: Frames, exchange: Exchange, sent: Call, vetting: Vetting, events: AsyncIterator[Event], log: Log
) -> AsyncIterator[bytes]:
    """Yield the frames of a stream, as far as they are checked. A stream that broke off ends with an error."""
    answers = [StreamedAnswer(vetting, exchange, sent, index) for index in range(exchange.call.n)]
    logged, usage = False, TokenCounts()
    try:
        for frame in frames.start():
            yield frame
        try:
            async for event in events:
                if isinstance(event, TokenCounts):
                    usage = event
                    continue
                for given in await answers[event.index].take(event):
                    for frame in frames.event(given):
                        yield frame
                # What follows the last end is the usage; the rest of an answer that was stopped is nobody's.
                if all(answer.over for answer in answers) and any(answer.cut or answer.finish == "content_filter" for answer in answers):
                    break
        except UpstreamError as error:
            logged = True
            await _surely(_quietly(log([answer.sent() for answer in answers], error.refused.code)))
            for frame in frames.failed(error.refused):
                yield frame
            return
        logged = True
        try:
            await _surely(log([answer.sent() for answer in answers], "cut" if any(answer.cut for answer in answers) else None))
        except Failure as refused:
            for frame in frames.failed(refused):
                yield frame
            return
        for answer in answers:
            for frame in frames.event(End(answer.index, answer.finish)):
                yield frame
        for frame in (*frames.event(usage), *frames.stop()):
            yield frame
    finally:
        if not logged:
            _begun(_quietly(log([answer.sent() for answer in answers], "client_left")))
        with suppress(BaseException):
            await events.aclose()  # type: ignore[attr-defined]


async def _surely(work: Awaitable[None]) -> None:
    """Wait for a log's lines; if the client leaves meanwhile, they are written all the same."""
    await asyncio.shield(_begun(work))


async def _quietly(work: Awaitable[None]) -> None:
    with suppress(Failure):
        await work


def _begun(work: Awaitable[None]) -> asyncio.Task[None]:
    async def run() -> None:
        await work

    task = asyncio.create_task(run())
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)
    return task


async def after(first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """Yield an event that was taken already, then the others."""
    try:
        yield first
        async for event in rest:
            yield event
    finally:
        with suppress(BaseException):
            await rest.aclose()  # type: ignore[attr-defined]


async def whole_stream(wire: Wire, call: Call, completion: Completion) -> AsyncIterator[bytes]:
    """Yield an answer that was there at once, as a stream."""
    frames = wire.frames(call, completion)
    events = [event for choice in completion.choices for event in (Text(choice.index, choice.text), End(choice.index, choice.finish))]
    for frame in frames.start():
        yield frame
    for event in (*events, completion.usage):
        for frame in frames.event(event):
            yield frame
    for frame in frames.stop():
        yield frame


class StreamedAnswer:
    """One streamed answer: what was written, what left, and how it ends."""

    def __init__(self, vetting: Vetting, exchange: Exchange, sent: Call, index: int) -> None:
        self._vetting, self._exchange, self._call, self.index = vetting, exchange, sent, index
        self._policy = vetting.guard.policy.stream
        self._window = Window(self._check, vetting.guard, self._policy)
        self._tools_written: list[ToolCall] = []
        self._tools: list[ToolCall] = []
        self._left: list[str] = []
        self._stopped: StageFindings | None = None
        self.over = self.cut = False
        self.finish = "stop"

    async def _check(self, text: str) -> StageFindings:
        ruling = await self._vetting.guard.answer(self._exchange.call, (text,))
        self._note(ruling)
        return ruling

    def _note(self, ruling: StageFindings) -> None:
        if ruling.findings:
            self._exchange.answered.append(ruling)

    async def take(self, event: Event) -> list[Event]:
        """Return what may leave after an event; ends are sent later."""
        if self.over:
            return []
        match event:
            case Text(_, text):
                return await self._text(text)
            case Tool():
                return await self._tool(event)
            case End(_, finish):
                return await self._end(finish)
        return []

    async def _text(self, text: str) -> list[Event]:
        if self._stopped:
            # Only a rewrite waits for the rest.
            self._window.note(text)
            return []
        if self._window.length + len(text) > self._policy.max_characters:
            self.over = self.cut = True
            events = await self._rest()
            self.finish = "content_filter" if self._stopped else "length"
            return events
        passed = await self._window.feed(text)
        return await self._stop(passed.stopped) if passed.stopped else self._give(passed.text)

    async def _tool(self, event: Tool) -> list[Event]:
        self._tools_written.append(event.call)
        before = [] if self._stopped else await self._rest()
        if self._stopped:
            return before
        choice = Choice(self.index, "", (event.call,))
        ruling = await self._vetting.guard.answer(self._exchange.call, choice.texts)
        self._note(ruling)
        hidden = self._vetting.redacted(choice, ruling) if ruling.strictest is Action.REDACT else choice
        if hidden is None or ruling.strictest not in (Action.ALLOW, Action.REDACT):
            return [*before, *await self._stop(ruling)]
        [call] = hidden.tools
        self._tools.append(call)
        return [*before, replace(event, call=call)]

    async def _rest(self) -> list[Event]:
        passed = await self._window.finish()
        return await self._stop(passed.stopped) if passed.stopped else self._give(passed.text)

    async def _end(self, finish: str) -> list[Event]:
        self.finish = finish
        events = [] if self._stopped else await self._rest()
        self.over = True
        if self._stopped is None or self._left or self._tools:
            return events
        # Nothing has left yet, so another answer can take its place.
        written = "".join(self._window.written)
        text = None
        if self._stopped.strictest is Action.REWRITE:
            text = await self._vetting.rewritten(self._exchange, self._call, written, self._stopped)
        self.finish = "stop"
        if text is None:
            self.finish = "content_filter"
            text = self._vetting.refusal(self._exchange, self.index, self._stopped).text
        return [*events, *self._give(text)]

    async def _stop(self, ruling: StageFindings) -> list[Event]:
        self._stopped, self.finish = ruling, "content_filter"
        if self._left or self._tools:
            self.over = True
        elif ruling.strictest is not Action.REWRITE:
            self.over = True
            return self._give(self._vetting.refusal(self._exchange, self.index, ruling).text)
        return []

    def _give(self, text: str) -> list[Event]:
        if not text:
            return []
        self._left.append(text)
        return [Text(self.index, text)]

    def sent(self) -> Delivery:
        """Return the answer as it is logged."""
        written = Choice(self.index, "".join(self._window.written), tuple(self._tools_written), self.finish)
        return Delivery(written, replace(written, text="".join(self._left), tools=tuple(self._tools)))
