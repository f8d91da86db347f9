"""OpenAI's moderations, from this gateway's own detectors: `/v1/moderations`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from alignment.records import Message
from gateway.calls import Failure, known_only, text_of
from gateway.checks import Checked
from gateway.guard import Guard
from gateway.upstream import new_id

_MOST = 64
_NAMES = {
    "violence": ("violence",), "weapons": ("illicit", "illicit/violent"), "self_harm": ("self-harm", "self-harm/intent"), "hate": ("hate",),
    "sexual": ("sexual",), "crime": ("illicit",), "fraud": ("illicit",), "malware": ("illicit",), "privacy": ("privacy",),
    "misinformation": ("misinformation",),
}  # fmt: skip
"""Categories of OpenAI's interface for each of the detectors' own; the last two are not among OpenAI's."""
_ALL = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm", "self-harm/intent",
    "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic", "privacy", "misinformation",
)  # fmt: skip
_REQUEST, _TOXIC = 0.5, 0.8


async def moderation(guard: Guard, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of an answer: for each text, what it asks for and how toxic it is.

    Raises:
        Failure: the input is no text, or a check failed, since a text that nobody checked is not harmless.
    """
    known_only(body, frozenset(("input", "model")))
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise Failure(400, "invalid_type", "'input' is neither a text nor a list", param="input")
    if all(isinstance(one, dict) for one in texts):
        texts = [text_of(texts, ("text",), "input")]
    if len(texts) > _MOST or not all(isinstance(one, str) for one in texts):
        raise Failure(400, "invalid_value", f"'input' is no list of up to {_MOST} texts", param="input")
    try:
        results = await asyncio.gather(*(_result(guard, text) for text in texts))
    except Exception as error:
        raise Failure(503, "check_failed", "a detector failed, so that nothing is known of the input; try again later") from error
    return {"id": f"modr-{new_id()}", "model": "align-moderation", "results": results}


async def _result(guard: Guard, text: str) -> dict[str, Any]:
    message: Message = {"role": "user", "content": text}
    subject = Checked((message,), (text,))
    asked, toxic = await asyncio.gather(guard.checks.run("harmful_request", subject), guard.checks.run("toxicity", subject))
    scores = dict.fromkeys(_ALL, 0.0) | {"harassment": float(toxic.score)}
    for name in _NAMES.get(asked.label or "", ()):
        scores[name] = float(asked.score)
    flags = {name: score >= (_TOXIC if name == "harassment" else _REQUEST) for name, score in scores.items()}
    applied = {name: ["text"] for name in _ALL}
    return {"flagged": any(flags.values()), "categories": flags, "category_scores": scores, "category_applied_input_types": applied}
