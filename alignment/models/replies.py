"""Parse replies of OpenAI-compatible endpoints: the content to store, the token usage, and the choice.

Servers differ in the fields beside an answer. Such a field never invalidates the answer: it is read, or estimated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignment.models.chat import Choice, Classified, Written
from alignment.reasoning import apart
from alignment.records import Message
from alignment.text import cap, printable

Answer = dict[str, Any] | str
"""The stored reply, or the reason why there is none."""
TOP, RUBRIC_TOKENS, OVERHEAD = 20, 16, 16
"""Requested alternatives per token, tokens of an answer with marks, and the most tokens a chat template adds to a message."""
NO_LOGPROBS = "no logprobs"
THINKS = (
    "unavailable: the model thinks before it answers; set [teacher] thinking_tokens to wait for its answer (such as 2048), or switch "
    "thinking off in [teacher] extra (such as chat_template_kwargs = {enable_thinking = false})"
)
GUARD_THINKS = (
    "unavailable: the model thinks before it answers; switch thinking off in extra (such as "
    "chat_template_kwargs = {enable_thinking = false})"
)
_LEAST_MASS = 0.05
"""If all options together are less probable than this, the answer is none of them."""
_CHARACTERS_A_TOKEN, _MOST_TOKENS, _SAID = 64, 10**8, 300
_NEVER = -9999.0
_BEFORE = " \t\r\n\u0120\u2581\u010a\u0109"
"""Whitespace before a token, also as byte-level BPE and SentencePiece write it (Ġ, ▁, Ċ, ĉ)."""
_IN, _OUT = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
_FILTERED = frozenset({"content_filter", "safety", "prohibited_content", "blocklist", "recitation", "sensitive", "refusal"})
_BROKEN = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})
"""Finish reasons after which the server may answer another time."""
_CUT = frozenset({"length", "max_tokens"})
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_SAYS = frozenset({"message", "detail", "errors"})
"""Keys of an error message in a body without choices."""


class Trouble(Exception):
    """An error instead of an answer. `again`: a retry may succeed; `used` are the tokens it took, None if unknown."""

    def __init__(self, why: str, *, again: bool, billed: bool, used: tuple[int, int] | None) -> None:
        super().__init__(why)
        self.again, self.billed, self.used = again, billed, used


class Usage(NamedTuple):
    """Tokens that a server reports; None where it reports none."""

    tokens_in: int | None
    tokens_out: int | None


def reply(raw: Any, max_tokens: int) -> dict[str, Any]:
    """Return what to store of a reply: the answer without its thinking, the first token's alternatives, the usage, and what is missing.

    Raises:
        Trouble: the reply or its choice is an error.
        KeyError, TypeError, IndexError, AttributeError, ValueError: it is not a chat completion.
    """
    used = usage_of(raw.get("usage"))
    if not raw.get("choices") and (error := raw.get("error") or (raw if _SAYS & raw.keys() else None)):
        raise _trouble(error, used, billed=False)
    choice = raw["choices"][0]
    finish = str(choice.get("finish_reason") or "").lower()
    if error := choice.get("error") or raw.get("error"):
        raise _trouble(error, used, billed=True)
    if finish in _BROKEN:
        raise _trouble(f"finish_reason {finish!r}", used, billed=True)
    message = choice["message"]
    text = text_of(message["content"] if "refusal" not in message else message.get("content"))
    said = apart(text)
    top = _alternatives(choice.get("logprobs"))
    # A server that ignores the token limit must not make us store a long answer.
    kept: dict[str, Any] = {
        "content": said.answer[: longest(max_tokens)],
        "top": top,
        "usage": list(used) if used != Usage(None, None) else None,
    }
    parts = message.get("content") if isinstance(message.get("content"), list) else []
    in_parts = any(_mapping(part).get("type") in ("thinking", "reasoning") for part in parts)
    if said.thinking or in_parts or _begins_to_think(text, top) or _thinks_beside(message, raw, said.answer):
        # Any alternatives belong to the first word of the thinking.
        kept |= {"top": [], "thinks": True}
    if not said.answer.strip() and (declined := message.get("refusal")):
        kept["declined"] = cap(printable(str(declined)), _SAID)
    elif finish in _FILTERED and not said.answer.strip():
        kept["filtered"] = finish
    elif finish in _CUT:
        kept["cut"] = True
    return kept


def longest(max_tokens: int) -> int:
    """Return the most characters that an answer of `max_tokens` tokens is believed to have."""
    return _CHARACTERS_A_TOKEN * (max_tokens + OVERHEAD)


def _alternatives(said: Any) -> list[list[Any]]:
    """Return (token, log-probability) of the first token's alternatives; unreadable ones are skipped.

    They come as a list or, from older servers, as a mapping by token.
    """
    logprobs = _mapping(said)
    first = next(iter(logprobs.get("content") or []), None)
    listed = _mapping(first).get("top_logprobs") if first is not None else next(iter(logprobs.get("top_logprobs") or []), None)
    if isinstance(listed, dict):
        pairs = list(listed.items())
    else:
        pairs = [(one.get("token"), one.get("logprob")) for one in listed or [] if isinstance(one, dict)]
    known = {token: number for token, logprob in pairs[:TOP] if isinstance(token, str) and (number := _log(logprob)) is not None}
    token = _mapping(first).get("token")
    if known and isinstance(token, str) and token not in known:
        # Some servers list only the alternatives to the chosen token. Without that token's probability, none of them is the likeliest.
        own = _log(_mapping(first).get("logprob"))
        if own is None:
            return []
        known[token] = own
    return [[token[:100], number] for token, number in known.items()]


def _log(value: Any) -> float | None:
    """Return a log-probability, also from a string; clamped to at most 0 and a finite floor; None if unreadable."""
    try:
        number = min(float(value), 0.0) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return None
    return None if math.isnan(number) else max(number, _NEVER)


def text_of(content: Any) -> str:
    """Return the text of a message's content, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _begins_to_think(text: str, top: Sequence[Sequence[Any]]) -> bool:
    """Return whether a text of a token or two is the beginning of a thinking block."""
    likeliest = max(top, key=lambda one: one[1])[0] if top else ""
    start = (text.strip() or str(likeliest).strip(_BEFORE)).lower()
    return start.startswith(("<think", "<reasoning>", "[think]", "<|channel|>", "\u25c1think")) or (
        bool(start) and "<think>".startswith(start)
    )


