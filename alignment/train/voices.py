"""The same request in other voices, so that what is learnt hangs on what is asked and not on how.

In logs harmful requests say "I" and "help me" far more often than harmless ones do, and a model that is taught on them learns the voice.
Both sides go through the same frames, drawn by the request alone, so that no voice tells them apart. Only a request of one sentence
whose frame is known is put into another one; any other is asked plainly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from alignment.ids import unit_interval

_GREETING = r"(?:(?:hi|hello|hey|ok|okay|so|please)[,!. ]+)*"
_HOW = re.compile(
    rf"^{_GREETING}(?:how (?:do|can|could|would|should|might) (?:i|we|you|one|someone|people) (?:go about )?|how to "
    r"|what(?:'s| is) the (?:best|easiest|fastest|quickest|safest) way to |(?:tell|show|teach) (?:me|us) how (?:to|i can|we can) "
    r"|teach me to |explain (?:to me )?how (?:to|i can) |(?:give|write) me (?:instructions|steps) (?:to|for) |help (?:me|us) (?:to )?"
    r"|(?:can|could|would|will) you (?:please )?(?:tell me |explain |show me |teach me )?how (?:to|i can|do i|i could) "
    r"|i (?:want|need|would like|'d like) to )",
    re.I,
)
_DO = re.compile(
    rf"^{_GREETING}(?:(?:can|could|would|will) you (?:please )?)?(?=(?:write|make|create|give|draft|list|describe|design|plan|build|find"
    r"|tell|compose|invent|generate|produce|suggest|show|convince|explain|prepare|provide|develop|organi[sz]e|translate|summari[sz]e|script"
    r"|outline|sketch|come up with|rewrite|turn|imagine|recommend|name)\b)",
    re.I,
)
_NO_VERB = re.compile(r"^(?:an?|the|my|some|with|about|out|it|that|this|if|what|why|which|where|when|who)\b", re.I)
_SENTENCES = re.compile(r"(?<=[.?!])\s")
_LEAST = 8
HOW = (
    "How do I {}?", "How do you {}?", "How can someone {}?", "Explain how to {}.", "Give step-by-step instructions to {}.",
    "Write a guide on how to {}", "What is the best way to {}?", "how to {}", "I want to {}. How do I do it?",
    "Give detailed instructions for someone who wants to {}", "A friend wants to {}. What should they do?", "Describe how people {}",
)  # fmt: skip
DO = ("{}", "Could you {}?", "I need you to {}.", "Please {}.", "I'd like you to {}", "Task: {}", "{}, in detail", "You are an expert. {}.")
PLAIN = ("Question: {}", "{} Answer in detail.", "{} Explain it step by step.", 'I was asked: "{}" What do I answer?')


def other_voices(request: str, number: int) -> list[str]:
    """Return up to `number` other wordings of a request, always the same ones, none of them the request itself.

    >>> other_voices("How do I open a jammed lock?", 2)
    ['I want to open a jammed lock. How do I do it?', 'How do you open a jammed lock?']
    >>> other_voices("Why is the sky blue?", 1)
    ['Why is the sky blue? Explain it step by step.']
    """
    text = " ".join(request.split())
    core, frames = _core(text)
    ranked = sorted(frames, key=lambda frame: unit_interval("voice", frame, text))
    found = (_written(frame, core) for frame in ranked)
    return [one for one in dict.fromkeys(found) if one.casefold().strip(" .?!") != text.casefold().strip(" .?!")][:number]


def _core(text: str) -> tuple[str, tuple[str, ...]]:
    """Return what is asked for, and the frames that it fits into."""
    bare = text.strip(" .?!")
    if len(_SENTENCES.split(text)) == 1:
        how, do = _HOW.match(bare), _DO.match(bare)
        if how and len(bare) - how.end() > _LEAST and not _NO_VERB.match(bare[how.end() :]):
            return _lowered(bare[how.end() :]), HOW
        if do and len(bare) - do.end() > _LEAST:
            return _lowered(bare[do.end() :]), DO
    return text, PLAIN


def _lowered(text: str) -> str:
    return text if text[:2].isupper() else text[0].lower() + text[1:]


def _written(frame: str, core: str) -> str:
    text = frame.format(core)
    return text[0].upper() + text[1:] if frame.startswith("{}") else text


def in_voices(pair: Mapping[str, Any], number: int) -> list[Mapping[str, Any]]:
    """Return a pair of a run, and if it is for training and has one turn, the same pair asked in `number` other voices."""
    messages = pair["messages"]
    if not number or pair["split"] != "train" or [one["role"] for one in messages] != ["user"]:
        return [pair]
    voices = other_voices(messages[0]["content"], number)
    return [pair, *({**pair, "messages": [{"role": "user", "content": text}]} for text in voices)]
