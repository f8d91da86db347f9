"""A fake model on the loopback: it answers as the OpenAI and Anthropic APIs do, depending on the last question.

Effects: binds a port on the loopback.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

SYSTEM = "You sell tea."
THOUGHT = "They ask for tea. Policy? None."
CREATED = 1793534400


class Call(NamedTuple):
    """A request and the model's answer to it: `kind` is the form of `answer`."""

    asked: str
    kind: str = "text"
    answer: str = ""


CALLS = {
    "plain": Call("Which tea has no caffeine?", "text", "Rooibos has none."),
    "thinking": Call("Which tea is the oldest?", "thinking", "Nobody knows, but green tea is very old."),
    "tool": Call("What do you have today?", "tool"),
    "after_tool": Call("What do you have this week?", "text", "Rooibos and mint."),
    "refusal": Call("How do I poison the tea?", "refusal", "I can't help with that."),
    "filtered": Call("Say something foul.", "filtered", "Foul"),
    "cut": Call("Think for very long.", "cut"),
    "error": Call("Break.", "error"),
    "stream": Call("Which tea wakes me up?", "text", "Black tea does."),
    "tool_stream": Call("What will you have tomorrow?", "tool"),
    "filtered_stream": Call("Say something fouler.", "filtered", "Fouler"),
    "thinking_stream": Call("Which tea is rarest?", "thinking", "Yellow tea is."),
}
BY_QUESTION = {one.asked: one for one in CALLS.values()}
TOOL = {
    "name": "shop",
    "description": "What is in the shop",
    "parameters": {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]},
}
ARGUMENTS = '{"day": "today"}'
FOUND = "rooibos, mint"


def _asked(body: dict[str, Any]) -> Call:
    said = body.get("messages") or body.get("input")
    turns = [{"role": "user", "content": said}] if isinstance(said, str) else said
    texts = [text for one in turns if one.get("role") == "user" for text in _texts(one["content"])]
    return next(BY_QUESTION[text] for text in reversed(texts) if text in BY_QUESTION)


def _texts(content: Any) -> list[str]:
    return [content] if isinstance(content, str) else [one["text"] for one in content if "text" in one]


