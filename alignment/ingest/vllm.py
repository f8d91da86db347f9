r"""The text log of a vLLM server as records: a request with its rendered prompt, and the response to it.

    INFO 11-20 10:00:00 [logger.py:39] Received request chatcmpl-7: prompt: '<|im_start|>user\n…', params: …
    INFO 11-20 10:00:02 [logger.py:69] Generated response chatcmpl-7: output: '…', output_token_ids: None, finish_reason: stop

The prompt is what the chat template made of the messages, so that they are read out of the template's marks again.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.ingest.endings import FILTERED

# Repeats nothing that could match in two ways: a line may be a megabyte long.
_LITERAL = r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# What stands before may be a process, a pod's name and time; a quote, or what begins another message, would be somebody's text.
_HEAD = (
    r"""(?:(?!\b(?:INFO|DEBUG|WARNING|ERROR|CRITICAL)\b)[^'"]){0,200}\b(?:INFO|DEBUG) """
    r"""(?P<moment>(?:[0-9]{4}-)?[0-9]{2}-[0-9]{2} [0-9:]{8})[^'"\]]{0,10}\[[^\]'"]{1,100}\] """
)
# Clients choose the ids of their requests (X-Request-Id): one that holds a prompt or an answer of its own must not be taken for the line's.
_ID = r"(?P<id>[A-Za-z0-9_.-]{1,200})"
_REQUEST = re.compile(
    _HEAD + rf"(?:Received r|R)equest {_ID}(?:: prompt| details: prompt): " + _LITERAL
    + r""", (?:params|prompt_token_ids): (?!.*: prompt: ['"])"""
)  # fmt: skip
_RESPONSE = re.compile(
    _HEAD + rf"Generated response {_ID}(?: \(streaming complete\))?: output: " + _LITERAL
    + r", output_token_ids: (?:None|\[[0-9, ]*\]|\([0-9, ]*\)), finish_reason: (?P<end>\w+)\s*"
)  # fmt: skip
_COLOURS = re.compile("\x1b\\[[0-9;]{0,9}m")
_ROLES = {"model": "assistant", "ipython": "tool", "observation": "tool"}
_ROLE = r"(system|developer|user|assistant|model|tool|ipython|observation)"
_TEMPLATES = (
    (re.compile(rf"<\|im_start\|>{_ROLE}\n"), ("<|im_end|>",)),
    (re.compile(rf"<\|start_header_id\|>{_ROLE}<\|end_header_id\|>\n\n"), ("<|eot_id|>",)),
    (re.compile(rf"<start_of_turn>{_ROLE}\n"), ("<end_of_turn>",)),
    (re.compile(rf"<\|{_ROLE}\|>\n?"), ("<|end|>", "</s>", "<|endoftext|>")),
)
"""What begins a turn, and what ends one. The last turn is the model's and has no end yet."""
_INSTRUCTED = re.compile(r"\[INST\]")
_MARKS = ("<|", "[INST]", "<start_of_turn>", "<｜")
_BOS = re.compile(r"\s*(?:(?:<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<\|endoftext\|>|\[gMASK\]|<sop>)\s*)*")
_ENDS = ("stop", "length", "streaming_complete", *FILTERED)
_CALLED = "[tool_calls: "
"""What vLLM writes in place of an answer that only calls tools."""


def records(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the half of a call that a line of the log is, nothing for all else.

    Pieces of a streamed answer are all else: the whole of it is logged at its end.
    """
    line = _COLOURS.sub("", str(document["line"]))
    if found := _REQUEST.match(line):
        prompt = ast.literal_eval(found["text"])
        half: dict[str, Any] = {"asked": turns_of(prompt), "mixed": mixed(prompt)}
    elif found := _RESPONSE.fullmatch(line):
        half = {"said": ast.literal_eval(found["text"]), "finish_reason": found["end"]}
    else:
        # A log of JSON is another preset's.
        return [document] if line.lstrip().startswith(("{", "[")) else []
    return [{"moment": found["moment"], "chat": {"half": True, "call": found["id"], "vllm": half}}]


def joined(halves: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the call of a request and its responses; None without one of them."""
    parts = [one["chat"]["vllm"] for one in halves]
    asked = [one for one in parts if "asked" in one]
    said = [one for one in parts if "said" in one]
    if len(asked) != 1 or not said:
        return None
    chat = {"call": halves[0]["chat"]["call"], "messages": asked[0]["asked"], "reply": _reply(said[-1])}
    return {**halves[-1], "chat": {**chat, "skipped": "mixed_template"} if asked[0]["mixed"] else chat}


def _reply(half: Mapping[str, Any]) -> dict[str, Any]:
    said, end = half["said"], half["finish_reason"]
    if end == "tool_calls" or said.startswith(_CALLED):
        return {"role": "assistant", "tool_calls": [{"function": {"name": "unnamed"}}]}
    return {"role": "assistant", "content": said, "finish_reason": end if end in _ENDS else "error"}


def mixed(prompt: str) -> bool:
    """Say whether somebody's text may pass for a turn: marks of two templates stand there, or words before the first mark."""
    begins = (*(one for one, _ in _TEMPLATES), _INSTRUCTED)
    starts = [found.start() for one in begins if (found := one.search(prompt))]
    return len(starts) > 1 or (len(starts) == 1 and not _BOS.fullmatch(prompt[: starts[0]]))


def turns_of(prompt: str) -> list[dict[str, Any]] | None:
    r"""Return the turns of a rendered prompt; None if it is cut off, mixed, or of a template that is not known.

    >>> turns_of("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n")
    [{'role': 'user', 'content': 'Why?'}]
    """
    if mixed(prompt):
        return None
    for begins, ends in _TEMPLATES:
        _, *parts = begins.split(prompt)
        if parts:
            return _turns(parts[::2], parts[1::2], ends)
    if "[INST]" in prompt:
        return _instructed(prompt)
    return None if any(mark in prompt for mark in _MARKS) else [{"role": "user", "content": prompt}]


def _turns(roles: Sequence[str], texts: Sequence[str], ends: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return all turns but the last, which has to be the model's, not ended yet; None if one before is not ended."""
    turns = []
    for role, text in zip(roles, texts, strict=True):
        places = [place for end in ends if (place := text.find(end)) >= 0]
        content = text[: min(places)] if places else None
        # Qwen's template puts what a tool gave back in a turn of the user's.
        of_tool = role == "user" and (content or "").lstrip().startswith("<tool_response>")
        turns.append({"role": "tool" if of_tool else _ROLES.get(role, role), "content": content})
    *before, last = turns
    whole = all(isinstance(one["content"], str) for one in before)
    return before if whole and last == {"role": "assistant", "content": None} else None


def _instructed(prompt: str) -> list[dict[str, str]] | None:
    turns: list[dict[str, str]] = []
    for part in prompt.split("[INST]")[1:]:
        asked, closed, said = part.partition("[/INST]")
        if not closed:
            return None
        turns += [{"role": "user", "content": asked.strip(" ")}, {"role": "assistant", "content": said.removesuffix("</s>").strip()}]
    return turns[:-1] if turns and not turns[-1]["content"] else None
