"""Hold exchanges for a person, and take them up again when they are decided. What is kept is redacted, and so is what is then answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from alignment.store.held import HeldExchange, HeldExchanges, now
from gateway.calls import Call, Choice, Failure, ToolCall
from gateway.exchange import Exchange
from gateway.logs import masked
from gateway.policy import Action


class Holding:
    """The held exchanges of a gateway. `key` masks their texts."""

    def __init__(self, held: HeldExchanges, key: bytes) -> None:
        self._held, self._key = held, key
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Let one request at a time ask for an exchange: its answer is made once."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(name, None)

    async def hold(self, exchange: Exchange, stage: str, answers: Sequence[Choice], lines: Sequence[Mapping[str, Any]]) -> None:
        """Keep an exchange, with the lines that are logged when it is decided.

        Raises:
            Failure: it cannot be kept.
        """
        rules = dict.fromkeys(one.rule for ruling in exchange.rulings for one in ruling.findings if one.action is Action.HOLD)
        call = exchange.call
        request: dict[str, Any] = {
            "interface": call.interface,
            "release": exchange.release,
            "payload": dict(call.payload),
            "path": call.path,
        }
        request |= {"n": call.n, "extra": dict(call.extra), "user": call.user}
        kept = {"choices": [_stored(choice) for choice in answers]} if answers else {}
        try:
            masks = [masked(one, self._key) for one in (list(lines), request, kept)]
            item = HeldExchange(exchange.id, now(), exchange.client, stage, ", ".join(rules), *masks)
            await asyncio.to_thread(self._held.put, item)
        except Exception as error:
            raise Failure(503, "hold_unavailable", "the request has to wait for a person, and cannot be kept; try again later") from error

    async def find(self, name: str, client: str) -> HeldExchange:
        """Return a held exchange of a client.

        Raises:
            Failure: there is none.
        """
        item = await asyncio.to_thread(self._held.get, name)
        if item is None or item.client != client:
            raise Failure(404, "not_found", "nothing is held under this id for this key")
        return item

    def exchange(self, item: HeldExchange) -> Exchange:
        """Return the exchange of an item, to go on with."""
        kept = item.request
        call = Call(kept["interface"], kept["payload"], path=kept["path"], n=kept["n"], extra=kept["extra"], user=kept["user"])
        return Exchange(call, item.client, kept["release"], id=item.id)

    def answers(self, item: HeldExchange) -> tuple[Choice, ...]:
        """Return the model's answers that are held; none if its prompt is."""
        return tuple(
            Choice(raw["index"], raw["text"], tuple(ToolCall(*tool) for tool in raw["tools"]), raw["finish"])
            for raw in item.answer.get("choices", ())
        )

    async def deliver(self, item: HeldExchange, status: int, body: Mapping[str, Any]) -> bool:
        """Keep what the client gets, so that it gets the same again."""
        return await asyncio.to_thread(self._held.deliver, item.id, {"status": status, "body": body})


def ask_again(name: str) -> Failure:
    """Return the error that tells a client where to ask for the outcome."""
    return Failure(422, "held_for_review", f"a person has to decide on this request; ask /v1/held/{name} for the outcome", param=name)


def _stored(choice: Choice) -> dict[str, Any]:
    return {"index": choice.index, "text": choice.text, "tools": [list(tool) for tool in choice.tools], "finish": choice.finish}
