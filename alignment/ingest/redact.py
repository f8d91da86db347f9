"""Personal data and secrets become stable placeholders, `<EMAIL_3f9a1c>`, before anything is stored.

The same value gives the same placeholder within one state folder (keyed by its secret), so that texts stay comparable; the
value itself cannot be computed back. Numbers that only look like cards or IBANs fail their checksum and stay.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PREFILTER = (
    r"@|[0-9](?:[ .\-()]?[0-9]){6,}|[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|[A-Za-z]{2}[0-9]{2}[ A-Za-z0-9]{11,}"
    r"|[A-Za-z0-9_\-]{20,}|PRIVATE KEY|sk-|[0-9a-fA-F]{1,4}::?[0-9a-fA-F]{1,4}:"
)
"""RE2 pattern that every text with something to redact matches; SQL uses it to hand only those rows to Python."""


def _luhn(number: str) -> bool:
    """Say whether a card number's check digit is right. Source: ISO/IEC 7812-1, annex B.

    >>> _luhn("4111 1111 1111 1111"), _luhn("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [sum(divmod(digit * 2, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(number: str) -> bool:
    """Say whether an IBAN's check digits are right. Source: ISO 13616, ISO 7064 MOD 97-10.

    >>> _iban("GB82 WEST 1234 5698 7654 32"), _iban("GB83 WEST 1234 5698 7654 32")
    (True, False)
    """
    compact = re.sub(r"\s", "", number).upper()
    moved = compact[4:] + compact[:4]
    return 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _ipv4(number: str) -> bool:
    return all(int(part) <= 255 for part in number.split("."))


def _phone(number: str) -> bool:
    return 7 <= sum(character.isdigit() for character in number) <= 15


class _Rule(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda _: True


# Order matters: what a rule took, later rules do not see.
_RULES = (
    _Rule(
        "PRIVATE_KEY",
        re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.{0,8000}?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.S),
    ),
    _Rule(
        "KEY",
        re.compile(
            r"\b(?:sk-[A-Za-z0-9_\-]{8,200}|gh[pousr]_[A-Za-z0-9]{20,255}|xox[abprs]-[A-Za-z0-9\-]{10,200}|AKIA[0-9A-Z]{16}"
            r"|AIza[0-9A-Za-z_\-]{35}|hf_[A-Za-z0-9]{20,100}|eyJ[A-Za-z0-9_\-]{10,2000}\.[A-Za-z0-9_\-]{10,4000}\.[A-Za-z0-9_\-]{10,1000}"
            r"|[sp]k_(?:live|test)_[A-Za-z0-9]{8,100})"
        ),
    ),
    _Rule(
        "EMAIL",
        re.compile(r"[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.\-]{0,250}[A-Za-z0-9])?\.[A-Za-z]{2,24}\b"),
    ),
    _Rule("IBAN", re.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}\b"), _iban),
    _Rule("CARD", re.compile(r"(?<![\w.])\d(?:[ \-]?\d){12,18}(?![\w])"), _luhn),
    _Rule("SSN", re.compile(r"(?<![\w\-])\d{3}-\d{2}-\d{4}(?![\w\-])")),
    _Rule("IP", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]\d|\w)"), _ipv4),
    _Rule(
        "IP",
        re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,6}(?![\w:])"),
        lambda found: found.count(":") >= 4 or "::" in found,
    ),
    _Rule(
        "PHONE",
        re.compile(
            r"(?<![\w.\-/])(?:\+\d{1,3}[ .\-]?(?:\(?\d{1,4}\)?[ .\-]?){2,5}\d{2,4}"
            r"|\(\d{3}\) ?\d{3}[ .\-]?\d{4}|\d{3}[ .\-]\d{3}[ .\-]\d{4}|555[ .\-]?01\d{2})(?![\w\-])"
        ),
        _phone,
    ),
)


def redact(text: str, key: bytes) -> tuple[str, Counter[str]]:
    """Return the text with placeholders, and how many of each kind.

    >>> redact("write to ann@example.com", b"k")[0].startswith("write to <EMAIL_")
    True
    """
    counts: Counter[str] = Counter()
    for rule in _RULES:

        def mask(match: re.Match[str], rule: _Rule = rule) -> str:
            value = match.group()
            if not rule.holds(value):
                return value
            counts[rule.kind] += 1
            plain = re.sub(r"[\s\-]", "", value).lower().encode("utf-8", "surrogatepass")
            return f"<{rule.kind}_{hmac.new(key, plain, hashlib.sha256).hexdigest()[:6]}>"

        text = rule.pattern.sub(mask, text)
    return text, counts


def redaction_key(home: Path) -> bytes:
    """Return the secret of the state folder `home`, made on the first call and readable by its owner only.

    Effects: may write `<home>/redaction.key`.
    """
    path = home / "redaction.key"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(handle, "wb") as out:
        out.write(os.urandom(32))
    return path.read_bytes()
