"""Numbers with check digits: payment cards, IBANs and national ids. Numbers that only look like one fail their checksum."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import import_module
from typing import NamedTuple

Span = tuple[int, int]
LETTER = r"[^\W\u2e80-\uffdc]"
"""A word character in scripts that separate words: a number may directly follow a Chinese character."""
_BEFORE, _AFTER = 60, 40


def words(pattern: str) -> re.Pattern[str]:
    """Compile a pattern that matches whole words, in any case."""
    return re.compile(rf"(?<!{LETTER})(?:{pattern})(?!{LETTER})", re.IGNORECASE)


def beside(pattern: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Return whether a word matches within the 60 characters before a place or the 40 after it."""
    return bool(pattern.search(text[max(start - _BEFORE, 0) : start]) or pattern.search(text[end : end + _AFTER]))


def _luhn(number: str) -> bool:
    """Return whether a card number's check digit is right. Source: ISO/IEC 7812-1, annex B.

    >>> _luhn("4111 1111 1111 1111"), _luhn("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [sum(divmod(digit * 2, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


_RUN = re.compile(rf"\d(?<!{LETTER}\d)(?<!\.\d)(?:[ \-]?\d){{12,}}+")
_GROUP = re.compile(r"\d+")
_CARD_LAYOUTS = ((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3))
_FIRST_GROUP = 4  # every layout begins with four digits, and a card in one group is longer
_NETWORKS = "23456"
"""First digits of payment cards (ISO/IEC 7812); without 1 and 9, times in milliseconds and ISBNs stay."""


_ISSUED = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}|6(?:011|4[4-9]\d|5\d\d)\d{12}"
    r"|35(?:2[89]|[3-8]\d)\d{12}|62\d{14}"
)
_SPREAD = re.compile(rf"\d(?<!{LETTER}\d)(?<![.\-/]\d)(?:[ .\-/\n\t]{{1,3}}\d|\d){{13,18}}+(?![ .\-/]?\d|{LETTER})")


def cards(text: str) -> Iterator[Span]:
    """Find cards in any spacing; with unusual spacing, only cards of the large networks in their own length."""
    after = 0
    for start, end in sorted([*_cards_in_groups(text), *_cards_spread(text)]):
        if start >= after:
            after = end
            yield start, end


def _cards_spread(text: str) -> Iterator[Span]:
    for match in _SPREAD.finditer(text):
        number = "".join(character for character in match.group() if character.isdigit())
        if _ISSUED.fullmatch(number) and _luhn(number):
            yield match.span()


def _cards_in_groups(text: str) -> Iterator[Span]:
    """Find cards in runs of digits, even with a security code or another number directly beside them."""
    for run in _RUN.finditer(text):
        groups = [match.span() for match in _GROUP.finditer(text, *run.span())]
        if re.match(LETTER, text[run.end() : run.end() + 1]):
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
                if sizes[start] >= _FIRST_GROUP
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


_IBAN_CHECK, _IBAN_BODY = (
    re.compile(rf"\d(?<=[A-Za-z]{{2}}\d)(?<!{LETTER}..\d)\d"),
    re.compile(r"[A-Za-z]{2}\d{2}(?:[ \-.\n\t]{0,2}[A-Za-z0-9]){11,30}+"),
)
_IBAN_LENGTHS = dict(
    re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 "
        "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 "
        "LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 "
        "SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30",
    )
)
"""Characters of an IBAN by country: they show where it ends and the sentence goes on. Source: SWIFT IBAN registry."""


def _iban(number: str) -> bool:
    """Return whether an IBAN's length and check digits are right. Source: ISO 13616, ISO 7064 MOD 97-10.

    >>> _iban("GB82 WEST 1234 5698 7654 32"), _iban("GB83 WEST 1234 5698 7654 32")
    (True, False)
    """
    compact = re.sub(r"[\s.\-]", "", number).upper()
    moved = compact[4:] + compact[:4]
    return len(compact) == int(_IBAN_LENGTHS.get(compact[:2], 0)) and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def ibans(text: str) -> Iterator[Span]:
    after = 0
    for match in _IBAN_CHECK.finditer(text):
        start = match.start() - 2
        body = _IBAN_BODY.match(text, start)
        if start < after or not body:
            continue
        places = [place for place in range(*body.span()) if text[place].isalnum()]
        length = int(_IBAN_LENGTHS.get(text[start : start + 2].upper(), 0))
        if not 0 < length <= len(places):
            continue
        end = places[length - 1] + 1
        if not re.match(LETTER, text[end : end + 1]) and _iban(text[start:end]):
            after = end
            yield start, end


class _Scheme(NamedTuple):
    """How to find a national id: `check` is python-stdnum's module; a match of `sure` needs no word beside it."""

    check: str
    sure: str = ""
    bare: str = ""
    words: str = ""
    kind: str = "NATIONAL_ID"


