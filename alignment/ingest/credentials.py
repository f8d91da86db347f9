"""Credentials: keys with an issuer's prefix, values with a secret's name beside them, and strings too random to be words.

`issuers.toml` lists the issuers. `name = value`, flags, headers and connection strings are rules. A long random string on its own is
taken for a key, unless it is of a kind that programs write everywhere (digests, UUIDs, pictures, paths, names).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignment.ingest.checksums import Span
from alignment.ingest.normalize import HIDDEN

_BODIES = {
    "word": r"[A-Za-z0-9_\-]",
    "alnum": r"[A-Za-z0-9]",
    "base64": r"[A-Za-z0-9+/=_\-]",
    "hex": r"[0-9a-f]",
    "upper": r"[A-Z0-9]",
    "lower": r"[a-z0-9]",
    "dotted": r"[A-Za-z0-9_\-.=]",
    "path": r"[A-Za-z0-9/_\-@.]",
}
_ISSUERS: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "issuers.toml").read_text(encoding="utf-8"))["issuer"]
_JWT = r"eyJ[A-Za-z0-9_\-]{10}"
_SHAPES = (
    (_JWT, r"[A-Za-z0-9_\-]*+\.[A-Za-z0-9_\-]{10,}+(?:\.[A-Za-z0-9_\-]{6,}+)?"),
    (r"SG\.[A-Za-z0-9_\-]{16}", r"[A-Za-z0-9_\-]{0,32}\.[A-Za-z0-9_\-]{20,}"),  # SendGrid
    (r"(?:bot)?[0-9]{8,10}:AA[A-Za-z0-9_\-]{30}", r"[A-Za-z0-9_\-]*"),  # Telegram
    (r"[MNO][A-Za-z0-9_\-]{23,27}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{27}", r"[A-Za-z0-9_\-]*"),  # Discord
    (r"[0-9a-f]{32}-us[0-9]{1,2}", r""),  # Mailchimp
    (r"pat[A-Za-z0-9]{14}\.[0-9a-f]{32}", r"[0-9a-f]*"),  # Airtable
    (r"re_[A-Za-z0-9]{8}_[A-Za-z0-9]{20}", r"[A-Za-z0-9]*"),  # Resend
    (r"A3-[A-Z0-9]{6}-[A-Z0-9]{6,11}-[A-Z0-9]{5}-[A-Z0-9]{5}", r"[A-Z0-9\-]*"),  # 1Password
    (r"dt0c01\.[A-Z0-9]{24}\.[A-Z0-9]{20}", r"[A-Z0-9]*"),  # Dynatrace
    (r"sl\.[A-Z][A-Za-z0-9_\-]{60}", r"[A-Za-z0-9_\-]*"),  # Dropbox
    (r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.\-]{31}", r"[A-Za-z0-9_~.\-]*"),  # Entra ID
)
_STARTS = [start for one in _ISSUERS for start in one["starts"]]
ISSUED_PREFILTER = (
    f"(?:{'|'.join(re.escape(start) for start in _STARTS if not start.isalnum())})[A-Za-z0-9_\\-/+.]{{6}}"
    f"|(?:{'|'.join(re.escape(start) for start in _STARTS if start.isalnum())})[A-Za-z0-9_\\-+/]{{14}}"
    r"|eyJ[A-Za-z0-9_\-]{10}|SG\.[A-Za-z0-9_\-]{10}|[0-9]{8}:AA|[0-9]Q~|[0-9a-f]-us[0-9]"
    r"|A3-[A-Z0-9]{6}-|re_[A-Za-z0-9]{8}_"
    r"|[MNO][A-Za-z0-9_\-]{22}[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]{6}\.|pat[A-Za-z0-9]{14}\.|PRIVATE KEY"
    r"|earer [A-Za-z0-9._~+/\-]{12}"
)
"""RE2 pattern of keys that are recognisable by themselves."""

_CHOSEN = (
    r"pass(?:[ _\-]?(?:word|wd|phrase|code))|passw(?:or)?t|pwd|kennwort|mot[ _]de[ _]passe|mdp"
    r"|contrase[ñn]a|senha|wachtwoord|has[łl]o|lozinka|"
    r"пароль|密\s?码|口令|パスワード|비밀번호"
)
_KEY_NAME = r"secret|token(?!s\b|i[sz])|credentials?|keys?"
_KEY_OF = re.compile(
    r"(?:api|app|access|auth|account|private|signing|encryption|master|admin|licen[sc]e|service"
    r"|subscription|"
    r"client|shared|webhook|deploy|storage|function|host|session|recovery|ssh|secret)[ _\-]?\Z"
)
_LONG_NAME = (
    r"cookie|session(?:[ _\-]?id)?|sess|sid|authorization|signature|sig|auth|csrf\w*|xsrf\w*|bearer"
    r"|x-[a-z\-]{2,20}-(?:key|auth)"
)
_BETWEEN = r"(?:[_\-.]?[A-Za-z0-9]{1,12}){0,3}"
_ASSIGNED = (
    r"""[\w\-]{0,24}(?:\s(?:for|of|to|on|zu|für|para|de|do|da|del|du|pour)\s[\w .@\-]{1,30}?"""
    r"""|\s?\([^)\n]{1,24}\))?["'`*\])]{0,4}\s{0,3}(?::=|=>|==|[:=]|(?:(?:is|was"""
    r"""|has been)\s)?(?:now\s)?(?:changed|set|reset)\sto|\b(?:is|was|ist|lautet|est|es|é|to)\b:?|è|是|为|は|>"""
    r"""|value=|(?<=\s)(?=["'`]|[A-Za-z0-9_\-]{16}))[\s*]{0,4}"""
)
_VALUE = r"""(?:"(?P<d>[^"\n]{1,400})"|'(?P<s>[^'\n]{1,400})'|`(?P<b>[^`\n]{1,400})`|(?P<v>[^\s"'`,;<>(){}\[\]|，。；]{1,4000}))"""
_NAME = re.compile(rf"(?P<pass>{_CHOSEN})|(?P<key>{_KEY_NAME})|(?P<long>{_LONG_NAME})")
_ASSIGNMENT = re.compile(rf"(?P<sign>{_ASSIGNED}){_VALUE}")
_FLAG = re.compile(
    r"""(?<![\w\-])(?:--?(?:[a-z]{1,12}-)?(?:pass(?:word|wd|phrase|code)?|pwd|pw|secret|token|api-?key"""
    r"""|access-?key|auth)(?:-[a-z]{1,8})?[ =]\s?["']?(?P<flag>[^\s"']{4,400})"""
    r"""|(?:-u|--user|--proxy-user"""
    r"""|--creds)[ =]\s?["']?(?P<user>[^\s"':/@]{1,64}:[^\s"'@]{3,200})(?=["'\s]|$)"""
    r"""|(?:mysql|mysqldump|mysqladmin|mariadb"""
    r"""|sshpass)\b[^\n]{0,120}?\s-p\s?["']?(?P<mysql>[^\s"'\-][^\s"']{3,200})"""
    r"""|identified by\s{1,3}["'](?P<sql>[^"'\n]{3,200})["']"""
    r"""|login\s{1,3}\S{1,64}\s{1,3}password\s{1,3}(?P<netrc>\S{3,200})"""
    r"""|requirepass\s{1,3}(?P<redis>\S{4,200})|:[0-9]{4,5}:[\w*]{1,40}:\w{1,40}:(?P<pgpass>\S{4,200}))""",
    re.IGNORECASE,
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{1,30}://(?P<user>[^\s/@:\"'<>`]{0,100}:[^\s/@\"'<>`]{1,200})@(?=[\w\[])")
_HEADER = re.compile(r"basic\s{1,2}(?P<v>[A-Za-z0-9+/]{8,400}={0,2})(?![A-Za-z0-9+/=])", re.IGNORECASE)
_CODE = re.compile(r"\d(?<![\w.,]\d)\d{2,7}(?![\w.,]\d|\w|%| ?(?:am|pm|volts?|mm|px|kg|ms|s|years)\b)")
_CODE_NAME = re.compile(
    r"(?<!\w)(?:pin(?: (?:code|number))?|cvv2?|cvc2?|passcode|(?:verification|security|one[ \-]time"
    r"|2fa|sms|confirmation|login|access|unlock|door|alarm) (?:code|pin))"
    r"(?: for [\w ]{1,20}?)?(?: is| was|:|=|#){1,2} ?\Z|(?<!\w)cv[vc]2? \Z|(?-i:(?<!\w)(?:OTP|TAN|PIN"
    r"|CVV|CVC)[ :]{1,2}(?:is )?)\Z",
    re.IGNORECASE,
)
_SAS = re.compile(
    r"[?&;](?:sig|sv|signature|X-Amz-Signature|X-Amz-Credential|access_token|api_?key|key|token|code"
    r"|auth|password)=(?P<v>[^\s&;\"'<>#]{12,600})",
    re.IGNORECASE,
)
_ALPHABET = r"[A-Za-z0-9+/_\-]"
_RANDOM = re.compile(rf"[A-Za-z0-9](?<![A-Za-z0-9+/_\-.@#:].){_ALPHABET}{{31,130}}+={{0,2}}(?![A-Za-z0-9+/_\-.@=])")

PREFILTER = (
    rf"{ISSUED_PREFILTER}|(?i:passw|passphrase|pass[ _\-](?:w|p|c)|passcode|pwd|kennwort"
    rf"|mot[ _]de[ _]passe|mdp|contrase|senha|wachtwoord|has[łl]o|lozinka"
    r"|парол|密|口令|パスワ|비밀|(?:secret|token|credential|(?:api|app|access|auth|account|private|signing"
    r"|encryption|master|admin|licen[sc]e|service|"
    r"subscription|client|shared|webhook|deploy|storage|function|host|session|recovery|ssh"
    r"|secret)[ _\-]?key)[\w\-]*[\\\"'`*\])(]*\s*"
    r"(?:[:=>(\"'`]|\\|is|was|ist|est|es|é|è|to|for|of|on|zu|de|has|now|ch|set|value|是|为|は"
    r"|[A-Za-z0-9_\-]{16})"
    r"|(?:cookie|sess|session(?:[ _\-]?id)?|sid|authorization|signature|sig|auth|[cx]srf\w*|bearer"
    r"|x-[a-z\-]+-(?:key|auth))[\\\"'`*\])]*\s*[:=]"
    r"|-u[ =]?[\\\"']*[^\s:]*:|--(?:user|pass|pw|creds|proxy|auth)|mysql|mariadb|sshpass|identified by"
    r"|requirepass|basic +[A-Za-z0-9+/]{8}|bearer[ \-:=]+[A-Za-z0-9_.\-]{12}"
    r"|(?:pin|cvv|cvc|cvv2|cvc2|code|number|otp|tan)[\w ]*(?:is|was|:|=|#| )+[0-9]{3})"
    r"|[A-Za-z0-9]{22}|://[^\s/@]*:[^\s/@]*@|:[0-9]{4,5}:[\w*]+:\w+:|[?&;][\w\-]+="
)
"""RE2 pattern that matches every text with something for these rules."""


def _starts(*, digit: bool) -> re.Pattern[str]:
    """Compile the prefixes into one pattern, grouped by their first letter, so that most places are compared with that alone."""
    by_letter: dict[str, list[str]] = {}
    for one in _ISSUERS:
        for start in one["starts"] if one.get("digit", False) == digit else ():
            by_letter.setdefault(start[0], []).append(f"{re.escape(start[1:])}{_BODIES[one['body']]}{{{one['least']},}}+")
    grouped = [f"(?<={re.escape(letter)})(?:{'|'.join(rests)})" for letter, rests in sorted(by_letter.items())]
    return re.compile(f"[{''.join(sorted(by_letter))}](?<![A-Za-z0-9_].)(?:{'|'.join(grouped)})")


# A match with a digit or a long run of letters is a key; words that begin with the prefix have neither (`sk-fading-circle`).
_ISSUED, _ISSUED_WITH_DIGIT = _starts(digit=False), _starts(digit=True)
_NO_WORD = re.compile(r"[0-9]|[A-Za-z0-9]{16}")
_OTHER = re.compile(r"(?<![A-Za-z0-9_\-])(?:" + "|".join(shape + more for shape, more in _SHAPES) + ")")
_BEARER = re.compile(r"[Bb](?<!\w.)earer [A-Za-z0-9._~+/\-]{20,}+=*")
_LONG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.~+/:=]{10,}+")
_PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:[^\-]"
    r"|-(?!----)){0,8000}+(?:-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?"
)


