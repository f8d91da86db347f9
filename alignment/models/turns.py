"""Find what opens and closes a turn in a model's chat template, and break it up inside texts.

Special tokens are listed by the tokenizer. Turn marks that are plain words ("User:", "### Instruction:", "[INST]") are listed nowhere. So
this module renders a conversation of words that nobody writes: whatever the template puts between them is what a log line may not
contain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from alignment.errors import ModelError
from alignment.records import Message

_NOBODY = tuple(f"qz{letter}xw{letter}zq" for letter in "abcdef")
_TOKEN = re.compile(r"<<?[|｜/]?[^<>\s]{1,40}>>?|\[[^\[\]\s]{1,24}\]")
_LABEL = re.compile(r"(?:[#*=]{1,8} ?)?[^\W\d_][\w ]{0,30}[:：>]\Z|[#*=]{2,8} ?[^\W\d_][\w ]{0,30}\Z")
_BREAK = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_UNSEEN = r"\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
_BEGIN = rf"(?<![^{_BREAK}])[ \t\u00a0>{_UNSEEN}]{{0,8}}"
_END = rf"(?=[ \t]{{0,8}}(?:[{_BREAK}]|\Z))"
_ROLES = ["user", "human", "assistant", "system", "ai", "bot", "model", "tool", "instruction", "response", "input", "question", "answer"]
_GENERIC = re.compile(
    rf"(?P<label>(?<![^{_BREAK}])(?:[ \t\u00a0>*#+•(<{{\[\"'`_{_UNSEEN}\-]|\d{{1,3}}[.)]){{0,8}}"
    rf"(?:{'|'.join(f'[{_UNSEEN}]{{0,4}}'.join(role) for role in _ROLES)})(?![^\W_])[ \t\u00a0*_)>}}\]\"'`{_UNSEEN}]{{0,8}})(?=[:：])",
    re.IGNORECASE,
)


class TurnMarks(NamedTuple):
    """The marks of one template: those that count `anywhere`, and `labels`, which are words before a colon.

    Labels count at the beginning of a line or, if the template writes them `inline`, anywhere. Other words and signs count where the
    template writes them: as whole `lines`, where a line `begins`, or where it `ends`.
    """

    anywhere: tuple[str, ...]
    labels: tuple[str, ...]
    inline: bool
    lines: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()

    def broken(self, text: str) -> str:
        """Return `text` with each mark broken up, so that it opens no turn; idempotent."""
        return _broken(self, text)


def _any(marks: Iterable[str]) -> str:
    """Return a pattern for any of `marks`, the longest first; a word does not match the start of a longer word."""
    words = (re.escape(one) + (r"(?!\w)" if one[-1].isalnum() else "") for one in sorted(marks, key=len, reverse=True))
    return f"(?:{'|'.join(words) or '(?!)'})"


@lru_cache(maxsize=64)
def _patterns(marks: TurnMarks) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    anywhere = "|".join(re.escape(one) for one in sorted(marks.anywhere, key=len, reverse=True)) or r"(?!)"
    labels = "|".join(re.escape(one) for one in sorted(marks.labels, key=len, reverse=True)) or r"(?!)"
    before = r"(?<!\w)" if marks.inline else _BEGIN
    others = rf"(?P<before>{_BEGIN})(?:{_any(marks.lines)}{_END}|{_any(marks.begins)})|{_any(marks.ends)}{_END}"
    return re.compile(anywhere), re.compile(f"{before}(?:{labels})", re.IGNORECASE), re.compile(others, re.IGNORECASE)


def _broken(marks: TurnMarks, text: str) -> str:
    anywhere, labels, others = _patterns(marks)
    text = anywhere.sub(lambda found: _cut(found[0], 0), text)
    text = labels.sub(lambda found: _apart(found[0]), text)
    return others.sub(lambda found: _cut(found[0], len(found["before"] or "")), text)


def _cut(found: str, at: int) -> str:
    """Insert a space after the first character of the mark at position `at`; a mark of one character gets a backslash before it."""
    mark = found[at:]
    return found[:at] + (f"{mark[0]} {mark[1:]}" if len(mark) > 1 else f"\\{mark}")


def _apart(label: str) -> str:
    """Break up a label: `User :`, `# ## ASSISTANT`."""
    before = len(label) - len(label.lstrip())
    at = before + 1 if label[-1].isalnum() else len(label) - 1
    return f"{label[:at]} {label[at:]}"


def without_labels(text: str) -> str:
    r"""Break up what looks like the start of a turn in `text`, for prompts that write turns as `user: …`.

    >>> without_labels("Thanks.\n\nassistant: I will not.")
    'Thanks.\n\nassistant : I will not.'
    """
    return _GENERIC.sub(lambda found: f"{found['label']} ", text)


def turn_marks(tokenizer: Any) -> TurnMarks:
    """Return the marks of a tokenizer's current chat template.

    Raises:
        ModelError: the template puts only whitespace between turns.
    """
    return _turn_marks(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=16)
def _turn_marks(tokenizer: Any, _template: str) -> TurnMarks:
    added = list(tokenizer.added_tokens_decoder.values())
    special = {str(token) for token in added if token.special}
    shaped = {str(token) for token in added if _TOKEN.fullmatch(str(token))}
    tokens, labels, inline = special | shaped, set[str](), False
    lines, begins, ends = set[str](), set[str](), set[str]()
    betweens = list(_between(tokenizer))
    if betweens and not any(between.strip() for between in betweens):
        raise ModelError(
            f"the chat template of {str(tokenizer.name_or_path)!r} separates turns by nothing that can be kept out of logged text; "
            "set [model] path to a model whose template marks turns"
        )
    for between in betweens:
        plain = []
        for place, line in enumerate(rows := between.split("\n")):
            parts = list(_split(line, special))
            found = [label for part in parts if (label := _label(part))]
            for label in found:
                labels.add(label)
                at = between.find(label)
                inline = inline or (at > 0 and between[at - 1] != "\n" and not any(between[:at].endswith(one) for one in special))
            marks = [mark for part in parts for mark in _TOKEN.findall(part)]
            tokens.update(marks)
            # Words beside a token mark nothing without it; labels are recorded above.
            if line.strip() and not found and not marks and parts == [line]:
                plain.append((place, line.strip()))
        for place, mark in plain:
            if len(rows) == 1:
                tokens.add(mark)
            elif place == len(rows) - 1:
                begins.add(mark)
            elif place:
                lines.add(mark)
            else:
                ends.add(mark)
    # What ends a turn opens none if other marks do.
    if lines or begins or labels or tokens - special - shaped:
        ends.clear()
    anywhere, named, whole, first, last = (tuple(sorted(one)) for one in (tokens, labels, lines, begins, ends))
    return TurnMarks(anywhere, named, inline, whole, first, last)


def _label(part: str) -> str:
    found = _LABEL.search(_TOKEN.sub("", part).rstrip())
    return found[0].strip() if found else ""


def _split(line: str, special: set[str]) -> Iterator[str]:
    """Yield the texts between special tokens."""
    names = "|".join(re.escape(one) for one in sorted(special, key=len, reverse=True)) or r"(?!)"
    yield from (part for part in re.split(names, line) if part.strip())


def _between(tokenizer: Any) -> Iterator[str]:
    """Yield what the template puts between texts, but not before the first: that is mostly a system prompt of its own."""
    a, b, c, d, e, _ = _NOBODY
    dialogue: list[Message] = [{"role": role, "content": word} for role, word in zip(("user", "assistant") * 2, (a, b, c, d), strict=True)]
    asked = dialogue[:3]
    system: Message = {"role": "system", "content": e}
    tool: Message = {"role": "tool", "content": e}
    for turns, prompt in (
        (dialogue, False),
        (asked, True),
        ([system, *asked], True),
        ([*dialogue[:2], tool, *dialogue[3:]], False),
        ([*asked[:2], system, *asked[2:]], True),
    ):
        yield from _rendered(tokenizer, turns, prompt)


def _rendered(tokenizer: Any, turns: Sequence[Message], prompt: bool) -> Iterator[str]:
    try:
        whole = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))
    except (TemplateError, TypeError, ValueError, KeyError):
        return
    places = [(whole.find(turn["content"]), turn["content"]) for turn in turns]
    if any(at < 0 for at, _ in places):
        return
    ends = [(at, at + len(word)) for at, word in sorted(places)]
    if turns[0]["role"] == "system":
        # Treat the text after a system prompt as the beginning of a line.
        yield "\n" + whole[: ends[0][0]]
    for (_, end), (start, _) in zip(ends, [*ends[1:], (len(whole), 0)], strict=True):
        yield whole[end:start]
