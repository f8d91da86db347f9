"""Anthropic's Messages: `/v1/messages`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from gateway.calls import Call, Completion, End, Event, Failure, Text, TokenCounts, Tool, ToolCall, known_only, text_of, turn_list, want
from gateway.wire import sse
from gateway.wire.chat import Chat

_KNOWN = frozenset(
    "model messages max_tokens system stop_sequences stream temperature top_p top_k tools tool_choice metadata service_tier".split()
)
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERRORS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_ERRORS |= {413: "request_too_large", 422: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Messages:
    """Requests in the form of Messages, answered by chat completions."""

    name = "messages"
    path = "/v1/messages"

    def parse(self, body: Mapping[str, Any]) -> Call:
        """See `Wire.parse`."""
        known_only(body, _KNOWN)
        turns: list[dict[str, Any]] = []
        if system := text_of(body.get("system"), ("text",), "system"):
            turns.append({"role": "system", "content": system})
        for number, turn in enumerate(turn_list(body.get("messages"), "messages")):
            turns += _turns(turn, f"message {number}")
        metadata = want(body, "metadata", dict, {})
        asked = {key: body.get(key) for key in ("model", "stream", "temperature", "top_p", "top_k")} | {"messages": turns}
        asked |= {"max_tokens": want(body, "max_tokens", int, 1024), "stop": want(body, "stop_sequences", list)}
        asked |= {"tools": [_tool(tool) for tool in want(body, "tools", list, [])], "tool_choice": _choice(body.get("tool_choice"))}
        asked |= {"user": metadata.get("user_id"), "metadata": {key: value for key, value in metadata.items() if key != "user_id"}}
        call = Chat().parse({key: value for key, value in asked.items() if value not in (None, [], "")})
        return replace(call, interface=self.name, usage_in_stream=True)

    def body(self, call: Call, completion: Completion) -> dict[str, Any]:
        """See `Wire.body`."""
        choice = completion.choices[0]
        content = [{"type": "text", "text": choice.text}] if choice.text or not choice.tools else []
        content += [_use(tool, parsed_arguments(tool)) for tool in choice.tools]
        return _message(completion, content, _REASONS.get(choice.finish, "end_turn"), completion.usage)

    def frames(self, call: Call, completion: Completion) -> MessageFrames:
        """See `Wire.frames`."""
        return MessageFrames(completion)

    def error(self, refused: Failure) -> dict[str, Any]:
        """See `Wire.error`."""
        return {"type": "error", "error": {"type": _ERRORS.get(refused.status, "api_error"), "message": refused.message}}


class MessageFrames:
    """Events of a streamed message: blocks of text and of tool use, one after the other."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self._block, self._open = -1, False
        self._finish, self._usage = "stop", TokenCounts()

    def start(self) -> Iterator[bytes]:
        """See `Frames.start`."""
        yield _event("message_start", message=_message(self._completion, [], None, TokenCounts()))

    def event(self, event: Event) -> Iterator[bytes]:
        """See `Frames.event`."""
        match event:
            case Text(_, text):
                if not self._open:
                    yield from self._begin({"type": "text", "text": ""})
                yield _event("content_block_delta", index=self._block, delta={"type": "text_delta", "text": text})
            case Tool(_, _, call):
                yield from self._close()
                yield from self._begin(_use(call, {}))
                yield _event("content_block_delta", index=self._block, delta={"type": "input_json_delta", "partial_json": call.arguments})
                yield from self._close()
            case End(_, finish):
                self._finish = finish
                yield from self._close()
            case TokenCounts():
                self._usage = event

    def stop(self) -> Iterator[bytes]:
        """See `Frames.stop`."""
        delta = {"stop_reason": _REASONS.get(self._finish, "end_turn"), "stop_sequence": None}
        yield _event("message_delta", delta=delta, usage=_counted(self._usage))
        yield _event("message_stop")

    def failed(self, refused: Failure) -> Iterator[bytes]:
        """See `Frames.failed`."""
        yield sse.named("error", Messages().error(refused))

    def _begin(self, block: dict[str, Any]) -> Iterator[bytes]:
        self._block, self._open = self._block + 1, True
        yield _event("content_block_start", index=self._block, content_block=block)

    def _close(self) -> Iterator[bytes]:
        if self._open:
            self._open = False
            yield _event("content_block_stop", index=self._block)


def _event(name: str, **fields: Any) -> bytes:
    return sse.named(name, {"type": name, **fields})


def _turns(turn: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return a turn as messages of chat completions: results of tools are messages of their own, before what the user says."""
    role, content = turn.get("role"), turn.get("content")
    if role not in ("user", "assistant"):
        raise Failure(400, "invalid_value", f"{where} has the role {str(role)[:32]!r}; known are user and assistant", param="messages")
    known_only(turn, frozenset(("role", "content")), where)
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    blocks = turn_list(content, f"the content of {where}")
    results = [block for block in blocks if block.get("type") == "tool_result"] if role == "user" else []
    uses = [block for block in blocks if block.get("type") == "tool_use"] if role == "assistant" else []
    text = text_of([block for block in blocks if block not in results and block not in uses], ("text",), where)
    found = [
        {
            "role": "tool",
            "tool_call_id": block.get("tool_use_id"),
            "content": text_of(block.get("content"), ("text",), f"a result in {where}"),
        }
        for block in results
    ]
    if uses:
        calls = [{"id": use.get("id"), "type": "function", "function": _called(use)} for use in uses]
        found.append({"role": "assistant", "content": text, "tool_calls": calls})
    elif text or not found:
        found.append({"role": role, "content": text})
    return found


def _called(use: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": use.get("name"), "arguments": orjson.dumps(use.get("input") or {}).decode()}


def _tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type", "custom") != "custom":
        shown = str(tool.get("type") if isinstance(tool, dict) else tool)[:32]
        raise Failure(422, "unsupported_tool", f"a tool of type {shown!r} runs elsewhere; its traffic cannot be checked", param="tools")
    known_only(tool, frozenset(("type", "name", "description", "input_schema", "strict")), "a tool")
    function = {"name": tool.get("name"), "description": tool.get("description") or "", "parameters": tool.get("input_schema") or {}}
    return {"type": "function", "function": function}


def _choice(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return (
        {"type": "function", "function": {"name": value.get("name")}}
        if value.get("type") == "tool"
        else _CHOICES.get(str(value.get("type")))
    )


def parsed_arguments(tool: ToolCall) -> Any:
    """Return a tool call's arguments as JSON; what the model wrote instead is given as a text."""
    try:
        return orjson.loads(tool.arguments or "{}")
    except orjson.JSONDecodeError:
        return {"unparsed": tool.arguments}


def _use(tool: ToolCall, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": tool.id, "name": tool.name, "input": arguments}


def _counted(counted: TokenCounts) -> dict[str, int]:
    return {"input_tokens": counted.prompt, "output_tokens": counted.completion}


def _message(completion: Completion, content: list[dict[str, Any]], reason: str | None, counted: TokenCounts) -> dict[str, Any]:
    return {
        "id": f"msg_{completion.id}",
        "type": "message",
        "role": "assistant",
        "model": completion.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": _counted(counted),
    }
