"""A text as the rules read it: look-alike characters are unified and encodings undone, and every position maps to the original.

`４１１１…`, `ann%40example.com`, `&#64;`, soft hyphens and zero-width spaces hide a value from a pattern and from nobody
else. The stored text keeps them: a hit in the view is mapped back to the original characters.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from alignment.text import PLACEHOLDER

HIDDEN = "\ufdd0"
"""Marks masked text in a view. Unicode assigns this character to nothing, and a view drops it wherever a text has it."""

_INVISIBLE = (
    r"\x{00AD}\x{034F}\x{061C}\x{115F}\x{1160}\x{180B}-\x{180E}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{206F}\x{FE00}-\x{FE0F}\x{FEFF}"
)
_ODD = r"[\x{A0}\x{1680}\x{2000}-\x{200A}\x{2010}-\x{2015}\x{2028}\x{2029}\x{202F}\x{205F}\x{2212}\x{3000}\x{FE58}\x{FE63}\x{FF0D}]"
DISGUISED = (
    rf"[0-9A-Za-z@._+\-][{_INVISIBLE}\x{{FDD0}}\x{{E0000}}-\x{{E0FFF}}]"
    rf"|[0-9]{_ODD}[0-9A-Za-z]+{_ODD}[0-9A-Za-z]"
    # The rules read digits of every script as ASCII digits.
    r"|[0-9A-Za-z_:.@+\-][^\P{Nd}\x00-\x7F]|[^\P{Nd}\x00-\x7F][0-9A-Za-z_:.@+\-]"
    r"|[\x{FF10}-\x{FF19}\x{FF20}-\x{FF3A}\x{FF41}-\x{FF5A}\x{FE6B}]"
    r"|[\x{2460}-\x{2468}\x{24B6}-\x{24EA}\x{1D400}-\x{1D7FF}]{3}"
    r"|%(?:25|2[BbEeDd]|3[0-9]|4|5|6|7)|[0-9]%2[0Ff][0-9A-Za-z]|\\(?:u00|x)[2-7]|\\/|\[\.\]"
    r"|&(?:#[0-9xX]|commat|period|plus|lowbar|colon|dash|hyphen|shy|zw|nbsp|equals|quot|amp;#)"
)
"""RE2 pattern of the spellings that only the view can read; a text that matches goes to Python."""

# The character after a backslash may also be the first letter of a key, for instance in a path.
_LETTER_OF_KEY = "pm_|k_live_|k_test_|vapi-|api_|tn_|fp_|ubygems_|nd_|zp_|8_|[a-z][0-9][0-9] ?[a-z0-9]{4}"
_ESCAPE = re.compile(
    r"\[\.\]|%[2-7][0-9A-Fa-f]|&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,12});"
    r"|\\(?:u00[2-7][0-9A-Fa-f]|x[2-7][0-9A-Fa-f]|[/\"']|[nrt]"
    f"(?!{_LETTER_OF_KEY}))"
)
_WHITE = {"\\n": "\n", "\\r": "\n", "\\t": "\t"}
_SAME_AS = {"<wide>", "<narrow>", "<small>", "<font>", "<circle>", "<noBreak>"}
_TYPOGRAPHY = (
    {"\u3002": ".", "\u2212": "-", "\u00ad": ""}
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"')
    | dict.fromkeys("\u2018\u2019\u201a\u201b", "'")
)
_ENCODED_TWICE = 3


class View(NamedTuple):
    """`text` as the rules read it; its character i was read from `[starts[i], ends[i])` of the original."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def replaced(self, spans: Sequence[tuple[int, int, str]]) -> View:
        """Replace `spans` (in order, disjoint) with other text; each replacement maps to the whole place."""
        parts: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        after = 0
        for start, end, text in spans:
            parts += (self.text[after:start], text)
            starts += self.starts[after:start]
            ends += self.ends[after:start]
            starts += [self.starts[start]] * len(text)
            ends += [self.ends[end - 1]] * len(text)
            after = end
        return View("".join([*parts, self.text[after:]]), [*starts, *self.starts[after:]], [*ends, *self.ends[after:]])


