"""Chat completions: `/v1/chat/completions`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.calls import (
    MAX_ANSWERS,
    Call,
    Completion,
    End,
    Event,
    Failure,
    Text,
    TokenCounts,
    Tool,
    ToolCall,
    known_only,
    strings,
    text_of,
    turn_list,
    want,
)
from gateway.wire import sse

_NUMBERS = frozenset("temperature top_p min_p presence_penalty frequency_penalty repetition_penalty".split())
_INTEGERS = frozenset("max_tokens max_completion_tokens seed top_k".split())
PASSED = _NUMBERS | _INTEGERS | {"stop", "logit_bias", "response_format", "reasoning_effort"}
"""Parameters that reach the upstream. None of them can make it answer in a form that is not checked."""
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")
_OURS = frozenset("model messages stream stream_options n user safety_identifier prompt_cache_key metadata store service_tier".split())
_TOOLS = frozenset(("tools", "tool_choice", "parallel_tool_calls"))
_ROLES = ("system", "developer", "user", "assistant", "tool")
_PARTS = ("text", "refusal")


class Chat:
    """Chat completions as OpenAI's clients and vLLM speak them."""

    name = "chat"
    path = "/v1/chat/completions"

    def parse(self, body: Mapping[str, Any]) -> Call:
        """See `Wire.parse`."""
        if want(body, "modalities", list, ["text"]) != ["text"]:
            raise Failure(422, "unsupported_content", "only the modality 'text' can be checked", param="modalities")
        known_only(body, PASSED | _OURS | _TOOLS | {"modalities"})
        turns = [_turn(turn, number) for number, turn in enumerate(turn_list(body.get("messages"), "messages"))]
        options = want(body, "stream_options", dict, {})
        metadata = want(body, "metadata", dict, {})
        tools = tool_definitions(body.get("tools"))
        payload = parameters(body) | {"messages": turns} | ({"tools": tools} if tools else {})
        if tools and body.get("tool_choice") is not None:
            payload["tool_choice"] = _tool_choice(body["tool_choice"])
        if tools and body.get("parallel_tool_calls") is not None:
            payload["parallel_tool_calls"] = want(body, "parallel_tool_calls", bool)
        return Call(
            interface=self.name,
            payload=payload | {"n": (n := answers(body))},
            stream=want(body, "stream", bool, False),
            usage_in_stream=want(options, "include_usage", bool, False),
            n=n,
            user=want(body, "user", str, "") or want(body, "safety_identifier", str, ""),
            conversation=str(metadata.get("conversation_id") or ""),
            tool_texts=(*(turn["content"] for turn in turns if turn["role"] == "tool"), *("\n".join(strings(tool)) for tool in tools)),
            consent=consent(metadata),
        )

    def body(self, call: Call, completion: Completion) -> dict[str, Any]:
        """See `Wire.body`."""
        return {
            "id": completion.id,
            "object": "chat.completion",
            "created": completion.created,
            "model": completion.model,
            "choices": [
                {
                    "index": choice.index,
                    "message": {"role": "assistant", "content": choice.text or (None if choice.tools else ""), "refusal": None}
                    | ({"tool_calls": [_tool(tool) for tool in choice.tools]} if choice.tools else {}),
                    "finish_reason": choice.finish,
                    "logprobs": None,
                }
                for choice in completion.choices
            ],
            "usage": usage(completion.usage),
        }

    def frames(self, call: Call, completion: Completion) -> ChatFrames:
        """See `Wire.frames`."""
        return ChatFrames(call, completion)

    def error(self, refused: Failure) -> dict[str, Any]:
        """See `Wire.error`."""
        return sse.openai_error(refused)


class ChatFrames:
    """Chunks of chat completions."""

    def __init__(self, call: Call, completion: Completion) -> None:
        self._head = {"id": completion.id, "object": "chat.completion.chunk", "created": completion.created, "model": completion.model}
        self._n, self._usage = call.n, call.usage_in_stream

    def start(self) -> Iterator[bytes]:
        """See `Frames.start`."""
        for index in range(self._n):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def event(self, event: Event) -> Iterator[bytes]:
        """See `Frames.event`."""
        match event:
            case Text(index, text):
                yield self._chunk(index, {"content": text})
            case Tool(index, number, call):
                yield self._chunk(index, {"tool_calls": [{"index": number, **_tool(call)}]})
            case End(index, finish):
                yield self._chunk(index, {}, finish)
            case TokenCounts() if self._usage:
                yield sse.data({**self._head, "choices": [], "usage": usage(event)})

    def stop(self) -> Iterator[bytes]:
        """See `Frames.stop`."""
        yield sse.DONE

    def failed(self, refused: Failure) -> Iterator[bytes]:
        """See `Frames.failed`."""
        yield sse.data(sse.openai_error(refused))

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return sse.data({**self._head, "choices": [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}]})


def parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request that go upstream, each of its own type.

    Raises:
        Failure: one has another type.
    """
    found: dict[str, Any] = {key: want(body, key, (int, float)) for key in _NUMBERS} | {key: want(body, key, int) for key in _INTEGERS}
    found["stop"] = want(body, "stop", (str, list))
    if isinstance(found["stop"], list) and not all(isinstance(one, str) for one in found["stop"]):
        raise Failure(400, "invalid_type", "'stop' is a text or a list of texts", param="stop")
    bias = found["logit_bias"] = want(body, "logit_bias", dict)
    if bias and not all(key.isdigit() and isinstance(value, int | float) for key, value in bias.items()):
        raise Failure(400, "invalid_type", "'logit_bias' maps numbers of tokens to numbers", param="logit_bias")
    found["response_format"] = want(body, "response_format", dict)
    found["reasoning_effort"] = want(body, "reasoning_effort", str)
    if found["reasoning_effort"]:
        a_word(found["reasoning_effort"], "reasoning_effort")
    return {key: value for key, value in found.items() if value is not None}


def a_word(value: Any, where: str) -> str:
    """Return a name or an id: letters, digits and `_.:-`, at most 64, so that it can carry no message.

    Raises:
        Failure: it is none.
    """
    if not isinstance(value, str) or not _WORD.match(value):
        raise Failure(400, "invalid_value", f"{where} is no name of 1 to 64 letters, digits, '_', '.', ':' or '-'", param=where)
    return value


def _tool_choice(value: Any) -> Any:
    if isinstance(value, str):
        return a_word(value, "tool_choice")
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict):
        raise Failure(400, "invalid_value", "'tool_choice' is neither a word nor a function", param="tool_choice")
    return {"type": "function", "function": {"name": a_word(function.get("name"), "tool_choice")}}


def answers(body: Mapping[str, Any]) -> int:
    """Return `n`.

    Raises:
        Failure: it is no number from 1 to MAX_ANSWERS.
    """
    n: int = want(body, "n", int, 1)
    if not 1 <= n <= MAX_ANSWERS:
        raise Failure(400, "invalid_value", f"'n' is {n}; 1 to {MAX_ANSWERS} answers are possible", param="n")
    return n


def consent(metadata: Mapping[str, Any]) -> bool | None:
    """Return what `metadata.consent` says about training on the exchange; None if it says nothing."""
    value = metadata.get("consent")
    return None if value is None else str(value).lower() in ("true", "1", "yes")


def usage(counted: TokenCounts) -> dict[str, int]:
    """Return token counts in OpenAI's words."""
    prompt, completion = counted
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def tool_definitions(value: Any) -> list[dict[str, Any]]:
    """Return the tools of a request; only functions are known.

    Raises:
        Failure: one is malformed, or runs where its traffic cannot be seen.
    """
    if value is None:
        return []
    found = []
    for tool in turn_list(value, "tools") if value != [] else []:
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
            shown = str(tool.get("type"))[:32]
            raise Failure(422, "unsupported_tool", f"a tool of type {shown!r} is no function; its traffic cannot be checked", param="tools")
        known_only(function, frozenset(("name", "description", "parameters", "strict")), "a tool's function")
        a_word(function["name"], "the name of a tool")
        found.append({"type": "function", "function": function})
    return found


def _turn(turn: Mapping[str, Any], number: int) -> dict[str, Any]:
    role = turn.get("role")
    if role not in _ROLES:
        shown = role[:32] if isinstance(role, str) else role
        raise Failure(400, "invalid_value", f"message {number} has the role {shown!r}; known are {', '.join(_ROLES)}", param="messages")
    known_only(turn, frozenset(("role", "content", "name", "tool_calls", "tool_call_id", "refusal")), f"message {number}")
    text = text_of(turn.get("content"), _PARTS, f"message {number}")
    found: dict[str, Any] = {"role": role, "content": text or want(turn, "refusal", str, "")}
    if role == "assistant" and turn.get("tool_calls"):
        found["tool_calls"] = [_tool(read_tool(one)) for one in turn_list(turn["tool_calls"], "tool_calls")]
    if role == "tool":
        found["tool_call_id"] = a_word(turn.get("tool_call_id"), "tool_call_id")
    return found


def read_tool(value: Mapping[str, Any]) -> ToolCall:
    """Return a tool call of a message.

    Raises:
        Failure: it is malformed, or no call of a function.
    """
    function = value.get("function")
    if value.get("type", "function") != "function" or not isinstance(function, dict):
        raise Failure(422, "unsupported_tool", "a tool call that is no call of a function cannot be checked", param="tool_calls")
    name, called = a_word(value.get("id"), "the id of a tool call"), a_word(function.get("name"), "the name of a tool")
    return ToolCall(name, called, want(function, "arguments", str, ""))


def _tool(tool: ToolCall) -> dict[str, Any]:
    return {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}
