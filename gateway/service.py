"""One request from its arrival to its log line: prompt stage, upstream, answer stage.

Nothing leaves before it is checked, and nothing counts as answered before its line is in the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from alignment.release import BASE
from alignment.store.held import HeldExchange, decided
from gateway.calls import Call, Choice, Completion, Failure, Wire
from gateway.exchange import ClientReply, Delivery, Exchange, conversation_of, log_line
from gateway.guard import Guard
from gateway.holding import Holding, ask_again
from gateway.logs import ExchangeLog, LogLost
from gateway.metrics import Metrics
from gateway.policy import Action
from gateway.relay import after, relay, whole_stream
from gateway.releases import Releases
from gateway.tracing import step
from gateway.upstream import Upstream, UpstreamError
from gateway.vetting import Vetting

NOBODY = "gateway"
"""The log's name for the author of an answer that no model wrote."""
BLOCKED = ("content_filter", "the request was refused by this service's safety policy")
_NO_LOG = ("log_unavailable", "the exchange cannot be logged, so it is not served; try again later")


class Pipeline:
    """The pipeline. With `keep_going`, exchanges are served though they cannot be logged."""

    def __init__(
        self,
        *,
        guard: Guard,
        upstream: Upstream,
        releases: Releases,
        log: ExchangeLog,
        holding: Holding,
        metrics: Metrics,
        base_name: str,
        keep_going: bool,
    ) -> None:
        self.guard, self.upstream, self.releases, self.log, self.holding = guard, upstream, releases, log, holding
        self._metrics, self._base_name, self._keep_going = metrics, base_name, keep_going
        self._vetting = Vetting(guard, upstream)

    async def answer(self, wire: Wire, call: Call, client: str) -> ClientReply:
        """Answer a request.

        Raises:
            Failure: it is not served; what happened is logged.
        """
        await self._refuse_unlogged()
        exchange = Exchange(call, client, self.releases.pick(call.user or conversation_of(call, client)))
        beside = self._begin_beside(exchange)
        try:
            with step("check prompt"):
                exchange.asked = await self.guard.prompt(call)
            match exchange.asked.strictest:
                case Action.REFUSE:
                    return await self._refused(wire, exchange)
                case Action.HOLD:
                    raise await self._hold(exchange, "prompt", ())
            sent = self.guard.changed(call, exchange.asked)
            if call.stream:
                return ClientReply(200, None, await self._streamed(wire, exchange, sent), exchange)
            if beside and sent is call:
                await asyncio.wait([beside])
            made = beside if beside and sent is call and not beside.exception() else None
            completion = made.result() if made else await self._complete(exchange, sent)
            return await self._whole(wire, exchange, sent, completion)
        finally:
            if beside:
                beside.cancel()
                with suppress(asyncio.CancelledError, Failure):
                    await beside

    async def outcome(self, wires: dict[str, Wire], name: str, client: str) -> tuple[int, dict[str, Any]]:
        """Return status and body of a held exchange: 202 while it waits, then what its request would have got, always the same.

        Raises:
            Failure: there is no such exchange for this client, or it cannot be answered.
        """
        async with self.holding.alone(name):
            item = await self.holding.find(name, client)
            if item.verdict is None:
                return 202, {"id": item.id, "status": "held", "since": item.created_at}
            if item.delivered is not None:
                return int(item.delivered["status"]), item.delivered["body"]
            wire, exchange = wires[item.request["interface"]], self.holding.exchange(item)
            choices = await self._decided(exchange, item)
            status = 422 if item.verdict == "refuse" and self.guard.policy.refuse_with == "error" else 200
            named = Completion(item.id, int(time.time()), self._name(exchange), choices)
            body = wire.body(exchange.call, named) if status == 200 else wire.error(Failure(422, *BLOCKED))
            await self.holding.deliver(item, status, body)
            return status, body

    async def _decided(self, exchange: Exchange, item: HeldExchange) -> tuple[Choice, ...]:
        """Return what the client gets. A decision about an answer was logged when it was made; an answer made now is logged here."""
        if item.verdict == "refuse":
            return tuple(self._vetting.refusal(exchange, index) for index in range(exchange.call.n))
        if kept := self.holding.answers(item):
            return kept
        # A person allowed the prompt; its answer is checked as any other. Holding it too would let nobody ever answer.
        await self._refuse_unlogged()
        completion = await self._complete(exchange, exchange.call)
        vetted = await asyncio.gather(*(self._vetting.vet(exchange, exchange.call, one) for one in completion.choices))
        sent = [Delivery(one.written, self._vetting.refusal(exchange, one.given.index)) if one.waits else one for one in vetted]
        for one in sent:
            line = log_line(exchange, one, model=self._name(exchange), policy=self.guard.policy.digest)
            await self._write(decided(item, line))
        return tuple(one.given for one in sent)

    async def _refuse_unlogged(self) -> None:
        if self.log.trouble and not self._keep_going:
            self.log.trouble = await asyncio.to_thread(self.log.probe)
            if self.log.trouble:
                raise Failure(503, *_NO_LOG, retry_after=30)

    def _begin_beside(self, exchange: Exchange) -> asyncio.Task[Completion] | None:
        if self.guard.policy.prompt_checks == "before" or exchange.call.stream:
            return None
        return asyncio.create_task(self._complete(exchange, exchange.call, logged=False))

    async def _complete(self, exchange: Exchange, sent: Call, *, logged: bool = True) -> Completion:
        begun = time.perf_counter()
        try:
            with step("ask the model"):
                return await self.upstream.complete(sent, exchange.release)
        except UpstreamError as error:
            # A call beside the prompt's checks may turn out to be one that should not have been made.
            if logged:
                await self._log(exchange, [None], error=error.refused.code)
            raise error.refused from error
        finally:
            self._metrics.upstream_took(time.perf_counter() - begun)

    async def _whole(self, wire: Wire, exchange: Exchange, sent: Call, completion: Completion) -> ClientReply:
        vetted = await asyncio.gather(*(self._vetting.vet(exchange, sent, choice) for choice in completion.choices))
        if any(one.waits for one in vetted):
            raise await self._hold(exchange, "answer", vetted)
        await self._log(exchange, vetted)
        if self.guard.policy.refuse_with == "error" and all(one.given.finish == "content_filter" for one in vetted):
            raise Failure(422, *BLOCKED)
        named = replace(completion, id=exchange.id, model=self._name(exchange), choices=tuple(one.given for one in vetted))
        return ClientReply(200, wire.body(exchange.call, named), None, exchange)

    async def _refused(self, wire: Wire, exchange: Exchange) -> ClientReply:
        choices = tuple(self._vetting.refusal(exchange, index) for index in range(exchange.call.n))
        await self._log(exchange, [Delivery(choices[0], choices[0])], model=NOBODY)
        if self.guard.policy.refuse_with == "error":
            raise Failure(422, *BLOCKED)
        completion = Completion(exchange.id, int(time.time()), self._name(exchange), choices)
        if exchange.call.stream:
            return ClientReply(200, None, whole_stream(wire, exchange.call, completion), exchange)
        return ClientReply(200, wire.body(exchange.call, completion), None, exchange)

    async def _streamed(self, wire: Wire, exchange: Exchange, sent: Call) -> AsyncIterator[bytes]:
        """Return the frames of a stream. Its first event is awaited, so that an upstream that is down is an error and no stream."""
        events = self.upstream.stream(sent, exchange.release)
        try:
            first = await anext(events)
        except UpstreamError as error:
            await self._log(exchange, [None], error=error.refused.code)
            raise error.refused from error
        frames = wire.frames(exchange.call, Completion(exchange.id, int(time.time()), self._name(exchange), ()))

        async def log(answers: Sequence[Delivery], error: str | None) -> None:
            await self._log(exchange, answers, error=error)

        return relay(frames, exchange, sent, self._vetting, after(first, events), log)

    async def _hold(self, exchange: Exchange, stage: str, vetted: Sequence[Delivery]) -> Failure:
        """Keep an exchange with the lines that a decision about it will log; return the error that tells where to ask for the outcome."""
        refusal = self._vetting.refusal(exchange, 0)
        answers, model = (vetted, self._name(exchange)) if vetted else ([Delivery(refusal, refusal)], NOBODY)
        lines = [log_line(exchange, one, model=model, policy=self.guard.policy.digest) for one in answers]
        await self.holding.hold(exchange, stage, [one.given for one in vetted], lines)
        return ask_again(exchange.id)

    def _name(self, exchange: Exchange) -> str:
        return self._base_name if exchange.release == BASE else exchange.release

    async def _log(
        self, exchange: Exchange, answers: Sequence[Delivery | None], *, model: str | None = None, error: str | None = None
    ) -> None:
        for one in answers:
            await self._write(log_line(exchange, one, model=model or self._name(exchange), policy=self.guard.policy.digest, error=error))

    async def _write(self, line: dict[str, Any]) -> None:
        try:
            await self.log.write(line)
        except LogLost as error:
            self._metrics.log_failed()
            if not self._keep_going:
                raise Failure(503, *_NO_LOG, retry_after=30) from error
