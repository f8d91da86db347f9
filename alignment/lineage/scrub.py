"""One person's id and texts, and how to remove them from other text."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

ERASED = "<ERASED>"
_MIN_WORD, _MIN_TEXT = 4, 20
"""Shorter ids occur in too many words, and shorter texts are written by too many people, to be searched for in others' text."""

_HEX = re.compile(r"(\\u)([0-9a-f]{4})")

TEXT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "interactions": ("conversation_id", "session_id", "messages", "prompt", "response"),
    "signals": ("value",),
    "quarantine": ("detail", "raw"),
    "check_results": ("detail",),
    "candidates": ("text", "detail"),
    "votes": ("detail",),
    "teacher_calls": ("response",),
    "pairs": ("messages", "chosen", "rejected"),
    "pair_exclusions": ("detail",),
    "review_items": ("prompt", "answer_a", "answer_b", "detail", "reason"),
    "verdicts": ("edited_answer", "note"),
    "release_events": ("reason",),
    "gate_verdicts": ("reason",),
    "pair_events": ("reason",),
    "erasures": ("reason",),
    "batch_profiles": ("keys",),
    "hook_runs": ("detail",),
    "night_events": ("summary",),
    "pair_exports": ("path",),
    "files_set_aside": ("reason",),
    "seeds": ("text", "chosen", "rejected", "before"),
}
"""Columns of free text. Others hold this project's ids, names and numbers: a user called 'harm' must not change a pair's side."""
TEXT_NAMES = frozenset(name for names in TEXT_COLUMNS.values() for name in names)


class Subject(NamedTuple):
    """A person: the forms in which logs name them (as written, and masked), and the keyed hashes of both forms."""

    forms: tuple[str, ...]
    subject_key: str
    masked_key: str


def _escapes(text: str) -> list[str]:
    """Return the forms of `text` in a file: plain, in a JSON string of any kind, quoted by an error message, or in a page."""
    plain, ascii_only = (json.dumps(text, ensure_ascii=each)[1:-1] for each in (False, True))
    upper = _HEX.sub(lambda found: found[1] + found[2].upper(), ascii_only)
    return list(dict.fromkeys([text, plain, ascii_only, upper, repr(text)[1:-1], html.escape(text), html.escape(text, quote=False)]))


def _word(form: str) -> str:
    left = r"(?<!\w)" if re.match(r"\w", form[0]) else ""
    right = r"(?!\w)" if re.match(r"\w", form[-1]) else ""
    return f"{left}{re.escape(form)}{right}"


def quarantine_pattern(subject: Subject) -> str:
    """Return the RE2 pattern of the subject's raw lines: by `user_id`, or, for ids of at least 4 characters, by the id as a word."""
    forms = "|".join(_re2(each) for form in subject.forms for each in _escapes(form))
    words = "|".join(_re2(each) for form in subject.forms if len(form) >= _MIN_WORD for each in _escapes(form))
    named = rf'"user_id"\s*:\s*"?(?:{forms})["\s,}}]'
    return named + (rf"|(?:^|[^\pL\pN_]|\\[bfnrt])(?:{words})(?:$|[^\pL\pN_])" if words else "")


def _re2(text: str) -> str:
    # Some escapes of Python's re.escape are errors in RE2; hexadecimal is the same in both.
    return "".join(character if character.isalnum() else rf"\x{{{ord(character):x}}}" for character in text)


@dataclass(frozen=True)
class Scrubber:
    """Removes a subject's id, and the subject's texts if given, from text.

    >>> Scrubber(("u-ann",)).text("ask u-ann, not u-anna")
    'ask <ERASED>, not u-anna'
    >>> Scrubber(("abc",)).text("abc is too short to look for")
    'abc is too short to look for'
    """

    forms: tuple[str, ...]
    texts: tuple[str, ...] = ()

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The forms long enough to search for."""
        return tuple(form for form in self.forms if len(form) >= _MIN_WORD)

    @cached_property
    def _quotes(self) -> tuple[str, ...]:
        # By line, because a quotation of the text may break or escape it there.
        lines = {line.strip() for text in self.texts for line in text.split("\n")}
        longest = sorted((line for line in lines if len(line) >= _MIN_TEXT), key=lambda line: (-len(line), line))
        return tuple(each for text in longest for each in _escapes(text))

    @cached_property
    def needles(self) -> tuple[str, ...]:
        """Strings of which every file or cell with something to remove holds at least one."""
        return (*self._quotes, *(each for word in self.words for each in _escapes(word)))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(_word(each) for word in self.words for each in _escapes(word)) or r"(?!)")

    def text(self, value: str) -> str:
        """Return a plain text without the subject."""
        if not any(needle in value for needle in self.needles):
            return value
        for quote in self._quotes:
            value = value.replace(quote, ERASED)
        return self._pattern.sub(ERASED, value)

    def cell(self, value: str) -> str:
        """Return a text, or a JSON value as text, without the subject; a value that needs no change is returned byte for byte."""
        if not any(needle in value for needle in self.needles):
            return value
        if value[:1] in ("{", "["):
            try:
                parsed = json.loads(value)
            except ValueError:
                return self.text(value)
            cleaned = self._inside(parsed)
            return value if cleaned == parsed else json.dumps(cleaned, ensure_ascii=False)
        return self.text(value)

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row of named values with its text columns cleaned."""
        return {
            name: (self.cell(value) if isinstance(value, str) else self._inside(value)) if name in TEXT_NAMES else value
            for name, value in row.items()
        }

    def _inside(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._inside(each) for each in value]
        if isinstance(value, dict):
            # A role is one of four words of the chat format, even if a person is called 'user'.
            return {self.text(key): each if key == "role" else self._inside(each) for key, each in value.items()}
        return value
