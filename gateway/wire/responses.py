"""OpenAI's Responses: `/v1/responses`. Nothing is stored, so a request brings its whole conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from gateway.calls import (
    Call,
    Choice,
    Completion,
    End,
    Event,
    Failure,
    Text,
    TokenCounts,
    Tool,
    ToolCall,
    known_only,
    text_of,
    turn_list,
    want,
)
from gateway.wire import sse
from gateway.wire.chat import Chat, tool_definitions

_KNOWN = frozenset(
    """model input instructions max_output_tokens temperature top_p tools tool_choice parallel_tool_calls text reasoning store metadata
    user safety_identifier prompt_cache_key stream stream_options truncation service_tier""".split()
)
_PARTS = ("input_text", "output_text", "text", "refusal")
_ROLES = ("system", "developer", "user", "assistant")
_STATUS = {"length": ("incomplete", {"reason": "max_output_tokens"}), "content_filter": ("incomplete", {"reason": "content_filter"})}


class Responses:
    """Requests in the form of Responses, answered by chat completions."""

    name = "responses"
    path = "/v1/responses"

    def parse(self, body: Mapping[str, Any]) -> Call:
        """See `Wire.parse`."""
        if body.get("previous_response_id") or body.get("conversation"):
            raise Failure(422, "unsupported_content", "earlier responses are not kept here; send the whole conversation in 'input'")
        known_only(body, _KNOWN)
        turns: list[dict[str, Any]] = []
        if instructions := want(body, "instructions", str, ""):
            turns.append({"role": "system", "content": instructions})
        given = body.get("input")
        turns += [{"role": "user", "content": given}] if isinstance(given, str) else _turns(turn_list(given, "input"))
        effort = want(want(body, "reasoning", dict, {}), "effort", str)
        form = want(want(body, "text", dict, {}), "format", dict)
        asked = {"model": body.get("model"), "messages": turns, "temperature": body.get("temperature"), "top_p": body.get("top_p")}
        asked |= {"max_completion_tokens": want(body, "max_output_tokens", int), "reasoning_effort": effort}
        asked |= {"tools": tool_definitions(_nested(body.get("tools"))), "tool_choice": _choice(body.get("tool_choice"))}
        asked |= {"response_format": _form(form), "parallel_tool_calls": body.get("parallel_tool_calls"), "stream": body.get("stream")}
        asked |= {"user": body.get("user") or body.get("safety_identifier"), "metadata": body.get("metadata")}
        call = Chat().parse({key: value for key, value in asked.items() if value not in (None, [], "")})
        extra = {key: body.get(key) for key in ("instructions", "temperature", "top_p", "max_output_tokens", "metadata")}
        extra |= {"tools": body.get("tools") or [], "tool_choice": body.get("tool_choice") or "auto"}
        return replace(call, interface=self.name, usage_in_stream=True, extra=extra)

    def body(self, call: Call, completion: Completion) -> dict[str, Any]:
        """See `Wire.body`."""
        choice = completion.choices[0]
        status, detail = _STATUS.get(choice.finish, ("completed", None))
        return _response(call, completion, _items(completion.id, choice, status), status, detail, completion.usage)

    def frames(self, call: Call, completion: Completion) -> ResponseFrames:
        """See `Wire.frames`."""
        return ResponseFrames(call, completion)

    def error(self, refused: Failure) -> dict[str, Any]:
        """See `Wire.error`."""
        return sse.openai_error(refused)


class ResponseFrames:
    """Events of a streamed response: one message, then its function calls."""

    def __init__(self, call: Call, completion: Completion) -> None:
        self._call, self._completion = call, completion
        self._number = -1
        self._text = ""
        self._open = False
        self._calls: list[ToolCall] = []
        self._finish, self._usage = "stop", TokenCounts()

    def start(self) -> Iterator[bytes]:
        """See `Frames.start`."""
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, response=self._response("in_progress", [], None))

    def event(self, event: Event) -> Iterator[bytes]:
        """See `Frames.event`."""
        match event:
            case Text(_, text):
                yield from self._opened()
                self._text += text
                yield self._event("response.output_text.delta", **self._part(), delta=text, logprobs=[])
            case Tool(_, _, call):
                yield from self._closed()
                yield from self._called(call)
            case End(_, finish):
                self._finish = finish
                yield from self._closed()
            case TokenCounts():
                self._usage = event

    def stop(self) -> Iterator[bytes]:
        """See `Frames.stop`."""
        status, detail = _STATUS.get(self._finish, ("completed", None))
        choice = Choice(0, self._text, tuple(self._calls), self._finish)
        name = "response.completed" if status == "completed" else "response.incomplete"
        yield self._event(name, response=self._response(status, _items(self._completion.id, choice, status), detail))

    def failed(self, refused: Failure) -> Iterator[bytes]:
        """See `Frames.failed`."""
        yield self._event("error", code=refused.code, message=refused.message, param=refused.param)

    def _opened(self) -> Iterator[bytes]:
        if not self._open:
            self._open = True
            yield self._event("response.output_item.added", output_index=0, item=_message(self._completion.id, "", "in_progress"))
            yield self._event("response.content_part.added", **self._part(), part=_text_part(""))

    def _closed(self) -> Iterator[bytes]:
        if self._open:
            self._open = False
            yield self._event("response.output_text.done", **self._part(), text=self._text, logprobs=[])
            yield self._event("response.content_part.done", **self._part(), part=_text_part(self._text))
            yield self._event("response.output_item.done", output_index=0, item=_message(self._completion.id, self._text, "completed"))

    def _called(self, call: ToolCall) -> Iterator[bytes]:
        self._calls.append(call)
        index = len(self._calls) - (0 if self._text else 1)
        place = {"output_index": index, "item_id": call.id}
        yield self._event("response.output_item.added", output_index=index, item=_function(call._replace(arguments=""), "in_progress"))
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **place, arguments=call.arguments, name=call.name)
        yield self._event("response.output_item.done", output_index=index, item=_function(call, "completed"))

    def _part(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self._completion.id}", "output_index": 0, "content_index": 0}

    def _response(self, status: str, items: list[dict[str, Any]], detail: Any) -> dict[str, Any]:
        return _response(self._call, self._completion, items, status, detail, self._usage)

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        self._number += 1
        return sse.named(kind, {"type": kind, "sequence_number": self._number, **fields})


def _turns(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        kind, where = item.get("type", "message"), f"input {number}"
        if kind == "message" and item.get("role") in _ROLES:
            known_only(item, frozenset(("type", "role", "content", "id", "status", "phase")), where)
            turns.append({"role": item["role"], "content": text_of(item.get("content"), _PARTS, where)})
        elif kind == "function_call":
            called = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": called}
            if turns and turns[-1].get("tool_calls"):
                turns[-1]["tool_calls"].append(call)
            else:
                turns.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif kind == "function_call_output":
            said = text_of(item.get("output"), _PARTS, where)
            turns.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": said})
        else:
            raise Failure(422, "unsupported_content", f"{where} is of type {str(kind)[:32]!r}, which cannot be checked", param="input")
    return turns


def _nested(tools: Any) -> Any:
    """Return tools as chat completions have them: their functions are an object of their own."""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return tools
    return [{"type": tool.get("type"), "function": {key: value for key, value in tool.items() if key != "type"}} for tool in tools]


def _choice(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {"type": value.get("type"), "function": {"name": value.get("name")}}


def _form(form: Mapping[str, Any] | None) -> Any:
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
    return dict(form)


def _items(name: str, choice: Choice, status: str) -> list[dict[str, Any]]:
    spoken = [_message(name, choice.text, status)] if choice.text or not choice.tools else []
    return spoken + [_function(call, "completed") for call in choice.tools]


def _message(name: str, text: str, status: str) -> dict[str, Any]:
    content = [_text_part(text)] if text or status != "in_progress" else []
    return {"id": f"msg_{name}", "type": "message", "role": "assistant", "status": status, "content": content}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _function(call: ToolCall, status: str) -> dict[str, Any]:
    return {"id": call.id, "type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments, "status": status}


def _response(
    call: Call, completion: Completion, items: list[dict[str, Any]], status: str, detail: Any, counted: TokenCounts
) -> dict[str, Any]:
    prompt, written = counted
    return {
        "id": f"resp_{completion.id}",
        "object": "response",
        "created_at": completion.created,
        "status": status,
        "model": completion.model,
        "output": items,
        "error": None,
        "incomplete_details": detail,
        "parallel_tool_calls": bool(call.payload.get("parallel_tool_calls", True)),
        "store": False,
        **call.extra,
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + written,
        },
    }
