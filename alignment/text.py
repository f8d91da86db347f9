"""Pure text functions that several stages need: fencing hostile text, cutting it, comparing it.

Logs may hold text that an attacker wrote. Models see it only fenced, and terminals only escaped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_GRAMS, _BUCKETS, _BLOCK = 4, 2**18, 2000

PLACEHOLDER = re.compile(r"<[A-Z_]{2,20}_[0-9a-f]{6}(?:[0-9a-f]{6})?>")
"""Replaces personal data or a secret in a text: its kind, and 6 hex digits (12 in an id)."""


def holds_placeholder(text: str) -> bool:
    """Return whether this project masked something personal or secret in `text`.

    >>> holds_placeholder("write to <EMAIL_3f9a1c>"), holds_placeholder("write to <EMAIL>")
    (True, False)
    """
    return bool(PLACEHOLDER.search(text))


_ANY_PLACEHOLDER = re.compile(
    r"<[A-Z]{2,20}(?:_[A-Z]{2,20}){0,3}_(?:\d{1,6}|[0-9a-f]{4,32})>"
    # As presidio and the gateways that mask with it write them.
    r"|<(?:PERSON|EMAIL_ADDRESS|PHONE_NUMBER|CREDIT_CARD|IBAN_CODE|IP_ADDRESS|DATE_TIME|US_SSN|US_BANK_NUMBER|US_DRIVER_LICENSE|US_PASSPORT"
    r"|UK_NHS|MEDICAL_LICENSE|CRYPTO|NRP)>"
)


def looks_masked(text: str) -> bool:
    """Return whether `text` has a placeholder of any redaction tool, ours or another's; no answer should hold one.

    >>> looks_masked("Write to <EMAIL_3f9a1c>."), looks_masked("Write to <EMAIL_1>."), looks_masked("Use <B_TAG> and <EMAIL>.")
    (True, True, False)
    >>> looks_masked("I wrote to <PERSON> at <EMAIL_ADDRESS>.")
    True
    """
    return bool(_ANY_PLACEHOLDER.search(text))


def cap(text: str, characters: int) -> str:
    """Return `text` cut to at most `characters`; the last is then an ellipsis.

    >>> cap("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= characters else text[: max(characters - 1, 0)] + "…"


def fence(text: str, nonce: str) -> str:
    """Return `text` between delimiters that it cannot contain, so that a prompt holds it as data and not as instruction.

    >>> fence("a <data-7> b", "7")
    '<data-7>\\na &lt;data-7> b\\n</data-7>'
    """
    safe = re.sub(rf"<(?=\s*/?\s*data-{re.escape(nonce)})", "&lt;", text, flags=re.I)
    return f"<data-{nonce}>\n{safe}\n</data-{nonce}>"


_CONTROL = re.compile(
    r"<(?=[|｜/]?\s*[|｜])|<(?=/?(?:s|bos|eos|pad|unk|think|system|user|assistant|(?:start|end)_of_turn)>)|<(?=</?SYS>>)|\[(?=/?INST\])",
    re.I,
)


def defused(text: str) -> str:
    r"""Return `text` without invisible characters and with the control tokens of the usual chat templates broken up.

    >>> defused("a<|im_end|>b [/INST] c</s>\u200b")
    'a< |im_end|>b [ /INST] c< /s>'
    """
    seen = "".join(character for character in text if character in "\n\t" or unicodedata.category(character) not in UNSEEN)
    return without_control(seen)


def without_control(text: str) -> str:
    """Return `text` with the control tokens of the usual chat templates broken up.

    >>> without_control("a<|im_end|>b")
    'a< |im_end|>b'
    """
    return _CONTROL.sub(lambda found: f"{found[0]} ", text)


def printable(text: str) -> str:
    r"""Return `text` on one line without control characters or line separators, fit for a terminal or a log.

    >>> printable("a\x1b[31mb\nc")
    'a [31mb c'
    """
    return "".join(" " if unicodedata.category(character) in UNSEEN else character for character in text)


def amount(value: float, unit: str, sign: str = "") -> str:
    """Return a metric's value as text: a `rate` in percent, `nats` unchanged; `sign` is "" or "+".

    >>> amount(0.25, "rate"), amount(0.04, "nats", "+")
    ('25.0%', '+0.040 nats')
    """
    return f"{value:{sign}.1%}" if unit == "rate" else f"{value:{sign}.3f} {unit}"


def difference(value: float, unit: str, sign: str = "") -> str:
    """Return a metric's difference as text: of two `rate`s in percentage points, `nats` unchanged; `sign` is "" or "+".

    >>> difference(0.25, "rate"), difference(-0.04, "nats", "+")
    ('25.0 points', '-0.040 nats')
    """
    return f"{100 * value:{sign}.1f} points" if unit == "rate" else amount(value, unit, sign)


def change(value: float, unit: str) -> str:
    """Return a metric's difference as a bare number: a `rate` in points, `nats` unchanged.

    >>> change(0.25, "rate"), change(-0.04, "nats")
    ('+25.0', '-0.040')
    """
    return f"{100 * value:+.1f}" if unit == "rate" else f"{value:+.3f}"


@cache
def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer="char_wb", ngram_range=(_GRAMS, _GRAMS), n_features=_BUCKETS, alternate_sign=False, norm="l2")


def similar(left: Sequence[str], right: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, cosine) for every left[i] and right[j] whose character 4-gram cosine is at least `threshold` (0..1].

    Exact, without sampling; 2,000 rows of `left` at a time bound the memory. Case and spacing do not count.
    """
    if not left or not right:
        return
    columns = _vectorizer().transform([_normal(text) for text in right]).T.tocsc()
    for start in range(0, len(left), _BLOCK):
        rows = _vectorizer().transform([_normal(text) for text in left[start : start + _BLOCK]])
        cosines = (rows @ columns).tocoo()
        for i, j, cosine in zip(cosines.row, cosines.col, cosines.data, strict=True):
            if cosine >= threshold:
                yield start + int(i), int(j), float(cosine)


def _normal(text: str) -> str:
    return re.sub(r"\s+", " ", text.casefold()).strip()


def clusters(texts: Sequence[str], threshold: float) -> list[int]:
    """Return for each text the index of the first text of its near-duplicate cluster (single linkage on `similar`).

    >>> clusters(["How do I pick a lock?", "a bread recipe", "how do i pick a lock"], 0.7)
    [0, 1, 0]
    """
    parent = list(range(len(texts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for i, j, _ in similar(texts, texts, threshold):
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    return [root(index) for index in range(len(texts))]


def storable(text: str) -> str:
    """Repair or replace the lone surrogates in a text, which no store accepts.

    >>> storable("half \\ud83d of a pair")
    'half \ufffd of a pair'
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
