"""Convert each preset's records to one exchange: turns, the answer, the tools it rests on, and why there is no answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alignment.ingest.chat import (
    Json,
    a_list,
    an_object,
    asked,
    call_names,
    message_of,
    reply,
    role_of,
    tools_of,
    turns,
    unpacked,
    unpacked_messages,
    words,
)
from alignment.ingest.datasets import listed, phoenix_chat, system_of
from alignment.ingest.endings import BROKEN, CUT, FILTERED, ended, failed, silent, why_silent
from alignment.ingest.streams import whole_answer

_NO_CHAT = ("embedding", "image", "speech", "transcription", "moderation", "rerank", "_file", "_batch", "vector_store")
_GUARDED = "standard_logging_guardrail_information"
_FEEDBACK = frozenset(("feedback", "thumbs", "thumb", "rating", "satisfaction"))
_SCALES = ("rating", "satisfaction")


def _exchange(messages: Any, message: Any, skipped: str | None, **more: Any) -> dict[str, Any]:
    called = [*tools_of(messages), *call_names(message)]
    return {"messages": turns(messages), "response": words(message), "tools": called, "skipped": skipped, **more}


def _openai(record: Json) -> dict[str, Any]:
    # Batch results and Bedrock logs use other fields than a call.
    result, logged_in, logged_out = (an_object(record.get(key)) for key in ("result", "input", "output"))
    request = _wrapped(
        record.get("request") or record.get("request_body") or record.get("body") or record.get("params") or record.get("modelInput")
        or logged_in.get("inputBodyJson")
    )  # fmt: skip
    said = (
        record.get("response") or record.get("response_body") or result.get("message") or record.get("modelOutput")
        or logged_out.get("outputBodyJson")
    )  # fmt: skip
    if not request and not said and (isinstance(record.get("choices"), list) or record.get("object") == "response"):
        # A stored completion holds the question beside the answer.
        request = said = record
    answer = whole_answer(record["chunks"] if isinstance(record.get("chunks"), list) else _wrapped(said))
    statuses = (an_object(record.get("response")).get("status_code"), record.get("status_code"))
    wrong = (
        failed(record) or bool(record.get("errorCode")) or result.get("type") in ("errored", "expired", "canceled")
        or any(isinstance(status, int) and status >= 400 for status in statuses)
    )  # fmt: skip
    asks = an_object(request)
    if an_object(answer).get("object") == "response" and "input" in asks:
        # The answer repeats the request's parameters.
        asks = {"instructions": answer.get("instructions"), **asks}
    found = _exchange(asked(asks), None if wrong else reply(answer), "error" if wrong else why_silent(answer))
    return {**found, **_named(record, asks, an_object(answer))}


def _named(record: Json, request: Json, answer: Json) -> dict[str, Any]:
    """Return who asked which model when, as far as these are texts and times."""
    more = an_object(request.get("metadata"))
    found = {
        "conversation_id": (more.get("conversation_id"), answer.get("id"), answer.get("responseId"), record.get("requestId")),
        "session_id": (more.get("session_id"),),
        "user_id": (
            request.get("user"), request.get("safety_identifier"), more.get("user_id"), answer.get("user"), answer.get("safety_identifier"),
        ),
        "model": (
            answer.get("model"), answer.get("modelVersion"), answer.get("model_version"), request.get("model"), request.get("modelId"),
            record.get("modelId"),
        ),
        "created_at": (
            answer.get("created"), answer.get("created_at"), record.get("created_at"), record.get("timestamp"), answer.get("createTime"),
            record.get("processed_time"),
        ),
    }  # fmt: skip
    return {name: next((one for one in values if isinstance(one, str | int | float) and one != ""), None) for name, values in found.items()}


def _wrapped(value: Any) -> Any:
    found = unpacked(value)
    inner = unpacked(an_object(found).get("body")) or an_object(found).get("params")
    return inner if isinstance(inner, dict) else found


def _messages(record: Json) -> dict[str, Any]:
    return _transcript(listed(record.get("messages")))


def _web_chat(record: Json) -> dict[str, Any]:
    """Read a chat of Open WebUI; an answer with an error beside it is missing or incomplete."""
    found = _messages(record)
    last = an_object(next(reversed(a_list(record.get("messages"))), None))
    wrong = "error" if last.get("error") else "no_answer" if last.get("done") is False and not words(last) else None
    return {**found, "skipped": wrong or found["skipped"]}


def _prompt_completion(record: Json) -> dict[str, Any]:
    """Read TRL's conversational prompts and completions, both lists of messages."""
    message = message_of(record.get("completion") or record.get("response"))
    return _exchange(record.get("prompt"), message, silent(message))


