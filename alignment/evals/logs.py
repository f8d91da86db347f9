"""Turn samples of Inspect and lm-evaluation-harness logs into questions; other samples are rejected with a reason."""

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


_OTHER_MARKS = re.compile(r"\[\|(?:system|user|assistant|endofturn)\|\]|<extra_id_\d>")


def inspect(row: Row, number: int, _: str = "") -> SuitePrompt:
    """Read a sample of an Inspect eval log (JSON); answers are checked against its choices or targets."""
    text = row["input"] if isinstance(row["input"], str) else _question(row["input"])
    name, target = named(row, "id", number), row.get("target")
    targets = list(target) if isinstance(target, list | tuple) else [] if target in (None, "") else [target]
    category = str((row.get("metadata") or {}).get("category", "sample"))
    if options := row.get("choices"):
        return chosen(name, "inspect", text, name, category, options, *(_place(one, options) for one in targets))
    return matched(name, "inspect", text, category, targets)


def has_system(row: Row) -> bool:
    """Say whether a sample has a system message (which is left out of the question)."""
    turns = row.get("input")
    return isinstance(turns, list) and any(isinstance(turn, dict) and turn.get("role") == "system" for turn in turns)


def lm_eval(row: Row, number: int, _: str = "") -> SuitePrompt:
    """Read a sample of an lm-evaluation-harness task log; several continuations of one context become a choice.

    Raises:
        ValueError: the row is no plain question.
    """
    calls = row["arguments"]
    if isinstance(calls, Mapping):
        # Writers that sort keys put gen_args_10 before gen_args_2.
        calls = [[calls[name][key] for key in sorted(calls[name])] for name in sorted(calls, key=_number)]
    calls = list(calls)
    name = str(row.get("doc_id", number))
    if len({json.dumps(call[0], sort_keys=True, default=str) for call in calls}) > 1:
        raise ValueError("its options are several contexts of one continuation, which is no question")
    text = _context(calls[0][0])
    if len(calls) > 1:
        options = [str(call[1]).strip() for call in calls]
        return chosen(name, "lm_eval", text, name, "choice", options, *_right(row, options))
    if len(calls[0]) < 2:
        raise ValueError("a text whose likelihood is weighed; nothing is asked")
    if isinstance(calls[0][1], str):
        raise ValueError("one continuation whose likelihood is weighed; nothing is asked")
    # IFEval answers are checked by a program; its target is a meaningless 0.
    checked_otherwise = isinstance(row.get("doc"), Mapping) and "instruction_id_list" in row["doc"]
    # If the target is a whole worked answer, as in GSM8K, the result follows the last ####.
    targets = [] if checked_otherwise else [str(one).rpartition("####")[2] for one in _several(row.get("target"))]
    return matched(name, "lm_eval", text, "generation", targets)


def _number(name: str) -> tuple[int, str]:
    found = re.search(r"\d+$", name)
    return int(found[0]) if found else 0, name


def _right(row: Row, options: Sequence[str]) -> list[int]:
    """Return the indices of the right options. The harness writes an index, a text, several of these, or a flag per option.

    Raises:
        ValueError: a target is none of the options, or is the text of one option and the index of another.
    """
    doc = row.get("doc")
    several = doc.get("mc2_targets") if isinstance(doc, Mapping) else None
    if isinstance(several, Mapping) and [str(one).strip() for one in several.get("choices") or ()] == list(options):
        return [place for place, label in enumerate(several["labels"]) if label]
    targets = _several(row["target"])
    if len(targets) > 1 and len(targets) == len(options) and {str(one) for one in targets} <= {"0", "1"}:
        return [place for place, label in enumerate(targets) if str(label) == "1"]
    for one in targets:
        same = [place for place, option in enumerate(options) if option == str(one).strip()]
        if isinstance(one, str) and one.strip().isdigit() and int(one) < len(options) and same not in ([], [int(one)]):
            raise ValueError(f"the target {one!r} is the text of one option and the place of another")
    return [_place(one, options) for one in targets]


def _context(said: Any) -> str:
    """Return the question of a call: its text, or the only user turn of its chat."""
    # A chat rendered by the harness is a one-element tuple, which JSON stores as a list.
    said = said[0] if isinstance(said, list) and len(said) == 1 and isinstance(said[0], str) else said
    turns: Any = said
    if isinstance(said, str):
        if without_control(said) != said or _OTHER_MARKS.search(said):
            return _unwritten(said)
        turns = _decoded(said)
        if turns is None:
            return said
    return _question(turns)


def _unwritten(text: str) -> str:
    """Return the only user turn of a prompt that was rendered by a common chat template.

    >>> _unwritten("<|im_start|>user\\nHow many?<|im_end|>\\n<|im_start|>assistant\\n")
    'How many?'
    """
    found = [turn.strip() for turn in _USER.findall(text)]
    if len(found) != 1 or without_control(found[0]) != found[0]:
        raise ValueError("a prompt that a chat template has written, of which no one question can be told")
    return str(found[0])


def _decoded(text: str) -> list[Any] | None:
    """Return the chat that a text encodes as JSON, or None."""
    if not text.lstrip().startswith("["):
        return None
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError):
        try:
            turns = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return turns if isinstance(turns, list) and turns and all(isinstance(turn, dict) and "role" in turn for turn in turns) else None


def _question(turns: Sequence[Mapping[str, Any]]) -> str:
    """Return the only user turn of a chat.

    Raises:
        ValueError: the chat has no or several user turns, an assistant's or a tool's turn, or content other than text.
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
    """Return the targets of a row: a single target, a list, or a list in Python's notation."""
    listed = target
    if isinstance(target, str) and (target.strip()[:1], target.strip()[-1:]) in (("[", "]"), ("(", ")"), ("{", "}")):
        try:
            listed = ast.literal_eval(target.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [target]
    # The harness writes every target with Python's `str`.
    if listed is None or listed == "None" or isinstance(listed, dict | set):
        return []
    if not isinstance(listed, list | tuple):
        return [target]
    # An answer of several spans, as in DROP, cannot be matched as one text.
    flat = [one[0] if isinstance(one, list | tuple) and len(one) == 1 else one for one in listed]
    return [one for one in flat if isinstance(one, str | int | float)]


def _place(target: Any, options: Sequence[Any]) -> int:
    """Return the index of the option that a target names by number, letter or text."""
    said = str(target).strip()
    same = [index for index, option in enumerate(options) if str(option).strip() == said]
    if len(same) == 1 and not isinstance(target, int):
        return same[0]
    if said.isdigit():
        return int(said)
    if len(said) == 1 and said.upper() in ascii_uppercase[: len(options)]:
        return ascii_uppercase.index(said.upper())
    raise ValueError(f"the target {said[:40]!r} is none of {len(options)} options")
