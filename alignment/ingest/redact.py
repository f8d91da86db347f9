"""Personal data and secrets become stable placeholders, `<EMAIL_3f9a1c>`, before anything is stored.

The same value gives the same placeholder within one state folder (keyed by its secret), so that texts stay comparable; the
value itself cannot be computed back. Numbers that only look like cards or IBANs fail their checksum and stay.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import string
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from alignment.errors import ConfigError
from alignment.ingest.numbers import Span, cards, ibans
from alignment.store import query, store_path

# What keys begin with, as issuers publish it: the first letter, what must follow in RE2 and in Python, and what only Python goes on to ask.
_WORD = r"[A-Za-z0-9_\-]"
_KEYS = (
    ("s", rf"k-{_WORD}{{8}}", ""),
    ("spr", r"k_(?:live|test)_[A-Za-z0-9]{8}", ""),  # Stripe
    ("w", r"hsec_[A-Za-z0-9+/]{20}", "[A-Za-z0-9+/=]*"),
    ("g", r"h[pousr]_[A-Za-z0-9]{20}", ""),
    ("g", r"ithub_pat_[A-Za-z0-9_]{20}", ""),
    ("g", rf"lpat-{_WORD}{{16}}", ""),  # GitLab
    ("g", r"sk_[A-Za-z0-9]{20}", ""),  # Groq
    ("n", r"pm_[A-Za-z0-9]{30}", ""),
    ("x", r"ox[abeprs]-[A-Za-z0-9\-]{10}", ""),  # Slack
    ("h", r"ooks\.slack\.com/services/[A-Za-z0-9/]{20}", "[A-Za-z0-9/]*"),
    ("A", r"[KS]IA[0-9A-Z]{16}", ""),
    ("Aa", r"(?:WS_SECRET_ACCESS_KEY|ws_secret_access_key)", r"[\"']?\s{0,3}[=:]\s{0,3}[\"']?[A-Za-z0-9/+]{40}"),
    ("A", rf"Iza{_WORD}{{35}}", ""),  # Google
    ("y", rf"a29\.{_WORD}{{20}}", ""),
    ("S", rf"G\.{_WORD}{{16}}", rf"{_WORD}{{0,32}}\.{_WORD}{{20}}"),  # SendGrid
    ("h", r"f_[A-Za-z0-9]{20}", ""),
    ("e", rf"yJ{_WORD}{{10}}", rf"{_WORD}{{0,1990}}\.{_WORD}{{10,4000}}\.{_WORD}{{10}}"),  # JWT
    ("Bb", r"earer [A-Za-z0-9._~+/\-]{20}", r"[A-Za-z0-9._~+/\-]*=*"),
)

PREFILTER = (
    r"[^\s@]@[^\s@]+\.[^\s]"  # e-mail
    r"|\+\p{Nd}(?:[ .\-()]{0,3}\p{Nd}){6}|\(\p{Nd}{3}\) ?\p{Nd}{3}[ .\-]?\p{Nd}{4}"  # phone
    r"|\p{Nd}{3}[ .\-]\p{Nd}{3}[ .\-]\p{Nd}{4}|555[ .\-]?01\p{Nd}{2}"
    r"|\p{Nd}(?:[ \-]?\p{Nd}){12}|\p{Nd}{3}-\p{Nd}{2}-\p{Nd}{4}"  # card, SSN
    r"|[A-Za-z]{2}\p{Nd}{2}(?: ?[A-Za-z0-9]){11}"  # IBAN
    r"|\p{Nd}\.\p{Nd}{1,3}\.\p{Nd}{1,3}\.\p{Nd}"  # IPv4
    r"|[0-9A-Fa-f]:[0-9A-Fa-f]{1,4}:(?::|[0-9A-Fa-f]+:(?::|[0-9A-Fa-f]+:))|[0-9A-Fa-f]{3}::[0-9A-Fa-f]"  # IPv6, not a time
    r"|PRIVATE KEY-----|" + "|".join(f"[{first}]{rest}" for first, rest, _ in _KEYS)
)
"""RE2 pattern that every text with something to redact matches; SQL uses it to hand only those rows to Python.

