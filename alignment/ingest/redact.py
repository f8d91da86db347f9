"""Personal data and secrets become stable placeholders, `<EMAIL_3f9a1c>`, before anything is stored.

The same value gives the same placeholder within one state folder (keyed by its secret), so that texts stay comparable; the
value itself cannot be computed back. Numbers that only look like cards or IBANs fail their checksum and stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

PREFILTER = (
    r"@|\p{Nd}(?:[ .\-()]{0,3}\p{Nd}){6,}|\p{Nd}{1,3}\.\p{Nd}{1,3}\.\p{Nd}{1,3}\.\p{Nd}{1,3}|[A-Za-z]{2}\p{Nd}{2}[ A-Za-z0-9]{11,}"
    r"|[A-Za-z0-9_\-]{20,}|PRIVATE KEY|sk-|xox[abprs]-|eyJ|[sp]k_(?:live|test)_|[0-9a-fA-F]{1,4}::?[0-9a-fA-F]{1,4}:"
)
"""RE2 pattern that every text with something to redact matches; SQL uses it to hand only those rows to Python."""

PERSONAL_ID = r"[@+]"
"""RE2 pattern of ids that are searched as texts are."""

Span = tuple[int, int]


def _luhn(number: str) -> bool:
    """Say whether a card number's check digit is right. Source: ISO/IEC 7812-1, annex B.

    >>> _luhn("4111 1111 1111 1111"), _luhn("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [sum(divmod(digit * 2, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


_RUN = re.compile(r"(?<![\w.])\d(?:[ \-]?\d){12,}+")
_GROUP = re.compile(r"\d+")
_CARD_LAYOUTS = ((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3))
_NETWORKS = "23456"
"""First digits of payment cards (ISO/IEC 7812): with them, times in milliseconds (1...) and ISBNs (9...) stay."""


def _cards(text: str) -> Iterator[Span]:
    """Find cards in runs of digits, also where a security code or another number stands right beside one."""
    for run in _RUN.finditer(text):
        groups = [match.span() for match in _GROUP.finditer(text, *run.span())]
        if re.match(r"\w", text[run.end() : run.end() + 1]):
            groups.pop()
        yield from _cards_in(text, groups)


def _cards_in(text: str, groups: list[Span]) -> Iterator[Span]:
    sizes = [end - start for start, end in groups]

    def holds(first: int, last: int) -> bool:
        if not 0 < last - first <= 19:
            return False
        number = text[groups[first][0] : groups[last - 1][1]]
        return str(int(number[0])) in _NETWORKS and _luhn(number)

    first, total = 0, len(groups)
    while first < total:
        if holds(first, total):
            yield groups[first][0], groups[-1][1]
            return
        hit = next(
            (
                (start, start + width)
                for start in range(first, total)
                for width in (1, *(len(layout) for layout in _CARD_LAYOUTS if tuple(sizes[start : start + len(layout)]) == layout))
                if holds(start, start + width)
            ),
            None,
        )
        if hit is None:
            return
        if holds(first, hit[0]):
            yield groups[first][0], groups[hit[0] - 1][1]
        yield groups[hit[0]][0], groups[hit[1] - 1][1]
        first = hit[1]


_IBAN_START, _IBAN_BODY = re.compile(r"\b[A-Za-z]{2}\d{2}"), re.compile(r"[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}+")
_IBAN_LENGTHS = dict(
    re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 "
        "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 "
        "LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 "
        "SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30",
    )
)
"""Characters of an IBAN by country, which say where it ends and the sentence goes on. Source: SWIFT IBAN registry."""


def _iban(number: str) -> bool:
    """Say whether an IBAN's length and check digits are right. Source: ISO 13616, ISO 7064 MOD 97-10.

    >>> _iban("GB82 WEST 1234 5698 7654 32"), _iban("GB83 WEST 1234 5698 7654 32")
    (True, False)
    """
    compact = re.sub(r"\s", "", number).upper()
    moved = compact[4:] + compact[:4]
    return len(compact) == int(_IBAN_LENGTHS.get(compact[:2], 0)) and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _ibans(text: str) -> Iterator[Span]:
    after = 0
    for match in _IBAN_START.finditer(text):
        body = _IBAN_BODY.match(text, match.start())
        if match.start() < after or not body:
            continue
        places = [place for place in range(*body.span()) if text[place] != " "]
        length = int(_IBAN_LENGTHS.get(match.group()[:2].upper(), 0))
        if not 0 < length <= len(places):
            continue
        end = places[length - 1] + 1
        if not re.match(r"\w", text[end : end + 1]) and _iban(text[match.start() : end]):
            after = end
            yield match.start(), end


