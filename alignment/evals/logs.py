"""Samples of Inspect and of the lm-evaluation-harness as questions; what is no plain question is refused by name."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from alignment.evals.rows import Row, chosen, matched, named
from alignment.records import SuitePrompt
from alignment.text import without_control

_USER = re.compile(
    r"(?:<\|im_start\|>user\n|<\|start_header_id\|>user<\|end_header_id\|>|<start_of_turn>user\n|<[|｜](?:user|User)[|｜]>|\[INST\])(.*?)"
    r"(?:<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|</s>|<\|endoftext\|>|<[|｜](?:assistant|Assistant)[|｜]>|\[/INST\])",
    re.S,
)
"""The user's turn as ChatML, Llama 3, Gemma, Zephyr, Phi, DeepSeek and Mistral write it."""


def inspect(row: Row, number: int, _: str = "") -> SuitePrompt:
    """Samples of an Inspect eval log (JSON): their choices or targets are what is looked for."""
    text = row["input"] if isinstance(row["input"], str) else _question(row["input"])
    name, target = named(row, "id", number), row.get("target")
    targets = list(target) if isinstance(target, list | tuple) else [] if target in (None, "") else [target]
    category = str((row.get("metadata") or {}).get("category", "sample"))
    if options := row.get("choices"):
        return chosen(name, "inspect", text, name, category, options, *(_place(one, options) for one in targets))
    return matched(name, "inspect", text, category, targets)


def has_system(row: Row) -> bool:
    """Say whether a sample has a system message, which is not asked."""
    turns = row.get("input")
    return isinstance(turns, list) and any(isinstance(turn, dict) and turn.get("role") == "system" for turn in turns)


def lm_eval(row: Row, number: int, _: str = "") -> SuitePrompt:
    """Samples of an lm-evaluation-harness task log: several continuations of one context are a choice.

    Raises:
        ValueError: the row is no plain question.
    """
    calls = row["arguments"]
    calls = [[call[key] for key in sorted(call)] for call in calls.values()] if isinstance(calls, Mapping) else list(calls)
    name = str(row.get("doc_id", number))
    if len({json.dumps(call[0], sort_keys=True, default=str) for call in calls}) > 1:
        raise ValueError("its options are several contexts of one continuation, which is no question")
    text = _context(calls[0][0])
    if len(calls) > 1:
        options = [str(call[1]).strip() for call in calls]
        targets = _several(row["target"])
        return chosen(name, "lm_eval", text, name, "choice", options, *(_place(one, options) for one in targets))
    if len(calls[0]) < 2:
        raise ValueError("a text whose likelihood is weighed; nothing is asked")
    if isinstance(calls[0][1], str):
        raise ValueError("one continuation whose likelihood is weighed; nothing is asked")
    # Where a whole worked answer is the target, as in GSM8K, its result stands after the last ####.
    return matched(name, "lm_eval", text, "generation", [str(one).rpartition("####")[2] for one in _several(row.get("target"))])


def _context(said: Any) -> str:
    """Return what a call asks: a text, or the one user turn of a chat."""
    turns = said
    if isinstance(said, str):
        if without_control(said) != said:
            return _unwritten(said)
        turns = _decoded(said)
        if turns is None:
            return said
    return _question(turns)


def _unwritten(text: str) -> str:
    """Return the one user turn of a prompt that one of the usual chat templates has written.

    >>> _unwritten("<|im_start|>user\\nHow many?<|im_end|>\\n<|im_start|>assistant\\n")
    'How many?'
    """
    found = [turn.strip() for turn in _USER.findall(text)]
    if len(found) != 1 or without_control(found[0]) != found[0]:
        raise ValueError("a prompt that a chat template has written, of which no one question can be told")
    return str(found[0])


def _decoded(text: str) -> list[Any] | None:
    """Return the chat that a text is as JSON, None if it is none."""
    if not text.lstrip().startswith("["):
        return None
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return turns if isinstance(turns, list) and turns and all(isinstance(turn, dict) and "role" in turn for turn in turns) else None


def _question(turns: Sequence[Mapping[str, Any]]) -> str:
    """Return the one user turn of a chat.

    Raises:
        ValueError: it has another number of them, an assistant's or a tool's turn, or holds more than text.
    """
    asked = [turn for turn in turns if turn["role"] == "user"]
    if len(asked) != 1 or any(turn["role"] not in ("user", "system", "developer") for turn in turns):
        raise ValueError("a conversation of several turns; only single questions can be asked")
    parts = asked[0]["content"]
    if isinstance(parts, str):
        return parts
    if other := sorted({str(part.get("type")) for part in parts if part.get("type", "text") != "text"}):
        raise ValueError(f"the question holds more than text ({', '.join(other)}); only text can be asked")
    return "\n".join(str(part["text"]) for part in parts)


def _several(target: Any) -> list[Any]:
    """Return the targets of a row, which may be one, a list of them, or such a list as Python writes it."""
    if isinstance(target, str) and target.strip().startswith("[") and target.strip().endswith("]"):
        try:
            listed = ast.literal_eval(target.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [target]
        return listed if isinstance(listed, list) and all(isinstance(one, str | int | float) for one in listed) else [target]
    return [] if target is None else list(target) if isinstance(target, list | tuple) else [target]


def _place(target: Any, options: Sequence[Any]) -> int:
    """Return which option a target names: by its number, its letter or its text."""
    said = str(target).strip()
    same = [index for index, option in enumerate(options) if str(option).strip() == said]
    if len(same) == 1 and not isinstance(target, int):
        return same[0]
    if said.isdigit():
        return int(said)
    if len(said) == 1 and said.upper() in ascii_uppercase[: len(options)]:
        return ascii_uppercase.index(said.upper())
    raise ValueError(f"the target {said[:40]!r} is none of {len(options)} options")
