"""Server-sent events, and the errors of OpenAI's interfaces."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.calls import Failure

_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
DONE = b"data: [DONE]\n\n"


def data(value: Any) -> bytes:
    """Return an event without a name. Signs that some clients take for an end of line are escaped."""
    body = orjson.dumps(value)
    if not body.isascii():
        for sign, escaped in _ENDS:
            body = body.replace(sign, escaped)
    return b"data: " + body + b"\n\n"


def named(name: str, value: Any) -> bytes:
    """Return an event with a name."""
    return b"event: " + name.encode() + b"\n" + data(value)


def openai_error(refused: Failure) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}
