"""Model calls in OTLP JSON, in the four ways in which libraries write them.

Messages are in attributes of the span (GenAI conventions from 1.37), in those of its event or of a log record, in one event per message
(up to 1.36), or in one attribute per message (OpenLLMetry, OpenInference). Each call becomes its span or log record with `chat` beside it:
`messages` and `reply` as in chat completions, `wraps` for an agent's span, which repeats the calls within, and `event` for a log record,
which may repeat its span.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from alignment.ingest.chat import asked as asked_of
from alignment.ingest.chat import call_names, words

_DETAILS = "gen_ai.client.inference.operation.details"
_ONE_EACH = re.compile(r"(?:gen_ai\.(prompt|completion)|llm\.(input|output)_messages)\.([0-9]{1,6})\.(?:message\.)?(.+)")
_PART = re.compile(r"contents\.([0-9]{1,6})\.message_content\.(type|text)")
_CALL = re.compile(r"tool_calls\.([0-9]{1,6})\.(?:tool_call\.function\.)?name")
_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_WRAPS = ("invoke_agent", "create_agent", "invoke_workflow")
_NOT_CALLS = ("embeddings", "execute_tool", "create_agent", "retrieval")
_DEEP = 64


def records(line: Any) -> list[Any]:
    """Return the calls of an OTLP document; return any other value as the only record."""
    if isinstance(line, dict) and isinstance(line.get("span_kind"), str) and line["span_kind"].upper() not in ("LLM", "UNKNOWN"):
        # One of Phoenix's rows that is not a model call.
        return []
    if (span := _printed(line)) is not None:
        return [call] if (call := _call_of_span(span)) else []
    if (log := _printed_log(line)) is not None:
        return [*filter(None, [_call_of_log(log)]), *_calls_of_events([log])]
    if not isinstance(line, dict) or not {"resourceSpans", "resourceLogs", "resourceMetrics"} & line.keys():
        return [line]
    spans = list(_inner(line, "resourceSpans", "scopeSpans", "spans"))
    logs = list(_inner(line, "resourceLogs", "scopeLogs", "logRecords"))
    return [*filter(None, map(_call_of_span, spans)), *filter(None, map(_call_of_log, logs)), *_calls_of_events(logs)]


def _printed(line: Any) -> dict[str, Any] | None:
    """Return the OTLP form of a span that the SDK's console exporter printed; None for anything else."""
    if not isinstance(line, dict) or not isinstance(line.get("context"), dict) or not isinstance(line.get("attributes"), dict):
        return None
    if not any(key.startswith(("gen_ai.", "llm.", "openinference.")) for key in line["attributes"]):
        return None
    events = line["events"] if isinstance(line.get("events"), list) else []
    return {
        "traceId": line["context"].get("trace_id"),
        "spanId": line["context"].get("span_id"),
        "startTimeUnixNano": _nanoseconds(line.get("start_time")),
        "status": line.get("status"),
        "attributes": _pairs(line["attributes"]),
        "events": [{**one, "attributes": _pairs(one.get("attributes"))} for one in events if isinstance(one, dict)],
    }


def _printed_log(line: Any) -> dict[str, Any] | None:
    """Return the OTLP form of a call's log record that the SDK's console exporter printed; None for anything else."""
    if not isinstance(line, dict) or "severity_number" not in line or "observed_timestamp" not in line:
        return None
    log = {
        "traceId": line.get("trace_id"),
        "spanId": line.get("span_id"),
        "timeUnixNano": _nanoseconds(line.get("timestamp") or line["observed_timestamp"]),
        "eventName": line.get("event_name"),
        "attributes": _pairs(line.get("attributes")),
        "body": {"kvlistValue": {"values": _pairs(line.get("body"))}},
    }
    return log if _event_name(log).startswith("gen_ai.") else None


def _pairs(values: Any) -> list[dict[str, Any]]:
    found = values.items() if isinstance(values, dict) else ()
    return [{"key": key, "value": _otlp(value)} for key, value in found]


