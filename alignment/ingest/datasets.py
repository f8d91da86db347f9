"""Records of data sets and chat interfaces: ShareGPT, WildChat and LMSYS, preferences, Open WebUI, Phoenix's rows, streamed chunks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from alignment.ingest.chat import Json, a_list, an_object

_BRANCHES, _BRANCH_CHARACTERS = 50, 1 << 22
"""How many answers of one chat are read, and how many characters their histories may have together: each repeats what came before."""
_ATTRIBUTE, _FOLDED = re.compile(r' name="([^"]{1,64})"'), 4000
_SIDES = ("chosen", "rejected", "conversation_a", "conversation_b", "messages")
_ENDS = ("response.completed", "response.incomplete", "response.failed")
"""Events of the Responses API that hold the whole answer."""


def preferences(record: Any) -> list[Any]:
    """Return the liked and the disliked side of a preference as records; each keeps what stood beside both.

    A side is a text, as transcripts are, or a list of messages, with the prompt among them or beside them (TRL, UltraFeedback).
    """
    body = an_object(record)
    more = {key: value for key, value in body.items() if key not in _SIDES}
    if isinstance(body.get("conversation_a"), list):
        return [{**more, **_battle(body, side)} for side in ("a", "b")]
    return [{**more, **_side(body, name), "thumbs": thumb} for name, thumb in (("chosen", "up"), ("rejected", "down"))]


def _battle(body: Json, side: str) -> dict[str, Any]:
    """Return one side of a comparison of the Arena; a tie says nothing of either."""
    won = {"model_a": "down", "model_b": "down", f"model_{side}": "up"}.get(str(body.get("winner")))
    return {"messages": body.get(f"conversation_{side}"), "thumbs": won, "model": body.get(f"model_{side}")}


def _side(body: Json, name: str) -> dict[str, Any]:
    said, prompt = body.get(name), body.get("prompt")
    before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []
    if isinstance(said, list):
        own = any(isinstance(turn, dict) and turn.get("role") == "user" for turn in said)
        return {"messages": said if own else [*before, *said]}
    if isinstance(said, dict):
        return {"messages": [*before, said]}
    if before and isinstance(said, str) and "\n\nAssistant:" not in said:
        return {"messages": [*before, {"role": "assistant", "content": said}]}
    return {"text": said}


def web_chats(record: Any) -> list[Any]:
    """Return the answers of an Open WebUI chat that are shown last or were rated, each with what came before it on its branch.

    Exports of feedback hold the chat as it was rated.
    """
    body = an_object(record)
    chat = an_object(body.get("chat")) or an_object(an_object(an_object(body.get("snapshot")).get("chat")).get("chat"))
    rating, rated = an_object(body.get("data")).get("rating"), an_object(body.get("meta")).get("message_id")
    history = an_object(chat.get("history"))
    known = {key: one for key, one in an_object(history.get("messages")).items() if isinstance(one, dict)}
    if not known:
        return [{**body, "messages": chat.get("messages")}]
    current = history.get("currentId")
    wanted = [key for key, one in known.items() if one.get("role") == "assistant" and (key in (current, rated) or _rating(one) is not None)]
    found: list[Any] = []
    size = 0
    for key in wanted[:_BRANCHES]:
        path = [_shown(one) for one in _branch(known, key)]
        size += sum(len(str(one.get("content"))) for one in path)
        if found and size > _BRANCH_CHARACTERS:
            break
        last = path[-1]
        thumbs = rating if key == rated and rating is not None else _rating(last)
        model = last.get("model") or next(iter(a_list(chat.get("models"))), None)
        found.append({**_without(body), "model": model, "created_at": last.get("timestamp") or body.get("updated_at"), "thumbs": thumbs,
                      "messages": path})  # fmt: skip
    return found or [{**_without(body), "messages": chat.get("messages")}]


def _shown(message: Json) -> Json:
    """Return a message without the folded blocks in which Open WebUI keeps thoughts and calls of tools; the tools are named beside it."""
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str) or '<details type="' not in content:
        return message
    first, *blocks = content.split('<details type="')
    kept, calls = [first], []
    for block in blocks:
        inner, closed, after = block.partition("</details>")
        kind = inner.partition('"')[0]
        # What is hidden behind words that were said, or never ends, may be part of what was said.
        spoken = "".join(kept).strip()
        if kind not in ("reasoning", "tool_calls", "code_interpreter") or (spoken and (kind == "reasoning" or not closed)):
            kept.append(f'<details type="{block}')
            continue
        if kind != "reasoning":
            named = _ATTRIBUTE.search(inner[:_FOLDED])
            calls.append({"function": {"name": named[1] if named else kind}})
        kept.append(after.lstrip("\n") if closed else "")
    return {**message, "content": "".join(kept).strip(), "tool_calls": [*a_list(message.get("tool_calls")), *calls]}


def _without(body: Json) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in ("chat", "snapshot")}


def _rating(message: Json) -> Any:
    return an_object(message.get("annotation")).get("rating")


def _branch(known: Mapping[str, Json], key: Any) -> Iterator[Json]:
    """Yield the messages from the first to the one called `key`; a ring of parents ends where it closes."""
    path: list[Json] = []
    seen: set[str] = set()
    while isinstance(key, str) and key in known and key not in seen:
        seen.add(key)
        path.append(known[key])
        key = known[key].get("parentId")
    yield from reversed(path)


def phoenix_chat(record: Json) -> dict[str, Any]:
    """Return messages and reply of a row of Phoenix's spans, whose attributes are columns or nested."""
    llm = an_object(an_object(record.get("attributes")).get("llm"))
    asked, said = (record.get(f"attributes.llm.{name}_messages", llm.get(f"{name}_messages")) for name in ("input", "output"))
    replies = [_phoenix_message(one) for one in a_list(said)]
    messages = [_phoenix_message(one) for one in asked] if isinstance(asked, list) else None
    return {"messages": messages, "reply": replies[0] if replies else None}


