"""Streamed answers, assembled from their chunks as OpenAI, Anthropic, Gemini, Bedrock and Ollama send them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignment.ingest.chat import Json, a_list, an_object

_ENDS = ("response.completed", "response.incomplete", "response.failed")
"""Events of the Responses API that hold the whole answer."""
_NAMES = {"id": ("id", "responseId"), "created": ("created", "created_at"), "model": ("model", "modelVersion"), "error": ("error",)}


def whole_answer(value: Any) -> Any:
    """Assemble an answer from streamed chunks, a list or the text of server-sent events; return any other value unchanged."""
    chunks = _events(value) if isinstance(value, str) and value.lstrip().startswith(("data:", "event:", ":")) else value
    if not isinstance(chunks, list) or not chunks or not all(isinstance(one, dict) for one in chunks):
        return value
    last = next((one["response"] for one in reversed(chunks) if one.get("type") in _ENDS and isinstance(one.get("response"), dict)), None)
    return _together(chunks) if last is None else last


def _together(chunks: Sequence[Json]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    blocks: dict[Any, list[str]] = {}
    thoughts: list[str] = []
    refusal: list[str] = []
    calls: list[Any] = []
    ended, cited = None, False
    for one in chunks:
        for said in (one, an_object(one.get("message")), an_object(one.get("response"))):
            named = {**{name: found for name, keys in _NAMES.items() if (found := _known(said, keys))}, **named}
        if failed := next((key for key in one if key.endswith("Exception")), None):
            named.setdefault("error", failed)
        part = _chunk(one)
        ended = part.get("ended") or ended
        cited = cited or bool(part.get("cited"))
        blocks.setdefault(part.get("block", 0), []).extend(part.get("content", ()))
        thoughts += part.get("thoughts", ())
        refusal += part.get("refusal", ())
        calls += part.get("calls", ())
    # As in a complete answer, blocks are paragraphs, unless citations split a sentence.
    content = ("" if cited else "\n").join(text for block in blocks.values() if (text := "".join(block)))
    said = {"role": "assistant", "content": content, "refusal": "".join(refusal) or None, "reasoning_content": "".join(thoughts),
            "tool_calls": calls}  # fmt: skip
    return {**named, "choices": [{"message": said, "finish_reason": ended}]}


def _known(said: Json, keys: Iterable[str]) -> Any:
    # Some gateways send a first chunk with an empty name and the time 0.
    return next((said[key] for key in keys if said.get(key)), None)


def _chunk(one: Json) -> dict[str, Any]:
    """Return what a chunk adds: `content`, `thoughts` and `refusal` as texts, `calls`, the `block` they belong to, and how it `ended`."""
    kind = str(one.get("type"))
    if kind.startswith("response."):
        place = (one.get("output_index"), one.get("content_index"))
        name = {"response.output_text.delta": "content", "response.refusal.delta": "refusal"}.get(kind, "thoughts")
        item = an_object(one.get("item"))
        called = kind == "response.output_item.added" and str(item.get("type")).endswith("_call")
        return {"block": place, name: _texts(one, ("delta",)) if kind.endswith(".delta") and "arguments" not in kind else [],
                "calls": [{"name": item.get("name")}] if called else []}  # fmt: skip
    if isinstance(one.get("candidates"), list) or "promptFeedback" in one:
        return _gemini(one)
    if "messageStop" in one or "contentBlockDelta" in one or "contentBlockStart" in one:
        return _bedrock(one)
    choice = an_object(next((each for each in a_list(one.get("choices")) if an_object(each).get("index", 0) == 0), None))
    delta = an_object(choice.get("delta")) or an_object(one.get("delta"))
    if not delta and "done" in one:
        delta = an_object(one.get("message")) or {"content": one.get("response")}
    block = an_object(one.get("content_block"))
    calls = [call for call in a_list(delta.get("tool_calls")) if an_object(an_object(call).get("function")).get("name")]
    calls += [{"function": {"name": block.get("name")}}] if str(block.get("type")).endswith("tool_use") else []
    return {
        "content": _texts(delta, ("content", "text")) if delta else _texts(choice, ("text",)),
        "thoughts": _texts(delta, ("reasoning_content", "reasoning", "thinking")),
        "refusal": _texts(delta, ("refusal",)),
        "calls": calls,
        "block": one.get("index", 0) if kind.startswith("content_block") else 0,
        "cited": delta.get("type") == "citations_delta",
        "ended": choice.get("finish_reason") or delta.get("stop_reason") or one.get("done_reason"),
    }


def _gemini(one: Json) -> dict[str, Any]:
    candidate = an_object(next(iter(a_list(one.get("candidates"))), None))
    parts = [an_object(part) for part in a_list(an_object(candidate.get("content")).get("parts"))]
    blocked = an_object(one.get("promptFeedback")).get("blockReason")
    return {
        "content": [text for part in parts if part.get("thought") is not True for text in _texts(part, ("text",))],
        "thoughts": [text for part in parts if part.get("thought") is True for text in _texts(part, ("text",))],
        "calls": [{"name": part["functionCall"].get("name")} for part in parts if isinstance(part.get("functionCall"), dict)],
        "ended": "safety" if blocked else candidate.get("finishReason"),
    }


def _bedrock(one: Json) -> dict[str, Any]:
    told = an_object(one.get("contentBlockDelta"))
    delta, begun = an_object(told.get("delta")), an_object(an_object(one.get("contentBlockStart")).get("start"))
    called = an_object(begun.get("toolUse"))
    return {
        "content": _texts(delta, ("text",)),
        "thoughts": _texts(an_object(delta.get("reasoningContent")), ("text",)),
        "calls": [{"name": called.get("name")}] if called else [],
        "block": told.get("contentBlockIndex", 0),
        "ended": an_object(one.get("messageStop")).get("stopReason"),
    }


def _texts(value: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [value[name] for name in names if isinstance(value.get(name), str)]


def _events(text: str) -> list[Any]:
    found = []
    for line in text.splitlines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data and data != "[DONE]":
            try:
                found.append(json.loads(data))
            except ValueError:
                continue
    return found