def _ipv4(number: str) -> bool:
    return all(int(part) <= 255 for part in number.split("."))


def _phone(number: str) -> bool:
    return 7 <= sum(character.isdigit() for character in number) <= 15


def _matches(pattern: str, holds: Callable[[str], bool] = lambda _: True, flags: int = 0) -> Callable[[str], Iterator[Span]]:
    compiled = re.compile(pattern, flags)
    return lambda text: (match.span() for match in compiled.finditer(text) if holds(match.group()))


class _Rule(NamedTuple):
    kind: str
    find: Callable[[str], Iterator[Span]]


# Order matters: what a rule took, later rules do not see.
_RULES = (
    _Rule(
        "PRIVATE_KEY",
        # A key that was cut off has no end: what follows its head is masked as well.
        _matches(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[^\-]|-(?!----)){0,8000}+(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
        ),
    ),
    _Rule(
        "KEY",
        _matches(
            r"\b(?:sk-[A-Za-z0-9_\-]{8,}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9\-]{10,}|AKIA[0-9A-Z]{16}"
            r"|AIza[0-9A-Za-z_\-]{35}|hf_[A-Za-z0-9]{20,}|eyJ[A-Za-z0-9_\-]{10,2000}\.[A-Za-z0-9_\-]{10,4000}\.[A-Za-z0-9_\-]{10,}"
            r"|[sp]k_(?:live|test)_[A-Za-z0-9]{8,})[A-Za-z0-9_\-]*"
        ),
    ),
    _Rule("EMAIL", _matches(r"[\w.%+\-]{1,64}@\w(?:[\w.\-]{0,250}\w)?\.[^\W\d_]{2,24}")),
    _Rule("IBAN", _ibans),
    _Rule("CARD", _cards),
    _Rule("SSN", _matches(r"(?<![\w\-])\d{3}-\d{2}-\d{4}(?![\w\-])")),
    _Rule("IP", _matches(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]\d|\w)", _ipv4)),
    _Rule(
        "IP",
        _matches(
            r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,6}(?![\w:])",
            lambda found: found.count(":") >= 4 or "::" in found,
        ),
    ),
    _Rule(
        "PHONE",
        _matches(
            # Nor right behind a placeholder, or masking a masked text again would change it.
            r"(?<![\w.\-/])(?<!_[0-9a-f]{6}>)(?:\+\d{1,3}[ .\-]?(?:\(?\d{1,4}\)?[ .\-]?){2,5}\d{2,4}"
            r"|\(\d{3}\) ?\d{3}[ .\-]?\d{4}|\d{3}[ .\-]\d{3}[ .\-]\d{4}|555[ .\-]?01\d{2})(?![\w\-])",
            _phone,
        ),
    ),
)


def redact(text: str, key: bytes) -> tuple[str, Counter[str]]:
    """Return the text with placeholders, and how many of each kind.

    >>> redact("write to ann@example.com", b"k")[0].startswith("write to <EMAIL_")
    True
    """
    counts: Counter[str] = Counter()
    for kind, find in _RULES:
        parts, after = [], 0
        for start, end in find(text):
            parts += [text[after:start], _placeholder(kind, text[start:end], key)]
            after = end
            counts[kind] += 1
        text = "".join([*parts, text[after:]])
    return text, counts


def _placeholder(kind: str, value: str, key: bytes) -> str:
    plain = re.sub(r"[\s\-]", "", value).lower().encode("utf-8", "surrogatepass")
    return f"<{kind}_{hmac.new(key, plain, hashlib.sha256).hexdigest()[:6]}>"


def redaction_key(home: Path) -> bytes:
    """Return the secret of the state folder `home`, made on the first call and readable by its owner only.

    Effects: may write `<home>/redaction.key`.
    """
    path = home / "redaction.key"
    if not path.exists():
        # Linked into place whole, so that a second process cannot read it half-written and a kill cannot leave it empty.
        handle, scratch = tempfile.mkstemp(prefix=".redaction-", dir=home)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(os.urandom(32))
            with contextlib.suppress(FileExistsError):
                os.link(scratch, path)
        finally:
            Path(scratch).unlink()
    return path.read_bytes()
