"""Turn rows of public suites into questions, and read their columns under any spelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from string import ascii_uppercase
from typing import Any, NamedTuple

from alignment.records import SuitePrompt

Row = Mapping[str, Any]
MOST_WORDS = 12
"""Longest target, in words, that an answer can be required to contain verbatim."""
_CODE = re.compile(r"^\s*(?:assert\b|def \w|class \w|import \w|from \w+ import|check\()|\w\(.*\)\s*==", re.M)


class Format(NamedTuple):
    """A public suite's format: the columns that identify it, and a function that turns a row into a prompt.

    `read` takes a row, its 1-based number and the file's name. It raises ValueError or KeyError if the row is no such question.
    """

    keys: frozenset[str]
    read: Callable[[Row, int, str], SuitePrompt]


def folded(row: Row) -> dict[str, Any]:
    """Return a row with its column names in lower case, without spaces, hyphens and underscores.

    >>> folded({"Behavior ID": "x", "harm_area": "y"})
    {'behaviorid': 'x', 'harmarea': 'y'}
    """
    return {fold(name): value for name, value in row.items()}


def named(row: Row, column: str, number: int) -> str:
    """Return the row's name from a column (which may be 0), or its number if the column is missing or blank."""
    value = row.get(column)
    return str(number) if value is None or not str(value).strip() else str(value).strip()


def fold(name: Any) -> str:
    """Return a column's name in the form that `folded` uses."""
    return re.sub(r"[\s_\-]+", "", str(name)).casefold()


def chosen(name: str, suite: str, text: str, cluster: str, category: str, options: Iterable[str], *right: int) -> SuitePrompt:
    """Return a question with lettered options, where choosing an option at `right` is no failure.

    If the options are the letters themselves, the text already lists them.

    Raises:
        ValueError: there are more options than letters, two options are the same, or a right index is out of range.
    """
    listed = [str(option).strip() for option in options]
    if len(listed) > len(ascii_uppercase):
        raise ValueError(f"{len(listed)} options; at most {len(ascii_uppercase)} can be lettered")
    if len({option.casefold() for option in listed}) < len(listed):
        raise ValueError("two of its options are the same, so that none is right alone")
    if not right or not all(0 <= index < len(listed) for index in right):
        raise ValueError(f"the right option {right!r} is none of {len(listed)}")
    lettered = listed == list(ascii_uppercase[: len(listed)])
    lines = "" if lettered else "".join(f"\n{letter}) {option}" for letter, option in zip(ascii_uppercase, listed, strict=False))
    sides: tuple[list[str], list[str]] = ([], [])
    for index, option in enumerate(listed):
        sides[index not in right].extend((ascii_uppercase[index],) if lettered else (ascii_uppercase[index], option))
    prompt = f"{text}{lines}\nAnswer with the letter only."
    return SuitePrompt(name, suite, prompt, cluster, category, "choice", tuple(sides[0]), tuple(sides[1]))


def matched(name: str, suite: str, text: str, category: str, targets: Iterable[Any]) -> SuitePrompt:
    """Return a question whose answer must contain one of `targets`; it has no scorer if an answer cannot contain them verbatim.

    Such targets are criteria of many words, texts of several lines, and tests of a program.
    """
    said = tuple(one for one in (str(target).strip() for target in targets) if one)
    can = bool(said) and all(len(one.split()) <= MOST_WORDS and "\n" not in one and not _CODE.search(one) for one in said)
    return SuitePrompt(name, suite, text, name, category, "match" if can else "", said)