def _otlp(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_otlp(one) for one in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": _pairs(value)}}
    kind = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}.get(type(value))
    return {kind: value} if kind else {}


def _nanoseconds(moment: Any) -> str | None:
    try:
        return str(int(datetime.fromisoformat(moment).timestamp() * 1_000_000) * 1000)
    except (TypeError, ValueError, OverflowError):
        return None


def _inner(line: Mapping[str, Any], *names: str) -> Iterator[dict[str, Any]]:
    found: list[Any] = [line]
    for name in names:
        found = [each for one in found if isinstance(one, dict) and isinstance(one.get(name), list) for each in one[name]]
    return (one for one in found if isinstance(one, dict))


def plain(value: Any, depth: int = 0) -> Any:
    """Return an OTLP value as plain JSON; drop values nested deeper than messages are.

    >>> plain({"arrayValue": {"values": [{"kvlistValue": {"values": [{"key": "a", "value": {"intValue": "1"}}]}}]}})
    [{'a': '1'}]
    """
    if not isinstance(value, dict) or depth > _DEEP:
        return None
    if isinstance(value.get("arrayValue"), dict):
        values = value["arrayValue"].get("values")
        return [plain(one, depth + 1) for one in values] if isinstance(values, list) else []
    if isinstance(value.get("kvlistValue"), dict):
        return attributes(value["kvlistValue"].get("values"), depth + 1)
    return next((value[kind] for kind in ("stringValue", "intValue", "boolValue", "doubleValue") if kind in value), None)


def attributes(pairs: Any, depth: int = 0) -> dict[str, Any]:
    """Return a list of keys and values as a mapping; of a repeated key the first counts."""
    found: dict[str, Any] = {}
    for one in pairs if isinstance(pairs, list) else []:
        if isinstance(one, dict) and isinstance(one.get("key"), str):
            found.setdefault(one["key"], plain(one.get("value"), depth))
    return found


def _unpacked(value: Any) -> Any:
    """Parse the JSON in a text; return None if it is not JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _call_of_span(span: dict[str, Any]) -> dict[str, Any] | None:
    own = attributes(span.get("attributes"))
    events = [one for one in span.get("events") or [] if isinstance(one, dict)] if isinstance(span.get("events"), list) else []
    for event in events:
        if event.get("name") == _DETAILS or event.get("eventName") == _DETAILS:
            own = {**attributes(event.get("attributes")), **own}
    told = [(str(one.get("name", "")), attributes(one.get("attributes"))) for one in events]
    chat = _chat(own) or _events_chat(told) or _half(own)
    return {**span, "chat": {**_told(chat, own), "failed": _has_failed(span) or "error.type" in own}} if chat else None


def _half(own: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a call whose answer is missing: it failed, was cut off, or its answer was not recorded."""
    known = "gen_ai.input.messages" in own and own.get("gen_ai.operation.name") not in _NOT_CALLS
    return {"half": True} if known else None


def _has_failed(span: Mapping[str, Any]) -> bool:
    status = _as_dict(span.get("status"))
    return status.get("code") in (2, "2", "STATUS_CODE_ERROR") or status.get("status_code") == "ERROR"


def _call_of_log(log: dict[str, Any]) -> dict[str, Any] | None:
    own = attributes(log.get("attributes"))
    if _DETAILS not in (log.get("eventName"), own.get("event.name")):
        return None
    body = plain(log.get("body"))
    own = {**(body if isinstance(body, dict) else {}), **own}
    chat = _chat(own) or _half(own)
    return {**log, "chat": {**_told(chat, own), "event": True, "failed": "error.type" in own}} if chat else None


