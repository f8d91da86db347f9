"""Contact data: e-mail addresses, telephone numbers and machine addresses, without those that identify nobody."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache

from alignment.ingest.checksums import LETTER, Span, beside, numbered, words

_APART = r"(?:[ .\-()/\x{A0}\s]|\\+[nrt])*"
PREFILTER = (
    r"[^\s@]@[^\s@]+\s?\.[^\s]|(?:\s@|@\s|@\\+[nrt]|\\+[nrt]@)\s?[\pL\pN\-]+[\s\[({<]*(?:\.|dot|punk)"
    r"|[\[({<] ?@"  # e-mail
    r"|(?i:[\[({<]\s?(?:at|arroba|dot|punkt|punto)\s?[\])}>]|\s(?:dot|punkt|punto)\s|(?:mail|write"
    r"|reach|contact|correo|courriel)[^\n@]* at )"
    rf"|\+\p{{Nd}}(?:[ .\-()]*\p{{Nd}}){{6}}|\p{{Nd}}(?:{_APART}\p{{Nd}}){{8}}"
    rf"|555[ .\-]?01\p{{Nd}}{{2}}"  # phone
    r"|\p{Nd}\.\p{Nd}{1,3}\.\p{Nd}{1,3}\.\p{Nd}"  # IPv4
    r"|[0-9A-Fa-f]:[0-9A-Fa-f]{1,4}:(?::|[0-9A-Fa-f]+:(?::|[0-9A-Fa-f]+:))|[0-9A-Fa-f]{3}::[0-9A-Fa-f]"  # IPv6, not a time
    r"|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}"  # MAC; with colons it looks like IPv6
)
"""RE2 pattern that matches every text with something for these rules.

