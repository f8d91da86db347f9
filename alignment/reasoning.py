"""Separate what a reasoning model thinks aloud from what it answers.

Models write their reasoning between tags before the answer. It is not part of the answer: a policy weighed there refuses nothing, and
a harm considered there is not done.

Source: the chat templates of Qwen3 and DeepSeek-R1; vLLM's reasoning parsers, which also end a block at its first closing tag.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from string import whitespace
from typing import NamedTuple

_TAG = re.compile(
    r"(?P<line>^[ \t]*)?<[ \t]{0,4}(?P<close>/?)[ \t]{0,4}(?P<name>think|thinking|reasoning)[ \t]{0,4}>\s*",
    re.IGNORECASE | re.MULTILINE,
)


_MARKS = (
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)
"""Markers around a block that begins a text: Magistral, Kimi, Seed-OSS, OpenThoughts and gpt-oss write no tags."""
_AROUND = re.compile(
    r"\A\s*(?:(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>|<\|begin_of_solution\|>)"
    r"|(?:<\|return\|>|<\|end\|>|<\|end_of_solution\|>)\s*\Z"
)


class Apart(NamedTuple):
    """A text's answer and the reasoning beside it, each without the tags."""

    answer: str
    thinking: str


def apart(text: str) -> Apart:
    """Return the answer and the thinking of a model's text, in one pass.

    A block is `<think>`, `<thinking>` or `<reasoning>` up to the first closing tag of that name. It counts where it begins the text or a
    line, or follows another block: a tag within a sentence is talk about tags. A closing tag that comes first ends a block that the chat
    template opened. A block that begins the text and never ends is the whole text. A later block that never ends stays in the answer, so
    that no part of an answer can be hidden behind a tag. A second closing tag is only removed: text of an answer that is read again
    stays answer. A text without a block comes back unchanged.

    >>> apart("<think>\\nThey want a recipe.\\n</think>\\n\\nBoil the rice.")
    Apart(answer='Boil the rice.', thinking='They want a recipe.')
    >>> apart("They want a recipe.</think>Boil the rice.")
    Apart(answer='Boil the rice.', thinking='They want a recipe.')
    >>> apart("They want a recipe.</think>Boil the rice.</think> Let it rest.").answer
    'Boil the rice. Let it rest.'
    >>> apart("<think>They want")
    Apart(answer='', thinking='They want')
    """
    if (marked := _marked(text)) is not None:
        return marked
    tags = list(_TAG.finditer(text))
    if not tags:
        return Apart(text, "")
    closing: dict[str, list[re.Match[str]]] = {}
    for tag in tags:
        if tag["close"]:
            closing.setdefault(tag["name"].lower(), []).append(tag)
    answer, thinking, at = [], [], 0
    if tags[0]["close"]:
        thinking.append(text[: tags[0].start()])
        at = tags[0].end()
    unclosed: set[str] = set()
    for tag in tags:
        name = tag["name"].lower()
        if tag["close"] and tag.start() == at and thinking:
            at = tag.end()
        if tag["close"] or tag.start() < at or name in unclosed or not (tag["line"] is not None or tag.start() == at):
            continue
        ends = closing.get(name, [])
        place = bisect_left(ends, tag.end(), key=lambda end: end.start())
        if place < len(ends):
            answer.append(text[at : tag.start()])
            thinking.append(text[tag.end() : ends[place].start()])
            at = ends[place].end()
        elif not any(map(str.strip, answer)) and not text[at : tag.start()].strip():
            return _joined([], [*thinking, text[tag.end() :]])
        else:
            unclosed.add(name)
    return _joined([*answer, text[at:]], thinking) if thinking else Apart(text, "")


def _marked(text: str) -> Apart | None:
    """Return the parts of a text that begins with a block between markers other than tags, or None.

    >>> _marked("[THINK]They want a recipe.[/THINK]Boil the rice.")
    Apart(answer='Boil the rice.', thinking='They want a recipe.')
    """
    rest, thinking = text.lstrip(), list[str]()
    while begun := next((marks for marks in _MARKS if rest.startswith(marks[0])), None):
        block, _, rest = rest.removeprefix(begun[0]).partition(begun[1])
        thinking.append(block)
        rest = rest.lstrip().removeprefix("<|start|>assistant")
    return _joined([_AROUND.sub("", rest)], thinking) if thinking else None


def whole_answer(text: str) -> str:
    """Return a text's answer, fit to be taught and compared; empty if a block of thinking begins in it and never ends.

    >>> whole_answer("<think>Hm.</think>Boil the rice."), whole_answer("Rice.\\n<think>\\nThey want")
    ('Boil the rice.', '')
    """
    answer = apart(text).answer
    unfinished = any(not tag["close"] and tag["line"] is not None for tag in _TAG.finditer(answer))
    return "" if unfinished else answer


def _joined(answer: list[str], thinking: list[str]) -> Apart:
    return Apart(_closes_nothing("".join(answer)).strip(), "\n".join(part for block in thinking if (part := block.strip())))


def _closes_nothing(answer: str) -> str:
    """Remove the closing tags before an answer's first opening tag: on a second reading they would end a block that never began."""
    parts, at = [], 0
    for tag in _TAG.finditer(answer):
        if not tag["close"]:
            break
        # The text before must not form a tag with the text after, nor leave it at the beginning.
        before = answer[at : tag.start()]
        parts.append(before.rstrip("</" + whitespace) or (before.strip() and "/"))
        at = tag.end()
    return " ".join([*parts, answer[at:]]) if parts else answer