def _conversation(record: Json) -> dict[str, Any]:
    said = listed(record.get("conversations") or record.get("conversation") or record.get("items"))
    named = [_turn(one) for one in a_list(said)]
    if named and (system := system_of(record)) and role_of(an_object(named[0])) != "system":
        named = [{"role": "system", "content": system}, *named]
    return _transcript(named or said)


def _turn(one: Any) -> Any:
    turn = an_object(one)
    if turn.get("from") == "function_call":
        return {"role": "assistant", "tool_calls": [{"name": an_object(unpacked(turn.get("value"))).get("name")}]}
    return {"content": turn["text"], **turn} if "text" in turn else one


def _openinference(record: Json) -> dict[str, Any]:
    found = record if isinstance(record.get("chat"), dict) else {"chat": phoenix_chat(record)}
    return _otel(found)


def _transcript(messages: Any) -> dict[str, Any]:
    """Read a conversation whose last message is the answer."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if role_of(an_object(last)) != "assistant":
        return {"messages": turns(messages[:-1]) if isinstance(messages, list) else None, "response": None, "tools": [], "skipped": None}
    return _exchange(a_list(messages)[:-1], last, silent(last))


def _litellm(record: Json) -> dict[str, Any]:
    answer, asks = (unpacked_messages(record.get(key)) for key in ("response", "messages"))
    # What is not stored appears as an empty object, and in text columns as its text.
    answer, asks = (None if one in ({}, "{}") else one for one in (answer, asks))
    answer = whole_answer(answer) if isinstance(answer, list) else answer
    more, parameters = (an_object(unpacked(record.get(key))) for key in ("metadata", "model_parameters"))
    guards = [record.get("status_fields")]
    for guarded in (record.get("guardrail_information"), more.get("guardrail_information"), more.get(_GUARDED)):
        found = unpacked(guarded)
        guards += found if isinstance(found, list) else [found]
    before = {key: parameters.get(key) for key in ("instructions", "system")}
    messages = asked({**before, "input": asks}) or asked(asks) or asked(_wrapped(record.get("proxy_server_request")))
    kind = str(record.get("call_type") or "")
    if record.get("status", "success") not in ("success", None):
        skipped: str | None = "error"
    elif any(an_object(one).get("guardrail_status") in ("guardrail_intervened", "blocked") for one in guards):
        skipped = "filtered"
    elif any(name in kind for name in _NO_CHAT):
        skipped = "not_a_chat"
    elif record.get("response") in ({}, "{}"):
        skipped = "placeholder"
    else:
        skipped = why_silent(answer) or silent(message_of(answer))
    return _exchange(messages, message_of(answer), skipped)


def _langfuse(record: Json) -> dict[str, Any]:
    given, output = (unpacked_messages(record.get(key)) for key in ("input", "output"))
    if isinstance(output, dict) and isinstance(output.get("toolCalls"), list) and set(output) <= {"text", "toolCalls", "role"}:
        # Vercel's SDK writes a model's output in this form.
        output = {
            "content": output.get("text"),
            "tool_calls": [{"name": an_object(one).get("toolName")} for one in a_list(output["toolCalls"])],
        }
    elif isinstance(output, dict) and list(output) == ["completion"]:
        output = output["completion"]
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list):
        # LangChain asks in batches, mostly of one prompt.
        given = given[0]
    messages = given if isinstance(given, list) else asked({"prompt": given} if isinstance(given, str) else given)
    if messages is None and isinstance(an_object(given).get("role"), str):
        messages = [given]
    answer = output if isinstance(output, dict) and not isinstance(output.get("output"), str) else None
    known = answer is not None and any(isinstance(answer.get(key), list) for key in ("choices", "output", "candidates", "content"))
    skipped = why_silent(answer) if known else silent(message_of(output)) if output not in (None, "") else None
    if record.get("level") == "ERROR":
        skipped = "error"
    elif output in (None, "") and "output" in record:
        skipped = "no_answer"
    return _exchange(messages, message_of(output), skipped, thumbs=_thumbs(record))


def _thumbs(record: Json) -> str | None:
    """Return a person's rating of an answer, picked from among the scores of other systems."""
    scores = [(one.get("name"), _value(one)) for one in map(an_object, a_list(unpacked(record.get("scores"))))]
    for name, value in (*scores, *record.items()):
        if isinstance(name, str) and _is_feedback(name):
            said = unpacked(value)
            said = said[-1] if isinstance(said, list) and said else said
            if str(said) in ("1", "1.0") and name.lower().endswith(_SCALES) and not isinstance(said, bool):
                # The worst of five stars or a thumb up: the scale is unknown.
                return f"{said} on a scale"
            if isinstance(said, bool | int | float | str) and said != "":
                # A score of zero is a thumb down: scores run from 0 to 1.
                return "down" if str(said) in ("0", "0.0", "False") else str(said)
    return None