def private_keys(text: str) -> Iterator[Span]:
    """Find private keys; in a key that was cut off, what follows its header."""
    return (match.span() for match in _PEM.finditer(text))


def issued_keys(text: str) -> Iterator[Span]:
    """Find keys by their issuer's prefix."""
    found: list[Span] = []
    for long in _LONG.finditer(text):
        # A key may follow a name and a sign, or be part of a path.
        for pattern in (_ISSUED, _OTHER):
            found += (match.span() for match in pattern.finditer(text, *long.span()))
        found += (match.span() for match in _ISSUED_WITH_DIGIT.finditer(text, *long.span()) if _NO_WORD.search(match.group()))
    if "earer " in text:
        # "bearer" is also an ordinary word.
        found += (match.span() for match in _BEARER.finditer(text) if any(one.isdigit() for one in match.group()))
    after = 0
    for start, end in sorted(found):
        if start >= after:
            # Characters that follow without a break belong to the key, or are the next key.
            after = _REST.match(text, end).end()  # type: ignore[union-attr]
            yield start, after


_REST = re.compile(r"[A-Za-z0-9_\-]*+")


def named_keys(text: str) -> Iterator[Span]:
    """Find the values of `name = value`, flags, headers and connection strings with a secret's name; the name stays."""
    low = _lower(text)
    found = [*_urls(text), *(_headers(text) if "basic " in low else ())]
    if any(sign in low for sign in _NAME_SIGNS):
        found += _named(text, low)
    for match in _FLAG.finditer(text) if any(sign in low for sign in _FLAG_SIGNS) else ():
        value = next(name for name, one in match.groupdict().items() if one)
        if _chosen(match[value], strict=value in ("flag", "netrc")):
            found.append(match.span(value))
    found += _codes(text, low)
    after = 0
    for start, end in sorted(found):
        if start >= after:
            after = end
            yield start, end