def _told(chat: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    wraps = own.get("gen_ai.operation.name") in _WRAPS or own.get("openinference.span.kind") == "AGENT"
    reasons = _unpacked(own.get("gen_ai.response.finish_reasons"))
    reason = reasons[0] if isinstance(reasons, list) and reasons else own.get("llm.finish_reason")
    return {**chat, "wraps": wraps, "finish_reason": reason}


def _chat(own: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return messages and reply of a call; None if these are not a call's attributes."""
    if own.get("gen_ai.operation.name") in _NOT_CALLS or own.get("llm.request.type") in ("embedding", "rerank"):
        return None
    if "gen_ai.output.messages" in own:
        asked, said = _unpacked(own.get("gen_ai.input.messages")), _unpacked(own["gen_ai.output.messages"])
        system = own.get("gen_ai.system_instructions")
        parts = _unpacked(system)
        before = [{"role": "system", "content": parts if isinstance(parts, list) else system}] if system and parts != [] else []
        return {"messages": [*before, *asked] if isinstance(asked, list) else None, "reply": _first(said)}
    if own.get("langfuse.observation.type") == "generation":
        return {"langfuse": {key: own.get(f"langfuse.observation.{key}") for key in ("input", "output", "level")}}
    if "ai.prompt.messages" in own:
        # Vercel's SDK; the enclosing span has the same answer, and no messages.
        called = _unpacked(own.get("ai.response.toolCalls"))
        calls = [{"name": _as_dict(one).get("toolName")} for one in called] if isinstance(called, list) else []
        return {"messages": _unpacked(own["ai.prompt.messages"]), "reply": {"content": own.get("ai.response.text"), "tool_calls": calls}}
    events = _unpacked(own.get("events"))
    if isinstance(events, list) and (chat := _events_chat([(str(_as_dict(one).get("event.name")), _as_dict(one)) for one in events])):
        return chat
    kind = own.get("openinference.span.kind")
    if kind in (None, "LLM"):
        asked, said = _one_each(own, "prompt", "input"), _one_each(own, "completion", "output")
        if asked or said:
            return {"messages": asked, "reply": _first(said), "answer": _unpacked(own.get("output.value"))}
        if kind and (request := asked_of(_unpacked(own.get("input.value")))):
            return {"messages": request, "reply": None, "answer": _unpacked(own.get("output.value"))}
        asked_text, said_text = own.get("input.value"), own.get("output.value")
        if kind and isinstance(asked_text, str) and isinstance(said_text, str) and own.get("input.mime_type", "text/plain") == "text/plain":
            return {"messages": [{"role": "user", "content": asked_text}], "reply": {"content": said_text}}
    return None


def _first(said: Any) -> Any:
    """Return the first message with words, or else with calls; thoughts may come before as a message of their own."""
    told = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    return next(filter(words, told), None) or next(filter(call_names, told), None) or next(iter(told), None)


def _one_each(own: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    """Return messages that have one attribute each, in order."""
    found: dict[int, dict[str, Any]] = {}
    for key, value in own.items():
        match = _ONE_EACH.fullmatch(key)
        if match and (match[1] or match[2]) in names:
            message = found.setdefault(int(match[3]), {"role": None, "content": None, "parts": {}, "calls": {}})
            if match[4] in ("role", "content", "reasoning", "finish_reason"):
                message[match[4]] = _typed(value) if match[4] == "content" else value
            elif match[4] == "function_call_name":
                message["function_call"] = {"name": value}
            elif part := _PART.fullmatch(match[4]):
                message["parts"].setdefault(int(part[1]), {})[part[2]] = value
            elif call := _CALL.fullmatch(match[4]):
                message["calls"][int(call[1])] = {"function": {"name": value}}
    asks = bool({"prompt", "input"} & set(names))
    return [_message({**found[number], "role": found[number]["role"] or ("user" if asks else None)}) for number in sorted(found)]


def _typed(value: Any) -> Any:
    """Parse the typed parts in a text, as OpenLLMetry writes a list as content; return any other value unchanged."""
    parts = _unpacked(value) if isinstance(value, str) and value.startswith("[{") else None
    typed = isinstance(parts, list) and all(isinstance(one, dict) and isinstance(one.get("type"), str) for one in parts)
    return parts if typed else value


def _message(one: dict[str, Any]) -> dict[str, Any]:
    parts, calls = one.pop("parts"), one.pop("calls")
    if one["content"] is None and parts:
        one["content"] = [parts[number] for number in sorted(parts)]
    return {**one, "tool_calls": [calls[number] for number in sorted(calls)]}


def _calls_of_events(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls whose messages are separate log records, grouped by their span."""
    spans: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for log in logs:
        if _event_name(log).startswith(("gen_ai.content.", "gen_ai.choice")) or _event_name(log).endswith(".message"):
            spans.setdefault((str(log.get("traceId")), str(log.get("spanId"))), []).append(log)
    found = []
    for group in spans.values():
        events = [(_event_name(log), {**attributes(log.get("attributes")), **_as_dict(_unpacked(plain(log.get("body"))))}) for log in group]
        call = _call_of_event(group[-1])
        # Half a call is one record too, so that it is counted and reported. Without ids two calls cannot be told apart.
        whole = call or sum(name == "gen_ai.choice" and str(said.get("index", "0")) == "0" for name, said in events) == 1
        chat = _events_chat(events) if whole else None
        half = {"half": True, "call": call, "events": events}
        found.append({**group[-1], "attributes": _all_attributes(group), "chat": {**chat, "wraps": False} if chat else half})
    return found


def _call_of_event(log: Mapping[str, Any]) -> str:
    """Return what a call's events have in common; empty if they lack ids."""
    ids = [log.get("traceId"), log.get("spanId")]
    return "/".join(map(str, ids)) if all(isinstance(one, str) and one.strip("0") for one in ids) else ""


def joined(halves: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Join the records `halves`, each with its own `events`, to their call; return None if they do not make a whole call."""
    halves = sorted(halves, key=lambda one: str(one.get("timeUnixNano") or "").rjust(20, "0"))
    chat = _events_chat([(name, said) for one in halves for name, said in one["chat"]["events"]])
    if chat is None:
        return None
    return {**halves[-1], "attributes": _all_attributes(halves), "chat": {**chat, "wraps": False}}


def _all_attributes(logs: list[dict[str, Any]]) -> list[Any]:
    return [pair for one in logs if isinstance(one.get("attributes"), list) for pair in one["attributes"]]


def _event_name(log: Mapping[str, Any]) -> str:
    return str(log.get("eventName") or attributes(log.get("attributes")).get("event.name") or "")


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _events_chat(events: list[tuple[str, dict[str, Any]]]) -> dict[str, Any] | None:
    """Return a call from events named after roles (up to 1.36) or OpenLLMetry's older gen_ai.content.*; None for half a call."""
    messages: list[Any] = []
    reply = None
    for name, told in events:
        # Azure's SDK packs an event's whole content into one attribute.
        said = {**told, **_as_dict(_unpacked(told.get("gen_ai.event.content")))}
        role = name.removeprefix("gen_ai.").removesuffix(".message")
        if name == "gen_ai.content.prompt":
            asked = _unpacked(said.get("gen_ai.prompt"))
            messages += asked if isinstance(asked, list) else [{"role": "user", "content": said.get("gen_ai.prompt")}]
        elif name == "gen_ai.content.completion":
            reply = reply or _first(_unpacked(said.get("gen_ai.completion")))
        elif name.endswith(".message") and role in _ROLES:
            messages.append({**said, "role": _ROLES[role], "tool_calls": _unpacked(said.get("tool_calls"))})
        elif name == "gen_ai.choice" and str(said.get("index", "0")) == "0":
            message = _unpacked(said.get("message"))
            calls = _unpacked(said.get("tool_calls"))
            beside = {"finish_reason": said.get("finish_reason"), **({"tool_calls": calls} if calls else {})}
            reply = {**message, **beside} if isinstance(message, dict) else {**said}
    return {"messages": messages, "reply": reply} if messages and reply else None