_G3 = r"\d{3}[ .\-]?\d{3}[ .\-]?\d{3}"
_SCHEMES = (
    _Scheme("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d\d", rf"{_G3}[ ./\-]?\d\d", r"cpf|contribuinte"),
    _Scheme("br.cnpj", r"\d\d\.\d{3}\.\d{3}/\d{4}-\d\d", r"\d{2}[ .]?\d{3}[ .]?\d{3}[ /]?\d{4}[ \-]?\d\d", "cnpj"),
    _Scheme("fr.nir", r"[12][ .]?\d\d[ .]?(?:0[1-9]|1[0-2])[ .]?(?:\d\d|2[ABab])[ .]?\d{3}[ .]?\d{3}[ .\-/]{0,3}\d\d"),
    _Scheme(
        "nl.bsn",
        "",
        r"\d{4}[ .\-]?\d\d[ .\-]?\d{2,3}|\d{3}[ .\-]\d{3}[ .\-]\d{3}",
        r"bsn|bsn-?nummer|burgerservicenummer|burgerservice|sofi\w*|citizen service",
    ),
    _Scheme("cn.ric", r"[1-6]\d{5}[ \-]?(?:19|20)\d{2}[ \-]?(?:0[1-9]|1[0-2])[ \-]?[0-3]\d[ \-]?\d{3}[ \-]?[\dXx]"),
    _Scheme("es.nif", r"\d{8}[ \-]?[A-Z]", r"\d{2}[ .]\d{3}[ .]\d{3}[ \-]?[A-Za-z]|\d{8}[ \-]?[A-Za-z]", r"dni|nif|documento"),
    _Scheme("es.nie", r"[XYZ][ \-]?\d{7}[ \-]?[A-Z]"),
    _Scheme(
        "it.codicefiscale", r"[A-Z]{3}[ ]?[A-Z]{3}[ ]?\d\d[A-EHLMPRST]\d\d[ ]?[A-Z]\d{3}[A-Z]|[a-z]{6}\d\d[a-ehlmprst]\d\d[a-z]\d{3}[a-z]"
    ),
    _Scheme("in_.pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", kind="TAX_ID"),
    _Scheme("in_.aadhaar", "", r"\d{4}[ .\-]?\d{4}[ .\-]?\d{4}", r"aadhaa?r|uidai|uid"),
    _Scheme("ca.sin", "", _G3, r"sin|social insurance"),
    _Scheme("gb.nhs", "", r"\d{3}[ \-]?\d{3}[ \-]?\d{4}", "nhs", "HEALTH_ID"),
    _Scheme("pl.pesel", "", r"\d{6}[ \-]?\d{5}", "pesel"),
    _Scheme("se.personnummer", "", r"(?:19|20)?\d{6}[ \-+]?\d{4}", r"personnummer|personal (?:identity )?number|pnr"),
    _Scheme("fi.hetu", r"[0-3]\d[01]\d{3}[+\-A-F]\d{3}[0-9A-FHJ-NPR-Y]"),
    _Scheme("dk.cpr", "", r"\d{6}[ \-]?\d{4}", r"cpr\S*"),
    _Scheme("no.fodselsnummer", "", r"\d{6}[ ]?\d{5}", r"f[øo]dselsnummer|personnummer"),
    _Scheme(
        "be.nn",
        r"\d\d\.[01]\d\.[0-3]\d-\d{3}\.\d\d",
        r"\d{6}[ \-]?\d{3}[ .\-]?\d\d",
        r"rijksregister\w*|registre national|national number|nn",
    ),
    _Scheme("ch.ssn", r"756[. ]\d{4}[. ]\d{4}[. ]\d\d", r"756\d{10}", r"ahv\S*|avs|social"),
    _Scheme("mx.curp", r"[A-Z][AEIOUX][A-Z]{2}\d{6}[HM][A-Z]{5}[0-9A-Z]\d"),
    _Scheme("tr.tckimlik", "", r"\d{11}", r"kimlik|tckn|tc"),
    _Scheme("kr.rrn", "", r"\d{6}[ \-]?\d{7}", r"rrn|resident registration|주민등록번호|주민번호"),
    _Scheme("za.idnr", "", r"\d{6}[ ]?\d{4}[ ]?\d{3}", r"id (?:number|no)|identity"),
    _Scheme("de.idnr", "", r"\d{2}[ ]?\d{3}[ ]?\d{3}[ ]?\d{3}", r"steuer\S*|idnr|tax\S*|identifikationsnummer", "TAX_ID"),
    _Scheme(
        "", r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]"
    ),  # National Insurance, without a check digit
    _Scheme("us.ssn", "", r"\d{3}[ .\-]?\d\d[ .\-]?\d{4}", r"ssn|social security\w*|social", "SSN"),
    _Scheme("au.tfn", "", _G3, r"tfn|tax file", "TAX_ID"),
)
"""Schemes read besides the fast kinds. Numbers without letters, whose check a tenth of all numbers pass, count only beside their word."""