def _value(score: Json) -> Any:
    """Return a score's value; the number of a category is only its index in a list."""
    word = score.get("stringValue", score.get("string_value"))
    return word if isinstance(word, str) and word else score.get("value")


def _is_feedback(name: str) -> bool:
    parts = name.lower().replace("_", "-").replace(" ", "-").replace(".", "-").replace(":", "-").split("-")
    return parts[-1] in _FEEDBACK and set(parts[:-1]) <= {"user", "human", "end", "score", "scores", "enduser", "customer"}


def _otel(record: Json) -> dict[str, Any]:
    chat = an_object(record.get("chat"))
    if isinstance(chat.get("langfuse"), dict):
        return _langfuse(chat["langfuse"])
    message, answer = chat.get("reply"), chat.get("answer")
    if not words(message):
        message = reply(answer) or message
    # The message may have stopped normally while its call, according to the span, was filtered.
    reasons = {ended(one) for one in (message, chat, answer)}
    cut = bool(reasons & CUT) and not words(message)
    if chat.get("part"):
        skipped: str | None = "part_of_a_call"
    elif chat.get("failed") or reasons & BROKEN:
        skipped = "error"
    elif reasons & FILTERED:
        skipped = "filtered"
    elif chat.get("half") and not cut:
        skipped = "half_a_call"
    elif chat.get("skipped"):
        skipped = str(chat["skipped"])
    else:
        skipped = silent(message) or ("no_answer" if cut else "placeholder" if _unrecorded(chat.get("messages"), message) else None)
    return _exchange(chat.get("messages"), message, skipped)


def _unrecorded(messages: Any, message: Any) -> bool:
    """Return whether a tracer kept the speakers but not the contents, as most do by default."""
    listed_turns = [an_object(one) for one in (*a_list(messages), message)]
    return all(one.get("content") is None and one.get("parts") is None for one in listed_turns) and bool(an_object(message))


def _read(reader: Callable[[Json], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    return lambda record: reader(an_object(record))


READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "openai": _read(_openai),
    "messages": _read(_messages),
    "hh": _read(_messages),
    "prompt_response": _read(_prompt_completion),
    "openwebui": _read(_web_chat),
    "conversations": _read(_conversation),
    "openinference": _read(_openinference),
    "litellm": _read(_litellm),
    "langfuse": _read(_langfuse),
    "otel": _read(_otel),
    "vllm": _read(_otel),
}
