"""Pure facts about an answer that two stages need: where it begins, where it ends, and whether it is an answer at all."""

from __future__ import annotations

import re
from collections import Counter

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
_WORD = re.compile(r"\w+(?:['’]\w+)*", re.UNICODE)
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "\u00a0": " "})
_MARKS = re.compile(r"([^\w\s]|_)(?:[^\w\s]|_)+")
_ENOUGH_WORDS = 3
_RUN = 4
_MOST, _LAST = 16_000, 4000


def within(text: str) -> str:
    """Return at most 16,000 characters of a text, as a bound on slow functions: a longer text's beginning and its last 4,000.

    >>> len(within("a" * 10**6)), within("short")
    (16000, 'short')
    """
    return text if len(text) <= _MOST else f"{text[: _MOST - _LAST - 1]}\n{text[-_LAST:]}"


def plain(text: str) -> str:
    """Return `text` with straight quotes and single spaces, lower-cased, so that one pattern matches every spelling.

    >>> plain("I can’t  do\\nThat")
    "i can't do that"
    """
    return " ".join(text.translate(_QUOTES).lower().split())


def opening(text: str, *, sentences: int = 2, limit: int = 300) -> str:
    """Return the first `sentences` sentences (a line break also ends a sentence), at most `limit` characters; empty for blank text.

    >>> opening("No. I won't. Ask someone else.")
    "No. I won't."
    """
    parts = [part for part in _SENTENCE_END.split(text.strip()[: 4 * limit]) if part.strip()]
    return " ".join(parts[:sentences])[:limit]


def ending(text: str, *, limit: int = 400) -> str:
    """Return the last `limit` characters, starting at a word where possible.

    >>> ending("a short text")
    'a short text'
    """
    stripped = text.strip()
    if len(stripped) <= limit:
        return stripped
    return stripped[-limit:].split(" ", 1)[-1]


def degenerate(text: str) -> float:
    """Return how far `text` is from an answer, in 0..1: 1 is empty, wordless or one phrase over and over; prose is near 0.

    The largest of three signs: no words at all or one word over and over; the share of four-word runs that repeat an earlier run
    (beyond the fifth that honest lists have); and a text that is mostly not letters or digits. A short answer such as "Paris." is not
    degenerate. Never NaN.

    >>> degenerate(""), degenerate(":"), degenerate("Mix the flour and the eggs, then bake it."), degenerate("No.")
    (1.0, 1.0, 0.0, 0.0)
    """
    text = within(text)
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        return 1.0
    letters = sum(map(str.isalnum, text)) / sum(not char.isspace() for char in text)
    return round(max(_repetition(words), max(0.0, 1.0 - letters / 0.5)), 4)


def said_once(text: str) -> str:
    """Return the words of `text` without marks between them, and without words that only repeat an earlier run.

    >>> said_once("Mix the two. " * 8), said_once("Stop!!!!! ---- ..."), said_once(". . .")
    ('Mix the two.', 'Stop!', '')
    """
    text = _MARKS.sub(r"\1", text)
    sentences = dict.fromkeys(part.strip() for part in _SENTENCE_END.split(text) if part.strip())
    kept, words, seen = [], [], set()
    for part in re.findall(r"\S+\s*", "\n".join(sentences)):
        if any(map(str.isalnum, part)):
            words.append(part.strip().lower())
            run = tuple(words[-_RUN:])
            if len(run) < _RUN or run not in seen:
                kept.append(part)
            seen.add(run)
    return "".join(kept).strip()


def _repetition(words: list[str]) -> float:
    if len(words) < 2 * _RUN:
        return float(len(words) > 2 and len(set(words)) == 1)
    runs = Counter(tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1))
    repeated = 1.0 - len(runs) / (len(words) - _RUN + 1)
    return min(1.0, max(0.0, (repeated - 0.2) / 0.5))