_NAME_SIGNS = (
    *(
        "pass",
        "mot de",
        "mot_de",
        "pwd",
        "kennwort",
        "mdp",
        "contrase",
        "senha",
        "wachtwoord",
        "hasło",
        "haslo",
        "lozinka",
        "пароль",
        "密",
        "口令",
        "パスワード",
        "비밀번호",
    ),
    *("secret", "token", "credential", "key", "cookie", "sess", "sid", "auth", "sig", "srf", "bearer"),
)
_FLAG_SIGNS = ("--", "-u", "mysql", "mariadb", "sshpass", "identified by", "login ", "requirepass")


def _lower(text: str) -> str:
    """Return the text in lower case, at its original length."""
    low = text.lower()
    return low if len(low) == len(text) else "".join(one.lower() if one.isascii() else one for one in text)


def _codes(text: str, low: str) -> Iterator[Span]:
    for match in _CODE.finditer(text) if any(sign in low for sign in ("pin", "cv", "code", "otp", "tan")) else ():
        if _CODE_NAME.search(text, max(match.start() - 50, 0), match.start()):
            yield match.span()


def _named(text: str, low: str) -> Iterator[Span]:
    after = 0
    for place in sorted({match.start() for sign in _NAME_SIGNS for match in re.finditer(sign, low)}):
        name = _NAME.match(low, place)
        if place < after or not name or not _is_name(name, low):
            continue
        match = _ASSIGNMENT.match(low, name.end())
        if not match:
            continue
        if name["long"] and match["sign"][0].isalnum():
            continue
        group = next(one for one in "dsbv" if match[one] is not None)
        start, end = match.span(group)
        if group == "v":
            end = start + len(_NEXT_PARAMETER.split(match[group], maxsplit=1)[0].rstrip(".!?:*"))
        called = text[end : end + 1] == "(" or (group == "v" and match["sign"][-1:] != ">" and text[end : end + 1] in ("[", "{", "<"))
        if end - start > _LONG_VALUE:
            # A secret within a value this long is not identified by the names inside it.
            after = end
        said = text[place:start].rstrip("\"'` ")
        if not called and _secret(name.lastgroup or "", text[start:end], said, quoted=group != "v"):
            after = end
            yield start, end


