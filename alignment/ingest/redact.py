"""Replace personal data and secrets with stable placeholders, `<EMAIL_3f9a1c>`, before anything is stored.

Within one state folder (its secret is the key) the same value gives the same placeholder, so that texts stay comparable; the value cannot
be computed back. Numbers that only look like cards or IBANs fail their checksum and stay.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import ConfigError
from alignment.ingest import checksums, contacts, credentials
from alignment.ingest.checksums import cards, ibans, national_ids, social_security
from alignment.ingest.normalize import DISGUISED, HIDDEN, view
from alignment.store import query, store_path

RULES = 2
"""Version of the rules: after an increase the second look rereads what it has read."""

PREFILTER = "|".join((contacts.PREFILTER, checksums.PREFILTER, credentials.PREFILTER, DISGUISED))
"""RE2 pattern that matches every text with something to redact; SQL hands only the matching rows to Python.

Each alternative is the minimum its rule needs, without checksums and context. It also matches within JSON, where a line break is a
backslash and an n, and a quotation mark has a backslash.
"""


class _Rule(NamedTuple):
    """Finds one kind, or places with their kinds; `plain` normalises a value before it gets its placeholder."""

    kind: str
    find: Callable[[str], Iterable[tuple[Any, ...]]]
    plain: Callable[[str], str] = str


def _compact(value: str) -> str:
    return re.sub(r"[^\w]", "", value)


# Order matters: later rules do not see what an earlier rule took.
_SHARED = (
    _Rule("PRIVATE_KEY", credentials.private_keys),
    _Rule("KEY", credentials.issued_keys),
)
_NUMBERS = (
    _Rule("IBAN", ibans, _compact),
    _Rule("CARD", cards, _compact),
    _Rule("SSN", social_security),
)
_TEXT_RULES = (
    *_SHARED,
    _Rule("KEY", credentials.named_keys),
    _Rule("EMAIL", contacts.emails),
    _Rule("EMAIL", contacts.spelled_emails, contacts.plain_email),
    *_NUMBERS,
    _Rule("", national_ids, _compact),
    _Rule("IP", contacts.ipv4_of_somebody),
    _Rule("IP", contacts.ipv6_of_somebody),
    _Rule("MAC", contacts.macs),
    _Rule("PHONE", contacts.phones),
    _Rule("KEY", credentials.random_keys),
)
# Ids are random, so `random_keys` does not apply; a private IP address in an id is somebody's desk.
_ID_RULES = (
    *_SHARED,
    _Rule("EMAIL", contacts.emails),
    *_NUMBERS,
    _Rule("IP", contacts.ipv4),
    _Rule("IP", contacts.ipv6),
    _Rule("MAC", contacts.macs),
    _Rule("PHONE", contacts.phones),
)
_ROUNDS, _ROUNDS_OF_LONG, _LONG = 20, 3, 10_000
LINE_WORK = 200_000
"""Budget for all texts of a log line: a unit is about a microsecond."""
_OF_A_ROUND, _OF_A_DIGIT = 60, 3


class TooMuchWork(Exception):
    """Masking would exceed its budget; the unmasked rest must not be stored."""


class Work:
    """The budget left for masking, shared by the texts of a line: characters times rounds, with digits counting more."""

    def __init__(self, left: int = LINE_WORK) -> None:
        self.left = left

    def spend(self, text: str) -> None:
        """Deduct one round over `text` from the budget.

        Raises:
            TooMuchWork: the budget is exceeded.
        """
        self.left -= _OF_A_ROUND + len(text) + _OF_A_DIGIT * sum(map(text.count, "0123456789"))
        if self.left < 0:
            raise TooMuchWork


class _Hit(NamedTuple):
    kind: str
    start: int
    end: int
    value: str


def _find(text: str, rules: Sequence[_Rule] = _TEXT_RULES, work: Work | None = None) -> list[_Hit]:
    """Return what to mask, in order; places refer to `text` itself, values are as in the view.

    Without `work`, a text in which every round finds more is masked as a whole.
    """
    if work and len(text) > work.left:
        raise TooMuchWork
    seen, hits = view(text), list[_Hit]()
    for _ in count() if work else range(_ROUNDS if len(text) <= _LONG else _ROUNDS_OF_LONG):
        before = len(hits)
        if work:
            work.spend(seen.text)
        for rule in rules:
            spans = list(rule.find(seen.text))
            if spans:
                for start, end, *kind in spans:
                    value = rule.plain(seen.text[start:end])
                    hits.append(_Hit(kind[0] if kind else rule.kind, seen.starts[start], seen.ends[end - 1], value))
                seen = seen.replaced([(start, end, HIDDEN) for start, end, *_ in spans])
        # Masking changes the context of the rest: only a text without further hits is done.
        if len(hits) == before:
            break
    else:
        return [_Hit("TEXT", 0, len(text), text)]
    return sorted(hits, key=lambda hit: hit.start)


def _masked(text: str, hits: Sequence[_Hit], key: bytes, digits: int) -> str:
    parts: list[str] = []
    after = 0
    known: dict[tuple[str, str], str] = {}
    for hit in hits:
        named = (hit.kind, hit.value)
        if named not in known:
            known[named] = placeholder(*named, key, digits=digits)
        # Two hits may come from one original character.
        parts += (text[after : hit.start], known[named])
        after = max(after, hit.end)
    return "".join([*parts, text[after:]])


def redact(text: str, key: bytes, *, digits: int = 6, work: Work | None = None) -> tuple[str, Counter[str]]:
    """Return the text with placeholders of `digits` hex digits, and how many of each kind.

    Raises:
        TooMuchWork: it costs more than `work` has left.

    >>> redact("write to ann@example.com", b"k")[0].startswith("write to <EMAIL_")
    True
    """
    hits = _find(text, work=work)
    return _masked(text, hits, key, digits) if hits else text, Counter(hit.kind for hit in hits)


class Located(NamedTuple):
    """Something personal at `text[start:end]`; the value itself is not kept."""

    kind: str
    start: int
    end: int


def locate(text: str, *, work: Work | None = None) -> list[Located]:
    """Return where `redact` would put placeholders, in the order of the text; positions are characters of `text` itself.

    Raises:
        TooMuchWork: it costs more than `work` has left.

    >>> locate("write to ann@example.com")
    [Located(kind='EMAIL', start=9, end=24)]
    """
    return [Located(hit.kind, hit.start, hit.end) for hit in _find(text, work=work)]


_SPACING = re.compile(r"[\s\-]")


def placeholder(kind: str, value: str, key: bytes, *, digits: int = 6) -> str:
    """Return the placeholder of `value`: the same for the same value, however it is spaced, hyphenated and capitalised."""
    plain = _SPACING.sub("", value).lower().encode("utf-8", "surrogatepass")
    return f"<{kind}_{hmac.digest(key, plain, 'sha256').hex()[:digits]}>"


PERSONAL_ID = (
    "|".join((contacts.PREFILTER, checksums.PREFILTER, credentials.ISSUED_PREFILTER, DISGUISED))
    + r"|(?m:^(?:[A-Za-z]{1,12}:)?(?:00)?[1-9]\p{Nd}{9,14}$)"
)
"""RE2 pattern that matches every id with something personal, also in ids joined by line breaks; SQL hands only those to Python."""

_BARE_PHONE = re.compile(r"(?:[A-Za-z]{1,12}:)?(?:00)?[1-9]\d{9,14}\Z")


def personal_id(text: str) -> bool:
    """Return whether the id of a user, session, conversation or model reveals a person.

    It does if it holds anything that a text may not hold, or is a telephone number without a plus, as gateways write them. Any plain
    number of 10 to 15 digits counts as one: hiding a meaningless id costs nothing, because its placeholder is an id too.

    >>> personal_id("4915112345678"), personal_id("whatsapp:14155552671"), personal_id("10.0.0.7"), personal_id("user-123456")
    (True, True, True, False)
    """
    return bool(_BARE_PHONE.match(text) or _find(text, _ID_RULES))


def redact_id(text: str, key: bytes) -> str:
    """Return the id with personal data replaced; other ids are returned unchanged.

    Its placeholders begin like those in texts and are longer (12 hex digits), so that a million users stay distinct.
    """
    if _BARE_PHONE.match(text):
        return placeholder("PHONE", text, key, digits=12)
    return _masked(text, _find(text, _ID_RULES), key, 12)


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
        ConfigError: the store has exchanges or erasures masked with a key that is gone: another key would change who is who.
    """
    path = home / "redaction.key"
    if not path.exists():
        _refuse_another_key(home, path)
        # Linked into place complete, so that a second process cannot read half a key and a kill cannot leave an empty file.
        handle, scratch = tempfile.mkstemp(prefix=".redaction-", dir=home)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(os.urandom(32))
            with contextlib.suppress(FileExistsError):
                os.link(scratch, path)
        finally:
            Path(scratch).unlink()
    return path.read_bytes()