Each alternative is what its rule needs at least, without checksums and neighbours. A letter or digit of any script is none of RE2's
ASCII spaces. It also finds what it should in JSON, where a line's end is a backslash and an n: no alternative looks at what is beside it,
and no match but a private key's, found by its head, holds a character that JSON escapes.
"""

_LOCAL = re.compile(r"[\w.%+\-]++\Z")
_DOMAIN = re.compile(r"@\w(?:[\w.\-]{0,250}\w)?\.[^\W\d_]{2,24}")


def _emails(text: str) -> Iterator[Span]:
    """Find addresses from their @ on, which is rarer than the letters that may begin one."""
    after, sign = 0, text.find("@")
    while sign >= 0:
        domain = _DOMAIN.match(text, sign)
        local = _LOCAL.search(text, max(after, sign - 64), sign) if domain else None
        if domain and local:
            after = domain.end()
            yield local.start(), after
        sign = text.find("@", max(after, sign + 1))


# What may begin an address is everywhere; what stands between its first dots or colons is not, and is found sooner.
_DOTS, _COLONS = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d"), re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?![\w.]\d|\w)")
_IPV6 = re.compile(
    r"[0-9A-Fa-f](?<![\w:].)(?:[0-9A-Fa-f]{0,3}:(?:[0-9A-Fa-f]{1,4}:){1,6}(?::?[0-9A-Fa-f]{1,4}){1,6}"
    r"|[0-9A-Fa-f]{2,3}::[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,5})(?![\w:])"
)
_DIGIT = re.compile(r"\d")


def _ipv4(text: str) -> Iterator[Span]:
    for match in _IPV4.finditer(text) if _DOTS.search(text) else ():
        if all(int(part) <= 255 for part in match.group().split(".")):
            yield match.span()


def _ipv6(text: str) -> Iterator[Span]:
    for match in _IPV6.finditer(text) if _COLONS.search(text) else ():
        # Without a digit it may be a name in a program.
        if match.group().count(":") >= 4 or ("::" in match.group() and _DIGIT.search(match.group())):
            yield match.span()


def _phone(number: str) -> bool:
    return 7 <= sum(character.isdigit() for character in number) <= 15


def _matches(pattern: str, holds: Callable[[str], bool] = lambda _: True) -> Callable[[str], Iterator[Span]]:
    compiled = re.compile(pattern)
    return lambda text: (match.span() for match in compiled.finditer(text) if holds(match.group()))


_KEY_SIGNS = ("_", "sk-", "xox", "AKIA", "ASIA", "AIza", "eyJ", "glpat-", "ya29.", "SG.", "slack.com/", "earer ")
_KEY = re.compile(
    f"[{''.join(sorted({letter for first, _, _ in _KEYS for letter in first}))}](?<!\\w.)(?:"
    + "|".join(f"(?<=[{first}]){rest}{more}" for first, rest, more in _KEYS)
    + f"){_WORD}*"
)


def _keys(text: str) -> Iterator[Span]:
    if any(sign in text for sign in _KEY_SIGNS):
        for match in _KEY.finditer(text):
            # "bearer" is a word as well.
            if match.group()[0] not in "Bb" or _DIGIT.search(match.group()):
                yield match.span()


class _Rule(NamedTuple):
    """What finds one kind. A text without `sign`, or whose outline lacks `shape`, holds nothing for it: most texts stop there."""

    kind: str
    find: Callable[[str], Iterator[Span]]
    sign: str = ""
    shape: bytes = b""


# Order matters: what a rule took, later rules do not see. A pattern begins with the characters that it may begin with and looks behind
# them only then: Python's engine skips to those, but would try a pattern that begins with a look behind at every place.
_RULES = (
    _Rule(
        "PRIVATE_KEY",
        # A key that was cut off has no end: what follows its head is masked as well.
        _matches(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[^\-]|-(?!----)){0,8000}+(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
        ),
        sign="PRIVATE KEY-----",
    ),
    _Rule("KEY", _keys),
    _Rule("EMAIL", _emails, sign="@"),
    _Rule("IBAN", ibans, shape=b"aa00"),
    _Rule("CARD", cards, shape=b"0" * 13),
    _Rule("SSN", _matches(r"\d(?<![\w\-]\d)\d\d-\d{2}-\d{4}(?![\w\-])"), shape=b"000-00-0000"),
    _Rule("IP", _ipv4, sign="."),
    _Rule("IP", _ipv6, sign=":"),
    _Rule(
        "PHONE",
        _matches(
            # Nor right behind a placeholder, or masking a masked text again would change it.
            r"[+(\d](?<![\w.\-/].)(?<!_[0-9a-f]{6}>.)(?:(?<=\+)\d{1,3}[ .\-]?(?:\(?\d{1,4}\)?[ .\-]?){2,5}\d{2,4}"
            r"|(?<=\()\d{3}\) ?\d{3}[ .\-]?\d{4}|(?<=\d)\d{2}[ .\-]\d{3}[ .\-]\d{4}|(?<=5)55[ .\-]?01\d{2})(?![\w\-])",
            _phone,
        ),
        shape=b"0" * 7,
    ),
)


def redact(text: str, key: bytes, *, digits: int = 6) -> tuple[str, Counter[str]]:
    """Return the text with placeholders that have so many hex `digits`, and how many of each kind.

    >>> redact("write to ann@example.com", b"k")[0].startswith("write to <EMAIL_")
    True
    """
    counts: Counter[str] = Counter()
    outline = _outline(text)
    for rule in _RULES:
        if (outline and rule.shape not in outline) or rule.sign not in text:
            continue
        parts, after = [], 0
        for start, end in rule.find(text):
            parts += [text[after:start], placeholder(rule.kind, text[start:end], key, digits=digits)]
            after = end
            counts[rule.kind] += 1
        if parts:
            text = "".join([*parts, text[after:]])
            outline = _outline(text)
    return text, counts


class Located(NamedTuple):
    """Something personal at `text[start:end]`; the value itself is not kept."""

    kind: str
    start: int
    end: int


def locate(text: str) -> list[Located]:
    """Return where `redact` would put placeholders, in the order of the text; positions are characters of `text` itself.

    >>> locate("write to ann@example.com")
    [Located(kind='EMAIL', start=9, end=24)]
    """
    found: list[Located] = []
    origin = list(range(len(text)))
    for rule in _RULES:
        hits = list(rule.find(text)) if rule.sign in text else []
        # Later rules must see what they see in `redact`: the placeholders, never what these stand for.
        for start, end in reversed(hits):
            stand_in = placeholder(rule.kind, text[start:end], b"")
            found.append(Located(rule.kind, origin[start], origin[end - 1] + 1))
            origin[start:end] = [origin[start]] * len(stand_in)
            text = text[:start] + stand_in + text[end:]
    return sorted(found, key=lambda one: one.start)


_OUTLINE = bytes.maketrans(b"0123456789" + string.ascii_letters.encode(), b"0" * 10 + b"a" * len(string.ascii_letters))
_RUNS = bytes.maketrans(b"a", b"b")
_OTHER_DIGIT = re.compile(r"[^\D0-9]")


def _outline(text: str) -> bytes:
    """Return the text with 0 for each digit and a for each letter; then again with b for a, without what may stand within a number.

    A text with digits of other scripts has none: every rule looks at it.
    """
    if not text.isascii() and _OTHER_DIGIT.search(text):
        return b""
    outline = text.encode("ascii", "replace").translate(_OUTLINE)
    return outline + b"\n" + outline.translate(_RUNS, b" .-()")


_SPACING = re.compile(r"[\s\-]")


def placeholder(kind: str, value: str, key: bytes, *, digits: int = 6) -> str:
    """Return what stands for `value`: the same for the same value, however it is spaced, hyphenated and capitalised."""
    plain = _SPACING.sub("", value).lower().encode("utf-8", "surrogatepass")
    return f"<{kind}_{hmac.digest(key, plain, 'sha256').hex()[:digits]}>"


PERSONAL_ID = PREFILTER + r"|(?m:^(?:[A-Za-z]{1,12}:)?(?:00)?[1-9]\p{Nd}{9,14}$)"
"""RE2 pattern that every id with something personal in it matches, also in ids joined by line ends; SQL hands only those to Python."""

_BARE_PHONE = re.compile(r"(?:[A-Za-z]{1,12}:)?(?:00)?[1-9]\d{9,14}\Z")


def personal_id(text: str) -> bool:
    """Say whether the id of a user, session, conversation or model gives away who it is.

    It does if it holds anything that a text may not hold, or is a telephone number as gateways write them, without a plus. A plain
    number of 10 to 15 digits is taken for one as well: hiding an id that says nothing costs nothing, its placeholder is an id too.

    >>> personal_id("4915112345678"), personal_id("whatsapp:14155552671"), personal_id("10.0.0.7"), personal_id("user-123456")
    (True, True, True, False)
    """
    return bool(_BARE_PHONE.match(text) or redact(text, b"")[1])


def redact_id(text: str, key: bytes) -> str:
    """Return the id with what is personal in it replaced; other ids are returned as they are.

    Its placeholders begin like those in texts and are longer (12 hex digits), so that a million users stay a million.
    """
    if _BARE_PHONE.match(text):
        return placeholder("PHONE", text, key, digits=12)
    return redact(text, key, digits=12)[0]


def _refuse_another_key(home: Path, path: Path) -> None:
    if not store_path(home).exists():
        return
    names = {row["table_name"] for row in query(home, "SELECT table_name FROM duckdb_tables()")}
    for table in ("interactions", "erasures"):
        if table in names and query(home, f"SELECT 1 FROM {table} LIMIT 1"):  # noqa: S608 - names from code
            raise ConfigError(
                f"{str(path)!r} is gone, but the store has rows in {table!r} that were masked with it; restore the file from a backup, or "
                f"move {str(home)!r} away and begin a new state folder"
            )


def redaction_key(home: Path) -> bytes:
    """Return the secret of the state folder `home`, made on the first call and readable by its owner only.

    Effects: may write `<home>/redaction.key`; reads the store if there is no key.

    Raises:
        ConfigError: the key is gone that exchanges or erasures in the store were made with: with another one, people would be others.
    """
    path = home / "redaction.key"
    if not path.exists():
        _refuse_another_key(home, path)
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