def _thinks_beside(message: Mapping[str, Any], raw: Mapping[str, Any], answer: str) -> bool:
    """Return whether a reply has its thinking in a separate field, or spent all its tokens on thinking."""
    if any(isinstance(message.get(name), str) and message[name].strip() for name in _THOUGHTS):
        return True
    if message.get("reasoning_details"):
        return True
    told = _mapping(raw.get("usage"))
    details = (_mapping(told.get(name)) for name in ("completion_tokens_details", "output_tokens_details"))
    return any(one.get("reasoning_tokens") for one in details) and not answer.strip()


def _trouble(error: Any, used: Usage, *, billed: bool) -> Trouble:
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    number = int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdigit()) else 0
    again = number in (0, 408, 409, 429) or number >= 500
    tokens = None if used == Usage(None, None) else (used.tokens_in or 0, used.tokens_out or 0)
    return Trouble(f"an error in place of an answer ({words_of(error)})", again=again, billed=billed or tokens is not None, used=tokens)


def moderated(error: Any) -> bool:
    """Return whether a moderation in front of the model refused this one question, and not the caller."""
    told = _mapping(_mapping(_mapping(error).get("error")).get("metadata"))
    return "flagged_input" in told or bool(told.get("reasons"))


def words_of(error: Any) -> str:
    """Return a server's error message, from any of the usual formats, on one line of at most 300 characters.

    >>> words_of({"error": "top_n_tokens must be <= 5", "error_type": "validation"})
    'top_n_tokens must be <= 5'
    """
    return cap(printable(_words(error)).strip(), _SAID)


def _words(error: Any) -> str:
    if isinstance(error, list):
        return "; ".join(filter(None, map(_words, error[:5])))
    if not isinstance(error, dict):
        return "" if error is None else str(error)
    for name in ("error", "message", "msg", "detail", "errors"):
        if error.get(name):
            raw = _mapping(error.get("metadata")).get("raw")
            more = f": {raw}" if isinstance(raw, str) and raw else ""
            said = _words(error[name]) + more
            where = error.get("param") or (error["loc"][-1] if isinstance(error.get("loc"), list) and error["loc"] else "")
            return f"{said} ({where})" if isinstance(where, str) and where and where not in said else said
    return json.dumps(error, ensure_ascii=False)


def usage_of(said: Any) -> Usage:
    """Return the tokens that a server reports, under any of the usual names.

    >>> usage_of({"input_tokens": 7, "output_tokens": None}), usage_of({"prompt_tokens": 7, "total_tokens": 9})
    (Usage(tokens_in=7, tokens_out=None), Usage(tokens_in=7, tokens_out=2))
    """
    told = _mapping(said)
    tokens_in, tokens_out = (
        next((number for name in names if (number := _count(told.get(name))) is not None), None) for names in (_IN, _OUT)
    )
    total = _count(told.get("total_tokens"))
    if total is not None and tokens_in is not None and tokens_out is None and total >= tokens_in:
        tokens_out = total - tokens_in
    if total is not None and tokens_in is None and tokens_out is not None and total >= tokens_out:
        tokens_in = total - tokens_out
    return Usage(tokens_in, tokens_out)


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < _MOST_TOKENS else None


def used(answer: Mapping[str, Any], most_in: int, max_tokens: int) -> tuple[int, int]:
    """Return the tokens of an answer, in and out: as its server reports, else the most they can be."""
    tokens_in, tokens_out = answer["usage"] or (None, None)
    written = max_tokens if answer.get("thinks") else min(max_tokens, max(len(str(answer["content"]).encode("utf-8", "surrogatepass")), 1))
    return most_in if tokens_in is None else tokens_in, written if tokens_out is None else tokens_out