_LONG_VALUE = 128
_NEXT_PARAMETER = re.compile(r"&[\w.\-]+=")


def _is_name(name: re.Match[str], low: str) -> bool:
    if name["long"]:
        return not low[name.start() - 1 : name.start()].isalpha()
    return not name["key"] or name["key"][:3] != "key" or bool(_KEY_OF.search(low, max(name.start() - 16, 0), name.start()))


def _secret(kind: str, value: str, said: str, *, quoted: bool) -> bool:
    """Return whether a value is a secret that its name announces, and not a variable, description or stand-in.

    `said` is the text before it: the name and the sign.
    """
    if HIDDEN in value or _STAND_IN.match(value):
        return False
    digit, letter = any(one.isdigit() for one in value), any(one.isalpha() for one in value)
    signed = said[-1:] in (":", "=", ">")
    worded = not signed and not (quoted and _SAYS.search(said))
    if kind == "pass":
        if worded:
            return len(value) >= 5 and (digit or bool(_SYMBOL.search(value))) and not _MEASURE.match(value)
        if not quoted and _VARIABLE.fullmatch(value):
            return _ENVIRONMENT.fullmatch(said) is not None and len(value) >= 6
        return len(value) >= 4 and (letter or len(value) >= 6) and not (quoted and " " in value and value[-1:] in ".?!:")
    if kind == "long":
        return len(value) >= 12 and digit and letter and " " not in value and not value.lower().startswith(("bearer", "basic"))
    if not signed and not quoted:
        return len(value) >= 10 and digit and letter and _mixed(value)
    return len(value) >= 6 and digit and letter and " " not in value and not _VARIABLE.fullmatch(value.rstrip("0123456789"))


