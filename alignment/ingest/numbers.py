"""Numbers with check digits: payment cards and IBANs. Those that only look like one fail their checksum."""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]


def _luhn(number: str) -> bool:
    """Say whether a card number's check digit is right. Source: ISO/IEC 7812-1, annex B.

    >>> _luhn("4111 1111 1111 1111"), _luhn("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [sum(divmod(digit * 2, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


_RUN = re.compile(r"\d(?<![\w.]\d)(?:[ \-]?\d){12,}+")
_GROUP = re.compile(r"\d+")
_CARD_LAYOUTS = ((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3))
_NETWORKS = "23456"
"""First digits of payment cards (ISO/IEC 7812): with them, times in milliseconds (1...) and ISBNs (9...) stay."""


def cards(text: str) -> Iterator[Span]:
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


_IBAN_CHECK, _IBAN_BODY = re.compile(r"\d(?<=\b[A-Za-z]{2}\d)\d"), re.compile(r"[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}+")
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


def ibans(text: str) -> Iterator[Span]:
    after = 0
    for match in _IBAN_CHECK.finditer(text):
        start = match.start() - 2
        body = _IBAN_BODY.match(text, start)
        if start < after or not body:
            continue
        places = [place for place in range(*body.span()) if text[place] != " "]
        length = int(_IBAN_LENGTHS.get(text[start : start + 2].upper(), 0))
        if not 0 < length <= len(places):
            continue
        end = places[length - 1] + 1
        if not re.match(r"\w", text[end : end + 1]) and _iban(text[start:end]):
            after = end
            yield start, end