def gives_none(answer: Answer) -> bool:
    """Return whether a server returned no log-probabilities or refused a request for them."""
    if isinstance(answer, str):
        return answer.startswith("refused") and "logprob" in answer
    return not answer["top"]


def tells(answer: Answer) -> bool:
    """Return whether a reply shows what the server supports: failed, filtered and declined replies do not."""
    if isinstance(answer, str):
        return gives_none(answer)
    return not (answer.get("filtered") or answer.get("declined"))


def thinks(answer: Answer) -> bool:
    """Return whether a reply contains thinking."""
    return isinstance(answer, dict) and bool(answer.get("thinks"))


def _no_answer(answer: Answer) -> str:
    """Return why an answer has nothing to read; empty if it has."""
    if isinstance(answer, str):
        return answer
    if answer.get("declined"):
        return f"refused: the model declines ({answer['declined']})"
    return f"refused: the provider filtered the answer ({answer['filtered']})" if answer.get("filtered") else ""


def written(answer: Answer) -> Written:
    """Return the text of an answer, and why it is missing or incomplete.

    >>> written({"content": "Paris is", "top": [], "usage": None, "cut": True}), written("limit: all is spent")
    (Written(text='Paris is', reason='cut: the server stopped it at its longest'), Written(text='', reason='limit: all is spent'))
    """
    if isinstance(answer, str) or (why := _no_answer(answer)):
        return Written("", answer if isinstance(answer, str) else why)
    text = str(answer["content"]).strip()
    if not text and thinks(answer):
        return Written("", THINKS)
    return Written(text, "cut: the server stopped it at its longest" if answer.get("cut") else "")


def classified(answer: Answer, options: Sequence[str]) -> Classified:
    """Read what a guard model said; without the odds of the options if they are unknown or together too improbable.

    >>> classified({"content": "No", "top": [["No", -0.5], ["Yes", -1.5], ["yes", -3.0]], "usage": None}, ["yes", "no"]).odds
    (0.310..., 0.689...)
    """
    if isinstance(answer, str) or (why := _no_answer(answer)):
        return Classified("", None, answer if isinstance(answer, str) else why)
    text = str(answer["content"]).strip()
    if not text and thinks(answer):
        return Classified("", None, GUARD_THINKS)
    odds = [sum(math.exp(logprob) for token, logprob in answer["top"] if token.strip(_BEFORE).casefold() == option) for option in options]
    total = sum(odds)
    return Classified(text, tuple(one / total for one in odds) if total >= _LEAST_MASS else None)


def by_odds(answer: Answer, options: Sequence[str]) -> Choice:
    """Read a choice from the first token's alternatives; no choice if the options together are too improbable."""
    if why := _no_answer(answer):
        return Choice(None, NO_LOGPROBS if isinstance(answer, str) and gives_none(answer) else why)
    if thinks(answer):
        return Choice(None, THINKS)
    if isinstance(answer, str) or not answer["top"]:
        return Choice(None, NO_LOGPROBS)
    odds = [sum(math.exp(logprob) for token, logprob in answer["top"] if token.strip(_BEFORE) == option) for option in options]
    total = sum(odds)
    if not total:
        return Choice(None, "no option among the likely tokens")
    if total < _LEAST_MASS:
        return Choice(None, f"the options have {total:.1g} of the probability together, {_LEAST_MASS} is needed")
    return Choice(tuple(one / total for one in odds))


def with_rubric(conversation: Sequence[Message], options: Sequence[str]) -> list[Message]:
    """Ask for marks instead of one letter, on one line."""
    form = " ".join(f"{option}=<0-10>" for option in options)
    last = conversation[-1]
    asked = (
        f"{last['content']}\nDo not reply with a letter. Give each a mark from 0 (worst) to 10 (best), as one line and nothing else: {form}"
    )
    return [*conversation[:-1], {"role": last["role"], "content": asked}]


def by_marks(answer: Answer, options: Sequence[str], thinking_tokens: int = 0) -> Choice:
    """Parse marks strictly: the answer must be exactly one line in the requested form."""
    if isinstance(answer, str) or (why := _no_answer(answer)):
        return Choice(None, answer if isinstance(answer, str) else why)
    said = str(answer["content"]).strip()
    if not said and thinks(answer):
        return Choice(
            None, f"it still thought after {thinking_tokens} tokens; raise [teacher] thinking_tokens" if thinking_tokens else THINKS
        )
    form = r"[\s,;]+".join(rf"{re.escape(option)}\s*[=:]\s*(10|[0-9])" for option in options)
    if not (found := re.fullmatch(form, said)):
        return Choice(None, "not in the form that was asked for")
    marks = [int(each) for each in found.groups()]
    total = sum(marks)
    return Choice(tuple(mark / total if total else 1 / len(marks) for mark in marks))
