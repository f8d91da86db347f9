"""Questions and answers from the requests and responses of all vendors.

Only the model's words are an answer: thoughts, tool calls, errors and a filter's text are not. For a record without an answer `skipped`
gives the reason. Where the reason is unclear, messages or response are None, which quarantines the record.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

_THOUGHTS = frozenset(
    (
        "thinking",
        "redacted_thinking",
        "reasoning",
        "reasoning_content",
        "reasoning_text",
        "thought",
        "summary_text",
        "reasoning.text",
        "compaction",
    )
)
_CALLS = frozenset(
    [
        "tool_use",
        "tool_call",
        "tool-call",
        "toolCall",
        "function_call",
        "custom_tool_call",
        "server_tool_use",
        "server_tool_call",
        "mcp_call",
        "mcp_approval_request",
        "mcp_tool_use",
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "computer_call",
        "image_generation_call",
        "local_shell_call",
    ]
)
_RESULTS = frozenset(
    [
        "tool_result",
        "tool-result",
        "tool_call_response",
        "server_tool_call_response",
        "function_call_output",
        "custom_tool_call_output",
        "web_search_tool_result",
        "mcp_tool_result",
        "code_execution_tool_result",
        "computer_call_output",
        "local_shell_call_output",
    ]
)
_UNTYPED = {
    "toolUse": "tool_use", "functionCall": "tool_call", "function_call": "tool_call", "executableCode": "tool_call",
    "executable_code": "tool_call", "toolResult": "tool_result", "functionResponse": "tool_result", "function_response": "tool_result",
    "codeExecutionResult": "tool_result", "code_execution_result": "tool_result", "reasoningContent": "reasoning",
    "guardContent": "text", "image": "image", "document": "document", "video": "video", "cachePoint": "thinking",
}  # fmt: skip
"""Kinds of parts known only by their single key, as Bedrock and Gemini write them; a cache mark says as little as a thought."""
_NOT_SAID = frozenset(("mcp_list_tools", "mcp_approval_response"))
"""Items among the turns of the Responses API that are not messages."""
_ROLES = {
    "developer": "system", "function": "tool", "observation": "tool", "model": "assistant", "ai": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "bot": "assistant", "human": "user", "prompter": "user",
    "system": "system", "user": "user", "assistant": "assistant", "tool": "tool",
}  # fmt: skip
_PRINTED = 1 << 20
Json = Mapping[str, Any]


def an_object(value: Any) -> Json:
    """Return the value if it is an object, else an empty object."""
    return value if isinstance(value, dict) else {}


def a_list(value: Any) -> Sequence[Any]:
    """Return the value if it is a list, else an empty list."""
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def unpacked(value: Any) -> Any:
    """Parse a text that is a JSON object or list; return any other value unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def printed(value: Any) -> Any:
    """Parse a text that is a list or object in JSON, or as Python prints it (pandas writes it into tables); return the rest unchanged.

    >>> printed("[{'role': 'user', 'content': None}]"), printed("[sic]")
    ([{'role': 'user', 'content': None}], '[sic]')
    """
    found = unpacked(value)
    if isinstance(found, str) and found.lstrip().startswith(("[{'", "{'")) and len(found) <= _PRINTED:
        try:
            return ast.literal_eval(found.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return found


def unpacked_messages(value: Any) -> Any:
    """Parse the messages in a text. A text that is other JSON stays a text, because an answer may itself be JSON."""
    found = printed(value)
    first = found[0] if isinstance(found, list) and found else found
    known = isinstance(first, dict) and (
        str(first.get("role")) in _ROLES
        or _is_item(first)
        or any(an_object(next(iter(a_list(first.get(key))), None)) for key in ("choices", "output", "messages", "candidates"))
        or isinstance(an_object(next(iter(a_list(first.get("input"))), None)).get("role"), str)
    )
    return found if known or not isinstance(value, str) else value


def _is_item(value: Any) -> bool:
    """Return whether this is a thought or a call, as the Responses API lists them beside messages."""
    one = an_object(value)
    return "role" not in one and (_type(one) in _THOUGHTS or _type(one) in _CALLS)


def _type(value: Json) -> str:
    return str(value["type"]) if isinstance(value.get("type"), str) else ""


def _kind(part: Any) -> str:
    if not isinstance(part, dict):
        return "text" if isinstance(part, str) else "part"
    if part.get("thought") is True:
        return "thinking"
    if "type" not in part and (untyped := next((kind for key, kind in _UNTYPED.items() if isinstance(part.get(key), dict)), None)):
        return untyped
    kind = part.get("type")
    if not isinstance(kind, str):
        return "text" if any(isinstance(part.get(key), str) for key in ("text", "content")) else "part"
    # Each new vendor tool brings its own kind.
    return "tool_result" if kind.endswith("_tool_result") else kind


def _part_text(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    one = an_object(part)
    if isinstance(one.get("guardContent"), dict):
        return _text(an_object(one["guardContent"].get("text")).get("text"))
    return next((one[key] for key in ("text", "content", "input_text") if isinstance(one.get(key), str)), None)


def _turn_part(part: Any) -> str | None:
    """Return what a part adds to a turn: a picture leaves its type, a thought or a call nothing."""
    kind = _kind(part)
    if kind in _THOUGHTS or kind in _CALLS:
        return None
    if kind == "refusal":
        return _text(part.get("refusal"))
    if kind in _RESULTS:
        return _result(part)
    text = _part_text(part)
    return text if text is not None else f"[{kind}]"


def _result(part: Json) -> str:
    part = an_object(part.get("toolResult")) or part
    for key in ("content", "response", "result", "output", "functionResponse"):
        if isinstance(part.get(key), str):
            return str(part[key])
        if isinstance(part.get(key), list):
            return "\n".join(filter(None, map(_part_text, part[key])))
    return ""


def _said_part(part: Any) -> str | None:
    kind = _kind(part)
    if kind == "refusal":
        return _text(part.get("refusal")) or _part_text(part)
    return _part_text(part) if kind in ("text", "output_text") else None


def _joined(content: Any, read: Callable[[Any], str | None], between: str = "\n") -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    found = [text for part in content if (text := read(part)) is not None]
    return between.join(found) if found else None


def _parts(message: Json) -> Any:
    return next((message[key] for key in ("content", "parts", "value") if message.get(key) is not None), None)


def words(message: Any) -> str | None:
    """Return what the model says in a message: its text, or else its refusal.

    >>> words({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes."}]})
    'Yes.'
    """
    content = _parts(an_object(message))
    # A text with citations is split at each citation, in the middle of sentences.
    cited = any(an_object(part).get("citations") or _kind(part) == "reference" for part in a_list(content))
    # Gemini's parts are pieces of one text.
    pieces = "parts" in an_object(message) and not any("type" in an_object(part) for part in a_list(content))
    said = _joined(content, _said_part, "" if cited or pieces else "\n")
    spoken = an_object(an_object(message).get("audio")).get("transcript")
    return said or _text(an_object(message).get("refusal")) or _text(spoken) or said


def call_names(message: Any) -> list[str]:
    """Return the names of the tools that a message calls; a call without a name is `unnamed`."""
    one = an_object(message)
    called = [an_object(each) for each in a_list(one.get("tool_calls"))]
    named = [
        an_object(each.get("function")).get("name") or an_object(each.get("custom")).get("name") or each.get("name") for each in called
    ]
    if isinstance(one.get("function_call"), dict):
        named.append(one["function_call"].get("name"))
    if _type(one) in _CALLS and "role" not in one:
        named.append(one.get("name"))
    for part in a_list(_parts(one)):
        if _kind(part) in _CALLS and isinstance(part, dict):
            inner = next((an_object(part[key]) for key in ("functionCall", "function_call", "toolUse") if an_object(part.get(key))), {})
            runs = "executableCode" in part or "executable_code" in part
            named.append(part.get("name") or inner.get("name") or ("code_execution" if runs else None))
    return [name if isinstance(name, str) and name else "unnamed" for name in named]


def role_of(message: Json) -> Any:
    """Return a turn's role in our terms. Some formats put a tool's result into a user's turn, others into a turn without a role."""
    parts = a_list(_parts(message))
    if parts and all(_kind(part) in _RESULTS for part in parts):
        return "tool"
    role = message.get("role") or message.get("from")
    if role is None:
        kind = _type(message)
        # LangChain's messages keep their role in `type`.
        return "tool" if kind in _RESULTS else "assistant" if kind in _CALLS else _ROLES.get(kind)
    return _ROLES.get(role.lower(), role) if isinstance(role, str) else role


def turns(messages: Any) -> list[dict[str, Any]] | None:
    """Return turns as a role and a text, ready to be judged; None if this is not a list of turns."""
    if not isinstance(messages, list):
        return None
    found = []
    for message in _apart(messages):
        if (_type(message) in _THOUGHTS or _type(message) in _NOT_SAID) and "role" not in message:
            continue
        if message.get("channel") == "analysis":
            continue
        role = role_of(message)
        content = _parts(message)
        text = _joined(content, _turn_part)
        if text is None and role in ("assistant", "tool") and (content is None or isinstance(content, list)):
            # A turn that only calls a tool has no words, and some tools return none.
            text = _text(message.get("refusal")) or _text(message.get("output")) or ""
        found.append({"role": role, "content": text})
    return found


def tools_of(messages: Any) -> list[str]:
    """Return the tools called since the user last spoke."""
    names: list[str] = []
    for one in reversed(a_list(messages)):
        message = an_object(one)
        if role_of(message) == "user" and not _holds_results(message):
            break
        names[:0] = call_names(one)
    return names


def _holds_results(message: Json) -> bool:
    return any(_kind(part) in _RESULTS for part in a_list(_parts(message)))


def _apart(messages: Sequence[Any]) -> Iterator[Json]:
    """Yield messages; split a user's message that holds both tool results and words into two."""
    for one in messages:
        message = an_object(one)
        if _holds_results(message) and role_of(message) == "user":
            results = [part for part in a_list(_parts(message)) if _kind(part) in _RESULTS]
            yield {"role": "tool", "content": results}
            yield {**message, "content": [part for part in a_list(_parts(message)) if part not in results]}
        else:
            yield message


def _system(request: Json) -> list[dict[str, Any]]:
    said = request.get("instructions") or request.get("system") or request.get("systemInstruction") or request.get("system_instruction")
    text = _joined(an_object(said).get("parts") if isinstance(said, dict) else said, _turn_part)
    return [{"role": "system", "content": text}] if text else []


def asked(request: Any) -> Any:
    """Return the messages of a request as its vendor writes them; None if it is not a chat request."""
    body = an_object(request)
    for key in ("messages", "input"):
        if isinstance(body.get(key), list):
            return [*_system(body), *body[key]]
    if contents := body.get("contents"):
        # Gemini treats a content without a role, a single content and a bare text as the user's.
        each = [{"parts": [one]} if isinstance(one, str) else one for one in (contents if isinstance(contents, list) else [contents])]
        return [*_system(body), *({"role": "user", **one} if isinstance(one, dict) else one for one in each)]
    for key in ("input", "prompt"):
        said = body.get(key)
        said = said[0] if key == "prompt" and isinstance(said, list) and len(said) == 1 else said
        if isinstance(said, str):
            return [*_system(body), {"role": "user", "content": said}]
    return None


def first_of(body: Json, key: str) -> Json:
    """Return the choice or candidate with index 0, wherever it is in the list."""
    listed = [one for one in a_list(body.get(key)) if isinstance(one, dict)]
    return next((one for one in listed if one.get("index") == 0), listed[0] if listed else {})


def reply(answer: Any) -> Json | None:
    """Return the message in an answer, or None."""
    body = an_object(answer)
    choice = first_of(body, "choices")
    if isinstance(choice.get("message"), dict):
        return an_object(choice["message"])
    if isinstance(choice.get("text"), str):
        return {"content": choice["text"]}
    if isinstance(body.get("output"), list):
        return {"role": "assistant", "content": list(_output_parts(body["output"]))}
    candidate = first_of(body, "candidates")
    if isinstance(candidate.get("content"), dict):
        return an_object(candidate["content"])
    if isinstance(body.get("response"), str) and "done" in body:
        # Ollama's answer to a prompt.
        return {"content": body["response"], "thinking": body.get("thinking")}
    if isinstance(body.get("message"), dict):
        return an_object(body["message"])
    output = an_object(an_object(body.get("output")).get("message"))
    return output or (body if body.get("role") in ("assistant", "model") or body.get("type") == "message" else None)


def _output_parts(output: Iterable[Any]) -> Iterable[Any]:
    """Yield the parts of all messages in a Responses API output, together with its calls and thoughts."""
    for item in output:
        if an_object(item).get("type") == "message":
            yield from a_list(item.get("content")) or filter(None, [_text(item.get("content"))])
        else:
            yield item


def message_of(output: Any) -> Json | None:
    """Return the message in whatever a tracer kept as output: an answer, a message, a list of messages, or any value as its text."""
    if isinstance(output, str):
        return {"content": output}
    if any(map(_is_item, a_list(output) or [output])):
        return {"role": "assistant", "content": list(_output_parts(a_list(output) or [output]))}
    if isinstance(output, list):
        if output and all(an_object(one).get("type") == "function" and "function" in one for one in output):
            return {"role": "assistant", "tool_calls": output}
        told = [one for one in output if isinstance(one, dict) and (isinstance(one.get("role"), str) or "content" in one)]
        if told:
            return told[-1] if isinstance(told[-1].get("role"), str) else told[0]
        return {"content": json.dumps(output, ensure_ascii=False)} if output else None
    if not isinstance(output, dict):
        return None
    found = reply(output)
    if found is None and isinstance(output.get("messages"), list):
        return message_of(output["messages"])
    return found or (output if _parts(output) is not None or call_names(output) else {"content": json.dumps(output, ensure_ascii=False)})


def only_thinks(message: Any) -> bool:
    """Return whether a message holds thoughts; ask only about a message without words."""
    one = an_object(message)
    beside = any(isinstance(one.get(key), str) and one[key] for key in ("reasoning_content", "reasoning", "thinking"))
    return beside or any(_kind(part) in _THOUGHTS for part in a_list(_parts(one)))
