"""Rows of public suites as questions with lettered options, and the columns that a row has under any spelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from string import ascii_uppercase
from typing import Any, NamedTuple

from alignment.records import SuitePrompt

Row = Mapping[str, Any]
MOST_WORDS = 12
"""Words of a target that an answer can be asked to hold word for word."""
_CODE = re.compile(r"^\s*(?:assert\b|def \w|class \w|import \w|from \w+ import|check\()|\w\(.*\)\s*==", re.M)


class Format(NamedTuple):
    """A public suite's columns by which it is known, and how one of its rows becomes a prompt.

    `read` takes a row, its number from 1 and the file's name; it raises ValueError or KeyError where a row is no such question.
    """

    keys: frozenset[str]
    read: Callable[[Row, int, str], SuitePrompt]


def folded(row: Row) -> dict[str, Any]:
    """Return a row by the names of its columns in small letters without spaces, hyphens and underscores.

    >>> folded({"Behavior ID": "x", "harm_area": "y"})
    {'behaviorid': 'x', 'harmarea': 'y'}
    """
    return {fold(name): value for name, value in row.items()}


def named(row: Row, column: str, number: int) -> str:
    """Return what a row is named in a column, which may be 0; its number where it is not."""
    value = row.get(column)
    return str(number) if value is None or not str(value).strip() else str(value).strip()


def fold(name: Any) -> str:
    """Return a column's name as `folded` has it."""
    return re.sub(r"[\s_\-]+", "", str(name)).casefold()


def chosen(name: str, suite: str, text: str, cluster: str, category: str, options: Iterable[str], *right: int) -> SuitePrompt:
    """Return a question with lettered options of which those at `right` are no failure.

    Options that are the letters themselves stand in the text already.

    Raises:
        ValueError: there are more options than letters, two of them are the same, or a right one is none of them.
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
    """Return a question whose answer is to hold one of `targets`; without a scorer where no answer can hold one word for word.

    That is a criterion of many words, a text of several lines, and the tests of a program.
    """
    said = tuple(one for one in (str(target).strip() for target in targets) if one)
    can = bool(said) and all(len(one.split()) <= MOST_WORDS and "\n" not in one and not _CODE.search(one) for one in said)
    return SuitePrompt(name, suite, text, name, category, "match" if can else "", said)