def _phoenix_message(value: Any) -> dict[str, Any]:
    one = an_object(value)
    if isinstance(one.get("message"), dict):
        return dict(one["message"])
    return {key.removeprefix("message."): inner for key, inner in one.items()}


def whole_answer(value: Any) -> Any:
    """Return the answer that streamed chunks make together, all else as it is. Chunks are a list, or the text of server-sent events."""
    chunks = _events(value) if isinstance(value, str) and value.lstrip().startswith(("data:", "event:", ":")) else value
    if not isinstance(chunks, list) or not chunks or not all(isinstance(one, dict) for one in chunks):
        return value
    last = next((one["response"] for one in reversed(chunks) if one.get("type") in _ENDS and isinstance(one.get("response"), dict)), None)
    if last is not None:
        return last
    first: dict[str, Any] = {}
    content: list[str] = []
    thoughts: list[str] = []
    refusal: list[str] = []
    calls: list[Any] = []
    ended = None
    for one in chunks:
        first = {**{key: one[key] for key in ("id", "created", "model", "error") if one.get(key) is not None}, **first}
        choice = an_object(next((each for each in a_list(one.get("choices")) if an_object(each).get("index", 0) == 0), None))
        delta = an_object(choice.get("delta")) or an_object(one.get("delta"))
        ended = choice.get("finish_reason") or delta.get("stop_reason") or ended
        content += _texts(delta, ("content", "text")) if delta else _texts(choice, ("text",))
        thoughts += _texts(delta, ("reasoning_content", "reasoning", "thinking"))
        refusal += _texts(delta, ("refusal",))
        calls += [call for call in a_list(delta.get("tool_calls")) if an_object(an_object(call).get("function")).get("name")]
        block = an_object(one.get("content_block"))
        calls += [{"function": {"name": block.get("name")}}] if str(block.get("type")).endswith("tool_use") else []
        message = an_object(one.get("message"))
        first = {**{key: message[key] for key in ("id", "model") if isinstance(message.get(key), str)}, **first}
    said = {"role": "assistant", "content": "".join(content), "refusal": "".join(refusal) or None, "reasoning_content": "".join(thoughts),
            "tool_calls": calls}  # fmt: skip
    return {**first, "choices": [{"message": said, "finish_reason": ended}]}


def _texts(value: Json, names: Iterable[str]) -> list[str]:
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
