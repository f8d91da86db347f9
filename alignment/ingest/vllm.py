r"""The text log of a vLLM server as records: a request with its rendered prompt, and the response to it.

    INFO 11-20 10:00:00 [logger.py:39] Received request chatcmpl-7: prompt: '<|im_start|>user\n…', params: …
    INFO 11-20 10:00:02 [logger.py:69] Generated response chatcmpl-7: output: '…', output_token_ids: None, finish_reason: stop

The prompt is the rendered chat template, so the messages are parsed from the template's marks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.ingest.endings import FILTERED

# Nothing repeated can match in two ways: a line may be a megabyte long.
_LITERAL = r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# A process, or a pod's name and time, may come first; a quote, or the beginning of another message, would be user text.
_HEAD = (
    r"""(?:(?!\b(?:INFO|DEBUG|WARNING|ERROR|CRITICAL)\b)[^'"]){0,200}\b(?:INFO|DEBUG) """
    r"""(?P<moment>(?:[0-9]{4}-)?[0-9]{2}-[0-9]{2} [0-9:]{8})[^'"\]]{0,10}\[[^\]'"]{1,100}\] """
)
# Clients choose their request ids (X-Request-Id): an id that contains a prompt or an answer must not be taken for the line's.
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
"""Marks that begin and end a turn. The last turn is the model's and has not ended yet."""
_INSTRUCTED = re.compile(r"\[INST\]")
_MARKS = ("<|", "[INST]", "<start_of_turn>", "<｜")
_BOS = re.compile(r"\s*(?:(?:<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<\|endoftext\|>|\[gMASK\]|<sop>)\s*)*")
_ENDS = ("stop", "length", "streaming_complete", *FILTERED)
_CALLED = "[tool_calls: "
"""Text that vLLM writes in place of an answer that only calls tools."""


def records(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the half of a call that a log line holds, or nothing.

    Pieces of a streamed answer yield nothing: the whole answer is logged at its end.
    """
    line = _COLOURS.sub("", str(document["line"]))
    if found := _REQUEST.match(line):
        prompt = ast.literal_eval(found["text"])
        half: dict[str, Any] = {"asked": turns_of(prompt), "mixed": mixed(prompt)}
    elif found := _RESPONSE.fullmatch(line):
        half = {"said": ast.literal_eval(found["text"]), "finish_reason": found["end"]}
    else:
        # A JSON log belongs to another preset.
        return [document] if line.lstrip().startswith(("{", "[")) else []
    return [{"moment": found["moment"], "chat": {"half": True, "call": found["id"], "vllm": half}}]


def joined(halves: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Join a request and its responses to a call; return None if either is missing."""
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
    """Return whether user text may pass for a turn: the prompt has marks of two templates, or words before the first mark."""
    begins = (*(one for one, _ in _TEMPLATES), _INSTRUCTED)
    starts = [found.start() for one in begins if (found := one.search(prompt))]
    return len(starts) > 1 or (len(starts) == 1 and not _BOS.fullmatch(prompt[: starts[0]]))


def turns_of(prompt: str) -> list[dict[str, Any]] | None:
    r"""Return the turns of a rendered prompt; None if it is cut off, mixed, or of an unknown template.

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
    """Return all turns but the last, which must be the model's unfinished turn; None if an earlier turn has no end."""
    turns = []
    for role, text in zip(roles, texts, strict=True):
        places = [place for end in ends if (place := text.find(end)) >= 0]
        content = text[: min(places)] if places else None
        # Qwen's template puts a tool's result into a user's turn.
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