def _mixed(value: str) -> bool:
    """Return whether most of a value is not words: parts of words are longer than random runs."""
    return sum(map(len, _PARTS.findall(value))) <= 0.6 * len(value)


_SAYS = re.compile(r"\b(?:is|was|ist|lautet|est|es|to)\W*\Z|[éè是为は]\W*\Z")
_STAND_IN = re.compile(
    r"(?:[$%@#]?\{|\$[A-Za-z(]|%[A-Za-z_(]|<|\[|\(|\\|//|https?:$|\.\.\.|…"
    r"|(?:your|my|the|this|some|new|old|same|enter|insert|type|put|example|sample|dummy|fake"
    r"|placeholder|change|redacted|masked|hidden|removed|replace)(?:[ _\-.]|$)"
    r"|(?:your|my)[A-Z]\w*$|changeme\W*$|(?:os|process|env|config|settings|self|this|request|req|props"
    r"|args|ctx|data|user|cfg|var|local|secrets?|vault|params|options|form|state)[.\[]"
    r"|(?:none|null|nil|true|false|undefined|string|str|text|number|int|bool|boolean|required|optional"
    r"|bytes|any|object|todo|tbd|n/?a|password|passwd|token|secret|key|value|"
    r"admin|root|test|basic|bearer|digest|oauth2?|jwt|not|no|yes|must|should|a|an|at|is|only|in|for|to)\W*$"
    r"|([xX*•.\-_#0])\1+\W*$|(?:x|\*){3,}|[A-Za-z_.]+\()",
    re.IGNORECASE,
)
"""Stand-ins for a future secret: templates, variables, types, sentences and stars."""
_SYMBOL = re.compile(r"[!@#$%^&*+=?~]|[A-Za-z][_.\-][A-Za-z]*\d")
_MEASURE = re.compile(r"\d+(?:[.,:/\-]\d+)*(?:th|st|nd|rd|[a-z]{1,2}|-\w+)?\W*$|[\w\-]+-[a-z]+$|\d+\S{0,2}$")
_VARIABLE = re.compile(r"[A-Za-z_$][A-Za-z_]*(?:[.:]{1,2}[A-Za-z_]+)*[);,]*")
_ENVIRONMENT = re.compile(r"[A-Z0-9_]+=|[\w\-]+=")


