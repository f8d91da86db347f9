"""Server-sent events, and the errors of OpenAI's interfaces."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.calls import Refused

DONE = b"data: [DONE]\n\n"


def data(value: Any) -> bytes:
    """Return an event without a name."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def named(name: str, value: Any) -> bytes:
    """Return an event with a name."""
    return b"event: " + name.encode() + b"\n" + data(value)


def openai_error(refused: Refused) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}
