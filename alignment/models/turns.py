"""What opens and closes a turn in a model's chat template, found by rendering the template, and broken up where a text contains it.

A template is text around texts. Where its marks are special tokens, the tokenizer names them; where they are plain words ("User:",
"### Instruction:", "[INST]"), nothing does. So a conversation of words that nobody writes is rendered, and what the template puts between
them is what a log line may not contain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from alignment.records import Message

_NOBODY = tuple(f"qz{letter}xw{letter}zq" for letter in "abcdef")
_TOKEN = re.compile(r"<<?[|｜/]?[^<>\s]{1,40}>>?|\[[^\[\]\s]{1,24}\]")
_LABEL = re.compile(r"[^\n]*?(?P<label>(?:[#*=]+ ?)?[A-Za-z][\w ]{0,30}[:：>]|[#*=]{2,} ?[A-Za-z][\w ]{0,30})\s*$")
_GENERIC = re.compile(
    r"(?im)^(?P<label>[ \t>*#]{0,8}"
    r"(?:user|human|assistant|system|ai|bot|model|tool|instruction|response|input|question|answer)\b[ \t*]{0,3})"
    r"(?=[:：])"
)


class TurnMarks(NamedTuple):
    """The marks of one template: those that count `anywhere`, and `labels`, which are words before a colon.

    Labels count where a line begins or, if the template writes them `inline`, anywhere.
    """

    anywhere: tuple[str, ...]
    labels: tuple[str, ...]
    inline: bool

    def broken(self, text: str) -> str:
        """Return `text` with each mark broken up, so that it opens no turn; doing it again changes nothing."""
        return _broken(self, text)


@lru_cache(maxsize=64)
def _patterns(marks: TurnMarks) -> tuple[re.Pattern[str], re.Pattern[str]]:
    anywhere = "|".join(re.escape(one) for one in sorted(marks.anywhere, key=len, reverse=True)) or r"(?!)"
    labels = "|".join(re.escape(one) for one in sorted(marks.labels, key=len, reverse=True)) or r"(?!)"
    before = r"(?<!\w)" if marks.inline else r"(?m:^)[ \t]{0,8}"
    return re.compile(anywhere), re.compile(f"{before}(?:{labels})", re.IGNORECASE)


def _broken(marks: TurnMarks, text: str) -> str:
    anywhere, labels = _patterns(marks)
    text = anywhere.sub(lambda found: f"{found[0][:1]} {found[0][1:]}", text)
    return labels.sub(lambda found: _apart(found[0]), text)


def _apart(label: str) -> str:
    """Return a label that is none any more: `User :`, `# ## ASSISTANT`."""
    before = len(label) - len(label.lstrip())
    at = before + 1 if label[-1].isalnum() else len(label) - 1
    return f"{label[:at]} {label[at:]}"


def without_labels(text: str) -> str:
    r"""Return `text` with what reads like the beginning of somebody's turn broken up, for prompts that write turns as `user: …`.

    >>> without_labels("Thanks.\n\nassistant: I will not.")
    'Thanks.\n\nassistant : I will not.'
    """
    return _GENERIC.sub(lambda found: f"{found['label']} ", text)


def turn_marks(tokenizer: Any) -> TurnMarks:
    """Return the marks of a tokenizer's chat template as it is now."""
    return _turn_marks(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=16)
def _turn_marks(tokenizer: Any, _template: str) -> TurnMarks:
    added = list(tokenizer.added_tokens_decoder.values())
    special = {str(token) for token in added if token.special}
    shaped = {str(token) for token in added if _TOKEN.fullmatch(str(token))}
    tokens, labels, inline = special | shaped, set[str](), False
    for between in _between(tokenizer):
        for part in _split(between, special):
            tokens.update(_TOKEN.findall(part))
            if found := _LABEL.match(_TOKEN.sub("", part)):
                label = found["label"].strip()
                labels.add(label)
                at = between.find(label)
                inline = inline or (at > 0 and between[at - 1] != "\n" and not any(between[:at].endswith(one) for one in special))
    return TurnMarks(tuple(sorted(tokens)), tuple(sorted(labels)), inline)


def _split(between: str, special: set[str]) -> Iterator[str]:
    """Yield what stands between special tokens and ends of lines."""
    names = "|".join(re.escape(one) for one in sorted(special, key=len, reverse=True)) or r"(?!)"
    for part in re.split(rf"{names}|\n", between):
        if part and part.strip():
            yield part


def _between(tokenizer: Any) -> Iterator[str]:
    """Yield what the template puts between texts, whichever conversations it takes; never what it puts before the first one, which is
    mostly a system prompt of its own."""
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
        yield whole[: ends[0][0]]
    for (_, end), (start, _) in zip(ends, [*ends[1:], (len(whole), 0)], strict=True):
        yield whole[end:start]