def _urls(text: str) -> Iterator[Span]:
    if "://" in text:
        for match in _URL.finditer(text):
            password = match["user"].partition(":")[2]
            if not _STAND_IN.match(password) and HIDDEN not in password and password.lower() not in ("pass", "pw", "pwd"):
                yield match.span("user")
        for match in _SAS.finditer(text):
            if any(one.isdigit() for one in match["v"]) and not _STAND_IN.match(match["v"]):
                yield match.span("v")


def _headers(text: str) -> Iterator[Span]:
    for match in _HEADER.finditer(text):
        plain = _decoded(match["v"])
        if plain and ":" in plain:
            yield match.span("v")


def _chosen(value: str, *, strict: bool) -> bool:
    if HIDDEN in value or _STAND_IN.match(value):
        return False
    return not strict or any(one.isdigit() for one in value) or bool(_SYMBOL.search(value))


def random_keys(text: str) -> Iterator[Span]:
    """Find strings of 32 to 132 characters that are too random for words and are no digest, path, picture or base64 text."""
    for match in _RANDOM.finditer(text) if _UNBROKEN.search(text) else ():
        if (
            _UNBROKEN.search(match.group())
            and _too_random(match.group().rstrip("="))
            and not _HARMLESS_BEFORE.search(text, max(match.start() - 40, 0), match.start())
        ):
            yield match.span()


_UNBROKEN = re.compile(r"[A-Za-z0-9]{22}")
_HARMLESS_BEFORE = re.compile(
    r"(?:base64,|sha\d{3}[\-:=\s]|integrity[\"'=:\s]{1,4}|ssh-(?:rsa|ed25519|dss) |ecdsa-\S{1,20} "
    r"|SHA256:|nonce-|/|fingerprint\W{1,3}|etag\W{1,3}|hash\W{1,3}|digest\W{1,3})\Z",
    re.IGNORECASE,
)
_PARTS = re.compile(r"[A-Z]?[a-z]{3,}|[A-Z]{4,}")
_LEAST_ENTROPY = 4.0
"""Bits per character; 32 random letters and digits have 4.5."""


def _too_random(value: str) -> bool:
    kinds = [sum(map(test, value)) for test in (str.isdigit, str.isupper, str.islower)]
    if min(kinds) < 2 or _entropy(value) < _LEAST_ENTROPY:
        return False
    if not _mixed(value):
        return False
    plain = _decoded(value)
    return not plain or ":" in plain


def _entropy(value: str) -> float:
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())


def _decoded(value: str) -> str:
    """Decode a base64 text; return an empty text if the result is not text."""
    try:
        plain = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    return plain if plain.isprintable() else ""
