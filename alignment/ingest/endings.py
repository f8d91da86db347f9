"""How an answer ended: why it holds no words of the model for the user, in the terms of each vendor."""

from __future__ import annotations

from typing import Any

from alignment.ingest.chat import a_list, an_object, call_names, first_of, only_thinks, reply, words

CUT = frozenset(("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"))
BROKEN = frozenset(("error", "error_toxic", "abort", "network_error", "timeout", "insufficient_system_resource", "malformed_model_output"))
"""Endings of an answer that is missing or incomplete."""
_MISCALLED = frozenset(("malformed_function_call", "unexpected_tool_call", "too_many_tool_calls", "malformed_tool_use"))
_UNFINISHED = frozenset(("queued", "in_progress"))
FILTERED = frozenset(
    [
        "content_filter",
        "content_filtered",
        "safety",
        "prohibited_content",
        "blocklist",
        "guardrail_intervened",
        "recitation",
        "spii",
        "language",
        "image_safety",
        "image_prohibited_content",
        "model_armor",
        "sensitive",
        # A classifier beside the model ended it (Anthropic): the text is not a refusal in the model's words.
        "refusal",
    ]
)


def failed(answer: Any) -> bool:
    """Return whether an answer, or its first choice, is an error."""
    body = an_object(answer)
    # Gateways and web frameworks report errors in fields of their own.
    told = set(body) <= {"detail", "message", "code", "status", "type", "param", "request_id"} and bool({"detail", "message"} & set(body))
    return bool(
        body.get("error")
        or first_of(body, "choices").get("error")
        or ended(body) in BROKEN
        or (told and not isinstance(body.get("message"), dict))
        or body.get("status") in ("failed", "cancelled", "error", "failure")
        or body.get("object") == "error"
        or (body.get("type") == "error" or str(body.get("type")).endswith("_error"))
    )


def ended(answer: Any) -> str:
    """Return why an answer ended, in lower case; empty if it does not say."""
    body = an_object(answer)
    choice, candidate = (first_of(body, key) for key in ("choices", "candidates"))
    feedback = an_object(body.get("promptFeedback")) or an_object(body.get("prompt_feedback"))
    reasons = (
        choice.get("finish_reason"),
        body.get("finish_reason"),
        body.get("stop_reason"),
        body.get("stopReason"),
        (feedback.get("blockReason") or feedback.get("block_reason")) and "safety",
        an_object(body.get("incomplete_details")).get("reason"),
        candidate.get("finishReason") or candidate.get("finish_reason"),
        body.get("done_reason"),
    )
    return next((reason.lower() for reason in reasons if isinstance(reason, str)), "")


def silent(message: Any) -> str | None:
    """Return why a message holds no words; None if it holds words or the reason is unclear."""
    if words(message):
        return None
    if call_names(message):
        return "tool_call"
    return "no_answer" if only_thinks(message) else None


def why_silent(answer: Any) -> str | None:
    """Return why an answer holds no words of the model for the user; None if it holds words or the reason is unclear."""
    if failed(answer):
        return "error"
    if ended(answer) in FILTERED:
        return "filtered"
    body = an_object(answer)
    listed = {key for name in ("data", "results") for key in an_object(next(iter(a_list(body.get(name))), None))}
    if body.get("object") == "list" or listed & {"embedding", "url", "b64_json", "flagged", "relevance_score"}:
        return "not_a_chat"
    message = reply(answer)
    if words(message):
        return None
    if ended(answer) in _MISCALLED:
        return "tool_call"
    # The thoughts that used up the answer's tokens were not logged.
    return silent(message) or ("no_answer" if ended(answer) in CUT or str(body.get("status")) in _UNFINISHED else None)
