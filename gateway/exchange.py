"""What is known of a request while it is answered, and its log line."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from alignment.ids import content_id
from gateway.calls import Call, Choice
from gateway.guard import StageFindings
from gateway.policy import Action
from gateway.upstream import new_id


@dataclass(slots=True)
class Exchange:
    """A request on its way. `client` is the name of its key, `release` what answers it."""

    call: Call
    client: str
    release: str
    asked: StageFindings = field(default_factory=StageFindings)
    answered: list[StageFindings] = field(default_factory=list)
    rewritten: bool = False
    id: str = field(default_factory=new_id)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    begun: float = field(default_factory=time.perf_counter)

    @property
    def action(self) -> Action:
        """The strictest action that a rule asked for."""
        return max((one.strictest for one in (self.asked, *self.answered)), key=list(Action).index)

    @property
    def rulings(self) -> list[StageFindings]:
        """All rulings, that on the prompt first."""
        return [self.asked, *self.answered]


class Delivery(NamedTuple):
    """An answer as the model wrote it, and as the client gets it, unless it `waits` for a person."""

    written: Choice
    given: Choice
    waits: bool = False


class ClientReply(NamedTuple):
    """An answer for a client: a whole body, or a stream."""

    status: int
    body: dict[str, Any] | None
    stream: AsyncIterator[bytes] | None
    exchange: Exchange


def conversation_of(call: Call, client: str) -> str:
    """Return the id of a call's conversation: as the client names it, else the same for all calls that begin alike."""
    return call.conversation or content_id(client, call.user, call.messages[0]["content"])[:24]


def log_line(exchange: Exchange, sent: Delivery | None, *, model: str, policy: str, error: str | None = None) -> dict[str, Any]:
    """Return an exchange in the form that ingest reads, with what the gateway did under `gateway`.

    `response` is what the model wrote; what the client got instead stands in `gateway.delivered`.
    """
    call = exchange.call
    about: dict[str, Any] = {
        "id": exchange.id,
        "client": exchange.client,
        "interface": call.interface,
        "stream": call.stream,
        "release": exchange.release,
        "action": exchange.action.value,
        "findings": [one.logged() for ruling in exchange.rulings for one in ruling.findings],
        "policy": policy,
        "rewritten": exchange.rewritten,
        "milliseconds": round(1000 * (time.perf_counter() - exchange.begun), 1),
    }
    if error:
        about["error"] = error
    if sent and sent.given != sent.written:
        about["delivered"] = sent.given.text
    if sent and sent.written.tools:
        about["tool_calls"] = [tool._asdict() for tool in sent.written.tools]
    line: dict[str, Any] = {
        "conversation_id": conversation_of(call, exchange.client),
        "user_id": call.user or None,
        "created_at": exchange.at,
        "model": model,
        "messages": [dict(turn) for turn in call.messages],
        "response": sent.written.text if sent else None,
    }
    return line | ({"consent": call.consent} if call.consent is not None else {}) | {"gateway": about}