Here and in the neighbouring modules an unbounded part is a star, even where the rule counts: nested counters multiply RE2's states, and
with too many states it searches twenty times slower.
"""

_LOCAL = re.compile(r"[\w.%+\-]++\Z")
_DOMAIN = re.compile(r"@\w(?:[\w.\-]{0,250}\w)?\.[^\W\d_]{2,24}")
_NOBODY = re.compile(
    r"(?:git|hg|svn|no-?reply|do-?not-?reply|mailer-daemon)@.*"
    r"|(?:user|username|you|your|your[._\-]?(?:e?mail|name)|e?mail|me|name|first[._]?last|someone"
    r"|somebody|foo|bar|test|example|admin|info|contact|"
    r"support|hello|j(?:ohn|ane)?[._]?doe|recipient|sender|from|to)@(?:[\w\-]+\.)*(?:example\.(?:com"
    r"|org|net)|domain\.(?:com|tld)|(?:[\w\-]+\.)?(?:example|test|invalid|localhost))"
    r"|.*@(?:\d+\.\d+(?:\.[\w.\-]*)?|[23]x\.(?:png|jpe?g|gif|webp|svg))",
    re.IGNORECASE,
)
"""Addresses without a person: machine accounts, names from documentation, versions (`name@1.2.3-rc`), files (`@2x.png`)."""


def emails(text: str) -> Iterator[Span]:
    """Find addresses by their @, which is rarer than the letters that may begin an address."""
    after, sign = 0, text.find("@")
    while sign >= 0:
        domain = _DOMAIN.match(text, sign)
        local = _LOCAL.search(text, max(after, sign - 64), sign) if domain else None
        if domain and local:
            after = domain.end()
            if not _NOBODY.fullmatch(text, local.start(), after):
                yield local.start(), after
        sign = text.find("@", max(after, sign + 1))


_AT = r"(?:\s{0,2}[\[({<]\s?(?:at|arroba|@)\s?[\])}>]\s{0,2}|\s{1,2}at\s{1,2}|\s{0,2}@\s{0,2})"
_DOT = (
    r"(?:\s{0,2}[\[({<]\s?(?:dot|punkt|punto|\.)\s?[\])}>]\s{0,2}|\s{1,2}(?:dot|punkt|punto)\s{1,2}"
    r"|\s?\.\s?)"
)
_ENDING = (
    r"com|org|net|edu|gov|io|co|de|fr|uk|nl|br|cn|in|it|es|eu|us|ca|au|ch|at|be|se|no|dk|fi|pl|pt|ru|jp|kr"
    r"|mx|info|biz|app|dev|ai|me|example"
)
_SPELLED = re.compile(
    rf"(?P<at>{_AT})\w[\w\-]{{0,62}}(?:{_DOT}\w[\w\-]{{0,62}}){{0,3}}?(?P<dot>{_DOT})(?:{_ENDING})(?:{_DOT}(?:uk"
    rf"|br|au|in|jp|cn|mx))?(?![\w@])",
    re.IGNORECASE,
)
_SIGN = re.compile(
    r"[\[({<]\s?(?:at|arroba|@)\s?[\])}>]|\sat\s|@\s|\s@|@[\w.\-]{1,253}\s?[\[({<\s]\s?(?:dot|punkt|punto|\.)", re.IGNORECASE
)
_MADE_PLAIN = ("(at", "[at", "{at", "<at", "( at", "[ at", " dot ", " punkt ", " punto ", "arroba")
_PROSE = re.compile(
    r"(?:is|was|are|be|look(?:s|ed|ing)?|found|find|available|here|there|us|me|him|her|them|it|this"
    r"|that|site|page|website|live|lives|hosted|located|visit|"
    r"works?|working|worked|stay|buy|sold|online|more|out|up|check|shop|order|start|starting|point"
    r"|meet|one|number|value|and|or|not|only|now|today)\Z",
    re.IGNORECASE,
)
_MAIL = words(r"e-?mail\w*|mail\w*|write|reach|contact|correo|courriel")


def spelled_emails(text: str) -> Iterator[Span]:
    """Find addresses spelled for people, `ann [at] example dot com` or `ann @ example . com`, or split by a line break."""
    after, low = 0, text.lower()
    if not ("@" in text or any(word in low for word in _MADE_PLAIN) or (" at " in low and _MAIL.search(text))):
        return
    for sign in _SIGN.finditer(text):
        end = sign.start()
        while end > max(after, sign.start() - 2) and text[end - 1].isspace():
            end -= 1
        local = _LOCAL.search(text, max(after, end - 64), end)
        match = _SPELLED.match(text, end) if local else None
        if local and match and _meant(text, match, local.group()):
            after = match.end()
            yield local.start(), after


def _meant(text: str, match: re.Match[str], local: str) -> bool:
    sign, dotted = match["at"].strip().lower(), match["dot"]
    if sign[0] in "[({<":
        return True
    if _PROSE.match(local):
        return False
    if sign == "@":
        return match["at"] != "@" or dotted != "."
    return bool(_DOT_WORD.search(match.group())) or beside(_MAIL, text, *match.span())


_DOT_WORD = re.compile(r"\s(?:dot|punkt|punto)\s", re.IGNORECASE)


def plain_email(value: str) -> str:
    """Return a spelled address in its mailable form.

    >>> plain_email("ann [at] example dot co.uk")
    'ann@example.co.uk'
    """
    return re.sub(_DOT, ".", re.sub(_AT, "@", value, count=1, flags=re.IGNORECASE), flags=re.IGNORECASE)


# The beginning of an address matches everywhere; the part between its first dots or colons is rare, and faster to find.
_DOTS, _COLONS = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d"), re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?![\w.]\d|\w)")
_IPV6 = re.compile(
    # Only the end of an address can follow: with the length known and groups as long as they can be, there is one way to match.
    r"[0-9A-Fa-f](?<![\w:].)(?=[0-9A-Fa-f:]{1,64}+(?!\w))(?:[0-9A-Fa-f]{0,3}:(?:[0-9A-Fa-f]{1,4}:){1,6}(?::?[0-9A-Fa-f]{1,4}+){1,6}+"
    r"|[0-9A-Fa-f]{2,3}::[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,5})(?![\w:])"
)
_DIGIT = re.compile(r"\d")
_EVERYBODY = frozenset(("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "208.67.222.222", "208.67.220.220"))
"""Public name servers, which every tutorial mentions."""
_VERSION = re.compile(
    r"(?:\bv(?:ersion|er)?\.? ?|\b(?:release|build|firmware|driver|patch|upgraded?|updated?"
    r"|downgraded?|section|chapter|clause|rule|chrome|chromium|edge|firefox|"
    r"windows|ios|android)(?: to| from| version)? |[A-Za-z][\w.]*[\-/_ ]?(?:[=~<>!^]=?=?|@) ?"
    r"|[A-Za-z][\w.]*[/\-_])\Z",
    re.IGNORECASE,
)


def ipv4_of_somebody(text: str) -> Iterator[Span]:
    """Find IPv4 addresses that identify somebody: not private, loopback, reserved or for documentation, and not version numbers."""
    for start, end in ipv4(text):
        number = text[start:end]
        if number not in _EVERYBODY and _global(number) and not _VERSION.search(text, max(start - 24, 0), start):
            yield start, end


def ipv4(text: str) -> Iterator[Span]:
    """Find IPv4 addresses."""
    for match in _IPV4.finditer(text) if _DOTS.search(text) else ():
        if all(int(part) <= 255 for part in match.group().split(".")):
            yield match.span()


@lru_cache(4096)
def _global(number: str) -> bool:
    plain = ".".join(str(int(part)) for part in number.split(".")) if "." in number and ":" not in number else number
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        return True
    return (address.is_global or (address.version == 6 and address.is_link_local)) and not address.is_multicast


def ipv6(text: str) -> Iterator[Span]:
    """Find IPv6 addresses."""
    for match in _IPV6.finditer(text) if _COLONS.search(text) else ():
        # Without a digit it may be a name in source code.
        number = match.group()
        if (number.count(":") >= 4 or ("::" in number and _DIGIT.search(number))) and not _MAC.fullmatch(number):
            yield match.span()


def ipv6_of_somebody(text: str) -> Iterator[Span]:
    """Find IPv6 addresses that identify somebody, including link-local ones: they hold the number of a network card."""
    return ((start, end) for start, end in ipv6(text) if _global(text[start:end]))


_MAC = re.compile(r"[0-9A-Fa-f]{2}(?<![\w:\-]..)(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5})(?![\w:\-])")
_NO_CARD = re.compile(
    r"(?:ff[:\-]){5}ff|(?:00[:\-]){5}00|00.00.5e.00.(?:52|53).*|01.00.5e.*|33.33.*|(?:00.11.22|aa.bb.cc|12.34.56|de.ad.be).*", re.IGNORECASE
)


def macs(text: str) -> Iterator[Span]:
    """Find MAC addresses, without broadcast, multicast and the documentation ranges (RFC 7042)."""
    enough = text.count(":") >= 5 or text.count("-") >= 5
    return (match.span() for match in (_MAC.finditer(text) if enough else ()) if not _NO_CARD.fullmatch(match.group()))


_ALONE, _ENDED = rf"(?<!{LETTER}.)(?<![.\-/].)", rf"(?!{LETTER}|-)"
_PHONE = re.compile(
    rf"[+(\d]{_ALONE}(?:"
    r"(?<=\+)\d{1,3}[ .\-]?(?:\(?\d{1,4}\)?[ .\-]?){2,5}\d{2,4}"
    r"|(?<=\()\d{3}\) ?\d{3}[ .\-]?\d{4}|(?<=\d)\d{2}[ .\-]\d{3}[ .\-]\d{4}|(?<=5)55[ .\-]?01\d{2})" + _ENDED
)
_GROUPED = re.compile(
    rf"[(0-9]{_ALONE}(?<!\+.)(?:"
    r"(?<=0)[1-9](?:([ .\-])\d\d)(?:\1\d\d){3}"  # France
    r"|(?<=0)7\d{3}[ \-]\d{3}[ \-]?\d{3}|(?<=0)1\d{3} \d{6}|(?<=0)20[ \-]\d{4}[ \-]\d{4}"  # United Kingdom
    r"|(?<=0)1[5-7]\d[ /\-]\d{3}[ ]?\d{4,5}"  # Germany
    r"|(?<=\()?[1-9]\d\) ?9?\d{4}[ \-]\d{4}|(?<=[1-9])[1-9] 9\d{4}[ \-]\d{4}"  # Brazil
    r"|(?<=1)[3-9]\d([ \-])\d{4}\2\d{4}"  # China
    r")" + _ENDED
)
_SPACED = re.compile(rf"[+(\d](?<!{LETTER}.)(?<![.+/].)(?:[ .\-()/\n\t]{{0,3}}\d){{7,15}}+(?!{LETTER})")
_CHINESE = re.compile(rf"1(?<!{LETTER}1)(?<!\.1)[3-9]\d{{9}}(?!{LETTER})")
_SCRIPT = re.compile(r"[\u4e00-\u9fff]")
_CALLS = words(
    r"phones?|telephone|tele?fon\w*|tel|call(?:ed|ing)?|mobile|mobil|handy\w*|cell(?:phone|ular)?"
    r"|whatsapp|signal|fax|sms|text me|dial|ring|reach me"
    r"|t[ée]l|t[ée]l[ée]phone|portable|telefone|celular|m[óo]vil|zap|telefoon|wechat"
)
_CALLS_CHINESE = re.compile("电话|手机|號碼|号码|电\\s?话|微信|致电|联系")


_HELP_LINES = frozenset(
    "8002221222 8002738255 8006624357 8007997233 8006564673 8004224453 8008435678 8007862929 8664887386 08001111 116123".split()  # noqa: SIM905
)
"""Poison control, lifelines and similar services in the United States and the United Kingdom, by their published numbers."""


def is_help_line(number: str) -> bool:
    """Return whether a number is a public help line: it identifies nobody, and an answer without it is worse.

    >>> is_help_line("1-800-222-1222"), is_help_line("0800 1111"), is_help_line("212-555-1222")
    (True, True, False)
    """
    digits = "".join(character for character in number if character.isdigit())
    return digits in _HELP_LINES or digits.removeprefix("00").removeprefix("1") in _HELP_LINES


def phones(text: str) -> Iterator[Span]:
    """Find telephone numbers by their spelling, without help lines.

    Bare numbers count beside a word for calls, and Chinese numbers beside Chinese text.
    """
    after = 0
    for start, end in sorted([*_grouped(text), *_worded(text)]) if numbered(text) else ():
        if start >= after:
            after = end
            if not is_help_line(text[start:end]):
                yield start, end


def _grouped(text: str) -> Iterator[Span]:
    for pattern in (_PHONE, _GROUPED):
        for match in pattern.finditer(text):
            if 7 <= sum(character.isdigit() for character in match.group()) <= 15:
                yield match.span()


def _worded(text: str) -> Iterator[Span]:
    for match in _CHINESE.finditer(text):
        if _SCRIPT.search(text[max(match.start() - 30, 0) : match.end() + 30]):
            yield match.span()
    if not ("+" in text or _CALLS.search(text) or _CALLS_CHINESE.search(text)):
        return
    for match in _SPACED.finditer(text):
        if 9 <= sum(character.isdigit() for character in match.group()) <= 15 and not _DATE.match(match.group()):
            before = text[max(match.start() - 30, 0) : match.start()]
            if match.group()[0] == "+" or _CALLS.search(before) or _CALLS_CHINESE.search(before):
                yield match.span()


_DATE = re.compile(r"\d{4}([\-./])\d{1,2}\1\d{1,2}(?!\d)|\d{1,2}([\-./])\d{1,2}\2\d{4}(?!\d)")
