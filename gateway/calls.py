"""A request and its answer in one form, whatever interface a client speaks.

Interfaces in `gateway/wire` parse a request into a `Call`, and write a `Completion` or its events in their own form. What a parser does
not know is refused: a part that nothing can read must not pass unread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

from alignment.records import Message

MAX_ANSWERS = 16
"""Largest `n`: the answers of one call."""
MAX_MESSAGES = 2_000
_SHORTEST = 6


class Failure(Exception):
    """What a client gets instead of an answer: a status, a code and a message, which never repeats a text of the request.

    Not in `alignment.errors`: those messages are for operators, these for clients.
    """

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_after = status, code, message, param, retry_after


class ToolCall(NamedTuple):
    """A function that the model wants called; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. `finish` is stop, length, tool_calls or content_filter."""

    index: int
    text: str
    tools: tuple[ToolCall, ...] = ()
    finish: str = "stop"

    @property
    def texts(self) -> tuple[str, ...]:
        """All that the model wrote: the text, then name and arguments of each tool call."""
        return (self.text, *(part for tool in self.tools for part in (tool.name, tool.arguments)))


class TokenCounts(NamedTuple):
    """Tokens, as the upstream counted them."""

    prompt: int = 0
    completion: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer to a call."""

    id: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: TokenCounts = field(default_factory=TokenCounts)


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of an answer's text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A whole tool call of an answer; `number` counts the answer's calls from 0."""

    index: int
    number: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class End:
    """The end of one answer."""

    index: int
    finish: str


Event = Text | Tool | End | TokenCounts


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be sent upstream.

    `payload` is the body of a chat completion (or a plain one, if `path` says so) without model and stream; nothing else is sent.
    `tool_texts` are results and definitions of tools, which strangers may have written. `user` and `conversation` identify who asks,
    empty if the request does not say.
    """

    interface: str
    payload: Mapping[str, Any]
    path: Literal["chat/completions", "completions"] = "chat/completions"
    stream: bool = False
    usage_in_stream: bool = False
    n: int = 1
    user: str = ""
    conversation: str = ""
    tool_texts: tuple[str, ...] = ()
    consent: bool | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation as checks read it: roles and texts."""
        if self.path == "completions":
            return (Message(role="user", content=str(self.payload["prompt"])),)
        return tuple(Message(role=turn["role"], content=content_text(turn)) for turn in self.payload["messages"])

    @property
    def leaves(self) -> tuple[str, ...]:
        """Every text that is sent upstream, names of fields included, each once; those too short to hold anything are left out."""
        return tuple(dict.fromkeys(text for text in strings(self.payload) if len(text) >= _SHORTEST))

    @property
    def given(self) -> str:
        """What the client itself sent, the operator's instructions aside."""
        return "\n".join(turn["content"] for turn in self.messages if turn["role"] not in ("system", "developer"))

    @property
    def system(self) -> str:
        """The operator's instructions."""
        return "\n".join(turn["content"] for turn in self.messages if turn["role"] in ("system", "developer"))

    def with_leaves(self, change: Mapping[str, str]) -> Call:
        """Return the call with each of its leaves that is a key of `change` replaced by its value."""
        return replace(self, payload=_replaced(self.payload, change))

    def instructed(self, instruction: str) -> Call:
        """Return the call with an instruction added to the system prompt."""
        if self.path == "completions":
            return replace(self, payload={**self.payload, "prompt": f"{instruction}\n\n{self.payload['prompt']}"})
        turns = list(self.payload["messages"])
        if turns and turns[0]["role"] in ("system", "developer"):
            turns[0] = {**turns[0], "content": f"{content_text(turns[0])}\n\n{instruction}"}
        else:
            turns.insert(0, {"role": "system", "content": instruction})
        return replace(self, payload={**self.payload, "messages": turns})


def _replaced(value: Any, change: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return change.get(value, value)
    if isinstance(value, Mapping):
        return {change.get(key, key): _replaced(one, change) for key, one in value.items()}
    return [_replaced(one, change) for one in value] if isinstance(value, list) else value


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield key
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


def content_text(turn: Mapping[str, Any]) -> str:
    """Return all that a turn says: its text, and the tool calls of an assistant."""
    content = turn.get("content") or ""
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    calls = [f"{one['function']['name']} {one['function']['arguments']}" for one in turn.get("tool_calls") or ()]
    return "\n".join(filter(None, [*texts, *calls]))


class Wire(Protocol):
    """An interface that clients speak."""

    name: str
    path: str

    def parse(self, body: Mapping[str, Any]) -> Call:
        """Return the call.

        Raises:
            Failure: the request is malformed, or holds what this gateway cannot check.
        """
        ...

    def body(self, call: Call, completion: Completion) -> dict[str, Any]:
        """Return a whole answer's body."""
        ...

    def frames(self, call: Call, completion: Completion) -> Frames:
        """Return the writer of one stream; `completion` has its id, time and model."""
        ...

    def error(self, refused: Failure) -> dict[str, Any]:
        """Return an error's body."""
        ...


class Frames(Protocol):
    """Writes the server-sent events of one stream."""

    def start(self) -> Iterator[bytes]:
        """Yield what comes before the first event."""
        ...

    def event(self, event: Event) -> Iterator[bytes]:
        """Yield an event."""
        ...

    def stop(self) -> Iterator[bytes]:
        """Yield what comes after the last event of a stream that went well."""
        ...

    def failed(self, refused: Failure) -> Iterator[bytes]:
        """Yield an error that ends the stream."""
        ...


def want(body: Mapping[str, Any], key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """Return a field, or `default` if it is missing or null.

    Raises:
        Failure: it has another type.
    """
    value = body.get(key)
    if value is None:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    # In JSON true is no number.
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kinds):
        raise Failure(
            400, "invalid_type", f"{key!r} is a {type(value).__name__}; {' or '.join(one.__name__ for one in kinds)} is needed", param=key
        )
    return value


def known_only(body: Mapping[str, Any], known: frozenset[str], where: str = "the request") -> None:
    """Refuse keys that hold something and are not known.

    Raises:
        Failure: there is one.
    """
    for key, value in body.items():
        if key not in known and value not in (None, False, [], {}, ""):
            raise Failure(400, "unknown_parameter", f"{key[:64]!r} in {where} is not supported by this gateway", param=key[:64])


def text_of(content: Any, kinds: Sequence[str], where: str) -> str:
    """Return the text of a content: a string, or a list of text parts.

    Raises:
        Failure: a part is no text, which nothing here can check.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise Failure(400, "invalid_type", f"the content of {where} is neither a text nor a list of parts", param=where)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in kinds:
            shown = kind[:32] if isinstance(kind, str) else kind
            raise Failure(422, "unsupported_content", f"{where} has a part of type {shown!r}; only text can be checked", param=where)
        value = part.get("text", part.get("refusal") if kind == "refusal" else None)
        if not isinstance(value, str):
            raise Failure(400, "invalid_type", f"a part of {where} has no text", param=where)
        texts.append(value)
    return "\n".join(texts)


def turn_list(value: Any, where: str) -> list[dict[str, Any]]:
    """Return a list of 1 to MAX_MESSAGES objects.

    Raises:
        Failure: it is none.
    """
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise Failure(400, "invalid_type", f"{where!r} is no list of objects, or empty", param=where)
    if len(value) > MAX_MESSAGES:
        raise Failure(413, "too_many_messages", f"{where!r} has {len(value)} entries; at most {MAX_MESSAGES} are checked", param=where)
    return value
