"""Records of data sets and chat interfaces: ShareGPT, WildChat and LMSYS, preferences, Open WebUI, Phoenix's rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from alignment.ingest.chat import Json, a_list, an_object, printed, unpacked

_BRANCHES, _BRANCH_CHARACTERS = 50, 1 << 22
"""Answers read per chat, and characters that their histories may have together: each history repeats the earlier messages."""
_ATTRIBUTE, _FOLDED = re.compile(r' name="([^"]{1,64})"'), 4000
_LIKED, _DISLIKED = ("chosen", "preferred_output", "chosen_response"), ("rejected", "non_preferred_output", "rejected_response")
_ASKED = ("prompt", "question", "instruction", "input", "conversations")
_SIDES = (*_LIKED, *_DISLIKED, "conversation_a", "conversation_b", "messages")


def listed(value: Any) -> Any:
    """Parse a table cell whose text is a list or object, as JSON or as Python prints it; return any other value unchanged.

    >>> listed("[{'role': 'user', 'content': 'Hi'}]"), listed("[sic]")
    ([{'role': 'user', 'content': 'Hi'}], '[sic]')
    """
    found = printed(value)
    # A text that is other JSON may be an answer.
    known = isinstance(found, dict) and ("role" in found or "from" in found or "messages" in found)
    return found if known or (isinstance(found, list) and any(isinstance(one, dict) for one in found)) else value


def system_of(record: Json) -> str:
    """Return the system prompt stored beside a conversation, or an empty text."""
    return next((record[key] for key in ("system", "system_prompt") if isinstance(record.get(key), str) and record[key].strip()), "")


def preferences(record: Any) -> list[Any]:
    """Return the liked and the disliked side of a preference as records; each keeps the fields that both share.

    A side is a text, as transcripts are, or a list of messages, with the prompt among them or beside them (TRL, UltraFeedback).
    """
    body = an_object(record)
    more = {key: value for key, value in body.items() if key not in _SIDES}
    if isinstance(body.get("conversation_a"), list):
        return [{**more, **_battle(body, side)} for side in ("a", "b")]
    sides = [_side(body, names) for names in (_LIKED, _DISLIKED)]
    # An answer preferred to itself is neither liked nor disliked.
    thumbs = ("up", "down") if sides[0] != sides[1] else (None, None)
    return [{**more, **side, "thumbs": thumb} for side, thumb in zip(sides, thumbs, strict=True)]


def _battle(body: Json, side: str) -> dict[str, Any]:
    """Return one side of an Arena comparison; a tie rates neither side."""
    won = {"model_a": "down", "model_b": "down", f"model_{side}": "up"}.get(str(body.get("winner")))
    return {"messages": body.get(f"conversation_{side}"), "thumbs": won, "model": body.get(f"model_{side}")}


def _side(body: Json, names: tuple[str, ...]) -> dict[str, Any]:
    said = listed(next((body[name] for name in names if body.get(name) is not None), None))
    prompt = listed(next((body[name] for name in _ASKED if body.get(name)), None))
    prompt = prompt.get("messages") if isinstance(prompt, dict) else prompt
    before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []
    if before and (system := system_of(body)):
        before = [{"role": "system", "content": system}, *before]
    if isinstance(said, list):
        own = any(isinstance(turn, dict) and turn.get("role", turn.get("from")) in ("user", "human") for turn in said)
        return {"messages": said if own else [*before, *said]}
    if isinstance(said, dict):
        return {"messages": [*before, said]}
    if before and isinstance(said, str) and "\n\nAssistant:" not in said:
        return {"messages": [*before, {"role": "assistant", "content": said}]}
    return {"text": said}


def web_chats(record: Any) -> list[Any]:
    """Return the answers of an Open WebUI chat that are shown last or were rated, each with its branch's earlier messages.

    Feedback exports hold the chat as it was rated.
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
        path = [*_system_of(chat), *(_shown(one) for one in _branch(known, key))]
        size += sum(len(str(one.get("content"))) for one in path)
        if found and size > _BRANCH_CHARACTERS:
            break
        last = path[-1]
        thumbs = rating if key == rated and rating is not None else _rating(last)
        model = last.get("model") or next(iter(a_list(chat.get("models"))), None)
        found.append({**_without(body), "model": model, "created_at": last.get("timestamp") or body.get("updated_at"), "thumbs": thumbs,
                      "messages": path})  # fmt: skip
    return found or [{**_without(body), "messages": chat.get("messages")}]


def _system_of(chat: Json) -> list[Json]:
    said = an_object(chat.get("params")).get("system")
    return [{"role": "system", "content": said}] if isinstance(said, str) and said.strip() else []


def _shown(message: Json) -> Json:
    """Remove the folded blocks in which Open WebUI keeps thoughts and tool calls from a message; name the tools beside it."""
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str) or '<details type="' not in content:
        return message
    first, *blocks = content.split('<details type="')
    kept, calls = [first], []
    for block in blocks:
        inner, closed, after = block.partition("</details>")
        kind = inner.partition('"')[0]
        # A block that follows spoken words, or never ends, may be part of the answer.
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
    """Yield the messages from the first to the one called `key`; stop where parents form a cycle."""
    path: list[Json] = []
    seen: set[str] = set()
    while isinstance(key, str) and key in known and key not in seen:
        seen.add(key)
        path.append(known[key])
        key = known[key].get("parentId")
    yield from reversed(path)


def phoenix_chat(record: Json) -> dict[str, Any]:
    """Return messages and reply of one of Phoenix's span rows, whose attributes are columns or nested."""
    llm = an_object(an_object(record.get("attributes")).get("llm"))
    asked, said = (unpacked(record.get(f"attributes.llm.{name}_messages", llm.get(f"{name}_messages"))) for name in ("input", "output"))
    replies = [_phoenix_message(one) for one in a_list(said)]
    messages = [_phoenix_message(one) for one in asked] if isinstance(asked, list) else None
    return {"messages": messages, "reply": replies[0] if replies else None, "failed": record.get("status_code") == "ERROR"}


def _phoenix_message(value: Any) -> dict[str, Any]:
    one = an_object(value)
    found = (
        dict(one["message"])
        if isinstance(one.get("message"), dict)
        else {key.removeprefix("message."): inner for key, inner in one.items()}
    )
    if found.get("content") is None and isinstance(found.get("contents"), list):
        parts = [an_object(an_object(part).get("message_content")) or an_object(part) for part in found["contents"]]
        found["content"] = [{key.removeprefix("message_content."): inner for key, inner in part.items()} for part in parts]
    calls = [an_object(an_object(call).get("tool_call")) or an_object(call) for call in a_list(found.get("tool_calls"))]
    named = [{"name": call.get("tool_call.function.name"), **call} for call in calls]
    return {**found, "tool_calls": named} if named else found
