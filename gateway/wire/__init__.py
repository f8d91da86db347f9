"""The interfaces that clients speak, by path."""

from __future__ import annotations

from gateway.calls import Wire
from gateway.wire.anthropic_messages import Messages
from gateway.wire.chat import Chat
from gateway.wire.completions import Completions
from gateway.wire.responses import Responses

WIRES: tuple[Wire, ...] = (Chat(), Completions(), Responses(), Messages())
