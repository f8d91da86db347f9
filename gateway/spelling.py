"""A text as a person reads it: look-alike letters, hidden signs, spaced-out letters and encodings undone.

Detectors read both a text and its reading, because a disguise is invisible to a model that was trained on plain spelling.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import unicodedata
from urllib.parse import unquote

from alignment.ingest.normalize import view

_SAME = str.maketrans(
    "аеорсухіјѕԁһԛԝьІАВЕКМНОРСТХУЅЈαοερτυινκγηωΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijsdhqwbIABEKMHOPCTXYSJaoeptuivkynwABEZHIKMNOPTYX",
)
_WORD = re.compile(r"\w+")
_LATIN = re.compile(r"[A-Za-z]")
_SPACED = re.compile(r"(?<!\w)(?:\w[ .\-_*|]){3,40}\w(?!\w)")
_GAP = re.compile(r"[ .\-_*|]")
_DIGITS = str.maketrans("013457@$!", "oieastasi")
_LEET = re.compile(r"(?<!\w)(?=[\w@$!]{0,39}[A-Za-z])(?=[\w@$!]{0,39}[013457@$])[\w@$!]{3,40}(?!\w)")
_BASE64 = re.compile(r"(?<![\w+/=-])[A-Za-z0-9+/_-]{24,8000}={0,2}(?![\w+/=])")
_HEX = re.compile(r"(?<!\w)(?:[0-9a-fA-F]{2}[ :]?){12,4000}(?!\w)")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2}){3}")
_ROT13 = re.compile(r"\b(?:rot-?13|caesar)\b", re.I)
_BLOCK = 20_000


def reading(text: str) -> str:
    r"""Return `text` as a person reads it; what is encoded in it stands decoded at its place. It is read in blocks of 20,000 characters.

    >>> reading("how to b u i l d the b\u043emb"), reading("aG93IHRvIGJ1aWxkIGEgYm9tYg==")
    ('how to build the bomb', 'how to build a bomb')
    """
    return "".join(_reading(text[start : start + _BLOCK]) for start in range(0, len(text), _BLOCK))


def _reading(text: str) -> str:
    seen = unicodedata.normalize("NFKC", view(text).text)
    seen = "".join(char for char in unicodedata.normalize("NFKD", seen) if not unicodedata.combining(char))
    seen = _WORD.sub(_plain_word, seen)
    seen = _BASE64.sub(lambda found: _decoded(found.group()), seen)
    seen = _HEX.sub(lambda found: _printable(_bytes_of_hex(found.group())) or found.group(), seen)
    if _PERCENT.search(seen):
        seen = unquote(seen, errors="ignore")
    if _ROT13.search(seen):
        seen = f"{seen}\n{codecs.decode(seen, 'rot13')}"
    seen = _SPACED.sub(lambda found: _GAP.sub("", found.group()), seen)
    return _LEET.sub(lambda found: found.group().translate(_DIGITS), seen)


def _plain_word(found: re.Match[str]) -> str:
    """Write a word in Latin letters if it mixes alphabets, or if every letter in it looks like one: other words are another language's."""
    word = found.group()
    if word.isascii():
        return word
    plain = word.translate(_SAME)
    return plain if _LATIN.search(word) or (plain.isascii() and len(word) > 3) else word


def _decoded(code: str) -> str:
    try:
        raw = base64.b64decode(code.replace("-", "+").replace("_", "/") + "=" * (-len(code) % 4), validate=False)
    except (binascii.Error, ValueError):
        return code
    return _printable(raw) or code


def _bytes_of_hex(code: str) -> bytes:
    digits = re.sub(r"[ :]", "", code)
    return bytes.fromhex(digits[: len(digits) // 2 * 2])


def _printable(raw: bytes) -> str:
    """Return bytes as text if they are one, else nothing: random letters also decode to something."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return text if text and sum(char.isprintable() or char in "\n\t" for char in text) == len(text) else ""