def view(text: str) -> View:
    r"""Return `text` as the rules read it.

    >>> view("ann%40ex\u00adample.\uff43om").text
    'ann@example.com'
    """
    seen = View(text, range(len(text)), range(1, len(text) + 1))
    if not text.isascii():
        # Most replacements map one character to one, which moves no position.
        one = _plain()[0]
        seen = seen._replace(text=_BEYOND_ASCII.sub(lambda run: run.group().translate(one), text))
        seen = _apply(seen, list(_plain_spans(seen.text)))
    for _ in range(_ENCODED_TWICE):
        spans = list(_decoded(seen.text)) if any(sign in seen.text for sign in ("%", "&", "\\", "[.]")) else []
        if not spans:
            break
        seen = _apply(seen, spans)
    if "<" in text:
        seen = _apply(seen, [(*match.span(), HIDDEN) for match in PLACEHOLDER.finditer(seen.text)])
    return seen


def _apply(seen: View, spans: Sequence[tuple[int, int, str]]) -> View:
    return seen.replaced(spans) if spans else seen


_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


def _plain_spans(text: str) -> Iterator[tuple[int, int, str]]:
    other = _plain()[1]
    for run in _BEYOND_ASCII.finditer(text):
        if not other.keys().isdisjoint(run.group()):
            for place, character in enumerate(run.group(), run.start()):
                if character in other:
                    yield place, place + 1, other[character]


def _decoded(text: str) -> Iterator[tuple[int, int, str]]:
    for match in _ESCAPE.finditer(text):
        code = match.group()
        if code[0] == "[":
            yield *match.span(), "."
        elif code[0] == "%":
            yield *match.span(), chr(int(code[1:], 16))
        elif code[0] == "&":
            plain = html.unescape(code)
            plain = plain if plain.isascii() else _view_of(plain)
            if plain != code and all(" " <= one <= "~" for one in plain):
                yield *match.span(), plain
        elif code[1] in "ux":
            yield *match.span(), chr(int(code[2:].removeprefix("00"), 16))
        else:
            yield *match.span(), _WHITE.get(code, code[1])


def _view_of(character: str) -> str:
    return character.translate(_plain()[0]).translate({ord(one): put for one, put in _plain()[1].items()})


@cache
def _plain() -> tuple[dict[int, str], dict[str, str]]:
    """Return the characters beyond ASCII that are read as one other character, and those read as none or several."""
    table = dict(_TYPOGRAPHY)
    for code in (*range(0x80, 0xD800), *range(0xFDD0, 0x20000), *range(0xE0000, 0xE1000)):
        plain = _read_as(chr(code))
        if plain is not None:
            table.setdefault(chr(code), plain)
    return (
        {ord(character): plain for character, plain in table.items() if len(plain) == 1},
        {character: plain for character, plain in table.items() if len(plain) != 1},
    )


@cache
def spellings() -> tuple[str, str]:
    """Return signs beyond ASCII that a view reads as an ASCII sign, followed by those it drops; and the ASCII signs in the same order.

    For SQL's `translate`, so that a pattern sees signs as the rules do. Letters and digits are left to `DISGUISED`.
    """
    one, other = _plain()
    signs = {chr(code): plain for code, plain in one.items() if not plain.isalnum()}
    dropped = [character for character, plain in other.items() if not plain]
    return "".join([*signs, *dropped]), "".join(signs.values())


def _read_as(character: str) -> str | None:
    kind = unicodedata.category(character)
    if kind == "Cf" or "\ufe00" <= character <= "\ufe0f" or "\ufdd0" <= character <= "\ufdef":
        return ""
    if kind in ("Zs", "Zl", "Zp"):
        return " "
    if kind == "Pd":
        return "-"
    if kind == "Nd":
        return str(unicodedata.digit(character))
    if unicodedata.decomposition(character).partition(" ")[0] in _SAME_AS:
        plain = unicodedata.normalize("NFKC", character)
        return plain if plain.isascii() and plain.isprintable() else None
    return None