def completion(call: Call, model: str) -> dict[str, Any]:
    """Return the response of the chat completions API."""
    message: dict[str, Any] = {"role": "assistant", "content": call.answer, "refusal": None}
    reason = {"tool": "tool_calls", "filtered": "content_filter", "cut": "length"}.get(call.kind, "stop")
    if call.kind in ("thinking", "cut"):
        message["reasoning_content"] = THOUGHT
    if call.kind == "refusal":
        message |= {"content": None, "refusal": call.answer}
    if call.kind == "cut":
        message["content"] = None
    if call.kind == "tool":
        called = {"id": "call_1", "type": "function", "function": {"name": TOOL["name"], "arguments": ARGUMENTS}}
        message |= {"content": None, "tool_calls": [called]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": CREATED, "model": model, "choices": [choice], "usage": usage}


def completion_events(call: Call, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the response of the chat completions API in chunks."""
    whole = completion(call, model)
    message = whole["choices"][0]["message"]
    pieces: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    pieces += [{"reasoning_content": message["reasoning_content"]}] if "reasoning_content" in message else []
    pieces += [{"content": piece} for piece in _pieces(call.answer)]
    pieces += [{"tool_calls": [{"index": 0, **one} for one in message["tool_calls"]]}] if "tool_calls" in message else []
    base = {"id": whole["id"], "object": "chat.completion.chunk", "created": CREATED, "model": model}
    for piece in pieces:
        yield "", {**base, "choices": [{"index": 0, "delta": piece, "finish_reason": None}]}
    yield "", {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": whole["choices"][0]["finish_reason"]}]}
    yield "", {**base, "choices": [], "usage": whole["usage"]}


def _pieces(text: str) -> list[str]:
    middle = len(text) // 2
    return [text[:middle], text[middle:]]


def response(call: Call, model: str) -> dict[str, Any]:
    """Return the response of the Responses API."""
    thought = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": THOUGHT}]}
    part = {"type": "output_text", "text": call.answer, "annotations": []}
    if call.kind == "refusal":
        part = {"type": "refusal", "refusal": call.answer}
    said = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    called = {
        "id": "fc_1",
        "type": "function_call",
        "call_id": "call_1",
        "name": TOOL["name"],
        "arguments": ARGUMENTS,
        "status": "completed",
    }
    output = {"thinking": [thought, said], "tool": [called], "cut": [thought]}.get(call.kind, [said])
    why = {"cut": "max_output_tokens", "filtered": "content_filter"}.get(call.kind)
    return {
        "id": "resp_1", "object": "response", "created_at": CREATED, "status": "incomplete" if why else "completed", "error": None,
        "incomplete_details": {"reason": why} if why else None, "instructions": SYSTEM, "model": model, "output": output,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "temperature": 1.0, "top_p": 1.0, "metadata": {},
        "usage": {"input_tokens": 12, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
                  "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 17},
    }  # fmt: skip


def response_events(call: Call, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the response of the Responses API as events."""
    whole = response(call, model)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for place, item in enumerate(whole["output"]):
        events.append({"type": "response.output_item.added", "output_index": place, "item": item})
        if item["type"] == "message":
            at = {"item_id": item["id"], "output_index": place, "content_index": 0}
            events += [{"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []} for piece in _pieces(call.answer)]
            events.append({"type": "response.output_text.done", **at, "text": call.answer, "logprobs": []})
        events.append({"type": "response.output_item.done", "output_index": place, "item": item})
    events.append({"type": f"response.{whole['status']}", "response": whole})
    for number, event in enumerate(events):
        yield event["type"], {**event, "sequence_number": number}


def message(call: Call, model: str) -> dict[str, Any]:
    """Return the response of Anthropic's Messages API."""
    said = {"type": "text", "text": call.answer}
    thought = {"type": "thinking", "thinking": THOUGHT, "signature": "c2ln"}
    called = {"type": "tool_use", "id": "toolu_1", "name": TOOL["name"], "input": json.loads(ARGUMENTS)}
    content = {"thinking": [thought, said], "tool": [called], "cut": [thought], "filtered": []}.get(call.kind, [said])
    reason = {"tool": "tool_use", "cut": "max_tokens", "filtered": "refusal"}.get(call.kind, "end_turn")
    usage = {"input_tokens": 12, "output_tokens": 5}
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content, "stop_reason": reason,
            "stop_sequence": None, "usage": usage}  # fmt: skip


def message_events(call: Call, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the response of Anthropic's Messages API as events."""
    whole = message(call, model)
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}]
    for place, block in enumerate(whole["content"]):
        key = {"thinking": "thinking", "tool_use": "input"}.get(block["type"], "text")
        empty = {**block, key: {} if key == "input" else "", **({"signature": ""} if key == "thinking" else {})}
        events.append({"type": "content_block_start", "index": place, "content_block": empty})
        if key == "input":
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _pieces(ARGUMENTS)]
        else:
            deltas = [{"type": f"{key}_delta", key: piece} for piece in _pieces(block[key])]
        deltas += [{"type": "signature_delta", "signature": block["signature"]}] if key == "thinking" else []
        events += [{"type": "content_block_delta", "index": place, "delta": one} for one in deltas]
        events.append({"type": "content_block_stop", "index": place})
    events.append(
        {"type": "message_delta", "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None}, "usage": {"output_tokens": 5}}
    )
    events.append({"type": "message_stop"})
    for event in events:
        yield event["type"], event


_WHOLE = {"chat/completions": completion, "responses": response, "messages": message}
_STREAMED = {"chat/completions": completion_events, "responses": response_events, "messages": message_events}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer as the API with the requested path does."""
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("/v1/")[-1].split("?")[0]
        if path not in (*_WHOLE, "embeddings"):
            # Tracers' telemetry.
            self._send(200, {})
            return
        body = json.loads(raw)
        if path == "embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
            self._send(200, {"object": "list", "data": [vector], "model": body["model"], "usage": {"prompt_tokens": 2, "total_tokens": 2}})
            return
        call = _asked(body)
        if call.kind == "error":
            self._send(400, {"type": "error", "error": {"type": "invalid_request_error", "message": "that cannot be answered"}})
        elif body.get("stream"):
            events = [f"{f'event: {name}' + chr(10) if name else ''}data: {json.dumps(one)}\n\n"
                      for name, one in _STREAMED[path](call, body["model"])]  # fmt: skip
            end = "data: [DONE]\n\n" if path == "chat/completions" else ""
            self._write(200, "text/event-stream", "".join([*events, end]))
        else:
            self._send(200, _WHOLE[path](call, body["model"]))

    def _send(self, status: int, value: Any) -> None:
        self._write(status, "application/json", json.dumps(value))

    def _write(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def serving() -> Iterator[str]:
    """Serve until the block ends; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