_NOT_WITHIN = rf"(?<!{LETTER})(?<![.\-/])"


def _alone(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"{_NOT_WITHIN}(?:{pattern})(?!{LETTER}|-)")


_WORDED = words("|".join(scheme.words for scheme in _SCHEMES if scheme.words))
_SURE = [(scheme, _alone(scheme.sure)) for scheme in _SCHEMES if scheme.sure]
_ANY_SURE = re.compile(rf"{_NOT_WITHIN}(?:{'|'.join(scheme.sure for scheme in _SCHEMES if scheme.sure)})")
"""Matches wherever one of `_SURE` does: one search instead of one per scheme."""
_BARE = [(scheme, _alone(scheme.bare), words(scheme.words)) for scheme in _SCHEMES if scheme.words]
_NUMBERED = re.compile(r"\d(?:(?:[ .\-()/\n\t]{0,3}\d){6}|\d{3}[A-Z]|\d[A-Za-z]\d\d|\d ?\d\d ?\d\d ?[A-D]|[ .]?[ABab][ .]?\d{3})")


def numbered(text: str) -> bool:
    """Return whether the text holds a number that any of these rules could match."""
    return _NUMBERED.search(text) is not None


PREFILTER = (
    r"[A-Za-z]{2}\p{Nd}{2}(?:(?:[ \-.\s]|\\+[nrt])*[A-Za-z0-9]){11}"  # IBAN
    r"|\p{Nd}{7}[ \-]?[A-Za-z]|\p{Nd}\p{Nd}[A-Za-z]\p{Nd}\p{Nd} ?[A-Za-z]\p{Nd}{3}|[A-Z]{5}\p{Nd}{4}[A-Z]"
    r"|[A-Z]{2} ?\p{Nd}\p{Nd} ?\p{Nd}\p{Nd} ?\p{Nd}\p{Nd} ?[A-D]|\p{Nd}{6}[+\-A-Fa-f]\p{Nd}{3}"
    r"|[A-Z]{4}\p{Nd}{6}"
    r"|\p{Nd}[ .]?[aAbB][ .]?\p{Nd}{3}[ .]?\p{Nd}{3}|\p{Nd}{4}\.\p{Nd}\p{Nd}\.\p{Nd}\p{Nd}|\p{Nd}{8}"
)
"""RE2 pattern of the numbers that a search for nine digits in a row would miss."""

_SOCIAL_SECURITY = re.compile(rf"\d(?<!{LETTER}\d)(?<!-\d)\d\d-\d{{2}}-\d{{4}}(?!{LETTER}|-)")


def social_security(text: str) -> Iterator[Span]:
    """Find United States social security numbers in their own spelling."""
    return (match.span() for match in _SOCIAL_SECURITY.finditer(text))


@cache
def _check(module: str) -> Callable[[str], bool]:
    scheme = import_module(f"stdnum.{module}")
    if module == "cn.ric":
        # The library requires a district that existed at birth; the card names where the person is registered.
        return lambda number: bool(scheme.calc_check_digit(number) == number[-1])
    valid: Callable[[str], bool] = scheme.is_valid
    return valid


def national_ids(text: str) -> Iterator[tuple[int, int, str]]:
    """Find national ids, with their kind."""
    if not numbered(text):
        return
    found = []
    for scheme, pattern in _SURE if _ANY_SURE.search(text) else ():
        found += [(*match.span(), scheme.kind) for match in pattern.finditer(text) if _valid(scheme, match.group())]
    if _WORDED.search(text):
        for scheme, pattern, said in _BARE:
            found += [
                (*match.span(), scheme.kind)
                for match in (pattern.finditer(text) if said.search(text) else ())
                if beside(said, text, *match.span()) and _valid(scheme, match.group())
            ]
    after = 0
    for start, end, kind in sorted(found, key=lambda one: (one[0], -one[1])):
        if start >= after:
            after = end
            yield start, end, kind


@lru_cache(4096)
def _valid(scheme: _Scheme, number: str) -> bool:
    return not scheme.check or _check(scheme.check)(re.sub(r"[ ./]" if scheme.check != "cn.ric" else r"\W", "", number).upper())
