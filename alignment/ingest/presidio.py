"""The second look for personal data: presidio's recognisers, and names where a spaCy model is given.

It is too slow for a million rows, so it covers what is flagged, shown to people or trained on. It runs after the fast rules, finds what
they do not know (national numbers of many countries, telephone numbers without a plus), and writes the same placeholders.

Effects: loads presidio (seconds) and a spaCy model from disk. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import ConfigError
from alignment.ids import content_id
from alignment.ingest.contacts import is_help_line
from alignment.ingest.normalize import view
from alignment.ingest.redact import RULES, placeholder, redact
from alignment.text import PLACEHOLDER

_MASKED = re.compile(f"({PLACEHOLDER.pattern})")

_TAX = r"tax|taxpayer|itin|steuer\w*|idnr|tfn"
_IDENTITY = (
    r"id (?:number|card|no)|identity|identification number|national id\w*|social (?:security|insurance)|citizen\w*|ssn|sin|nin|rrn"
    r"|resident registration|pesel|aadhaar|uidai|kimlik|tckn|personnummer"
)
_HEALTH = r"nhs|health|medicare|medicaid|patient|insurance|\w*versicher\w*|krankenkasse|aok|barmer"
_PASSPORT = r"passports?|reisepass|pass(?:nummer|-nr)|travel document|\w*ausweis\w*"
_BANK = r"account|acct|a/c|bank|routing|aba|debit|checking|savings"
_CALLS = (
    r"phones?|telephone|tele?fon\w*|tel|call(?:ed|ing)?|mobile|mobil|handy\w*|cell|whatsapp|signal|fax|sms|text me|dial|ring|reach|contact"
)
_BIRTH = r"born|birth|birthday|birthdate|dob|geboren|geburts\w*|naissance|nacimiento"

_SURE: dict[str, str] = {
    "IbanRecognizer": "IBAN",
    "CryptoRecognizer": "CRYPTO",
    "UkNinoRecognizer": "NATIONAL_ID",
    "UkDrivingLicenceRecognizer": "LICENCE",
    "SgFinRecognizer": "NATIONAL_ID",
    "EsNifRecognizer": "NATIONAL_ID",
    "EsNieRecognizer": "NATIONAL_ID",
    "ItFiscalCodeRecognizer": "NATIONAL_ID",
    "FiPersonalIdentityCodeRecognizer": "NATIONAL_ID",
    "DeSocialSecurityRecognizer": "NATIONAL_ID",
    "InPanRecognizer": "TAX_ID",
    "UsMbiRecognizer": "HEALTH_ID",
}
"""Recognisers reliable by shape or check digits: none misfired on 3,000 ordinary exchanges and 1,500 texts full of numbers."""

_WITH_WORDS: dict[str, tuple[str, str]] = {
    "UsSsnRecognizer": ("SSN", _IDENTITY),
    "UsItinRecognizer": ("TAX_ID", _TAX),
    "UsPassportRecognizer": ("PASSPORT", _PASSPORT),
    "UsLicenseRecognizer": ("LICENCE", r"driver'?s?|driving|licen[cs]e"),
    "UsBankRecognizer": ("BANK", _BANK),
    "AbaRoutingRecognizer": ("BANK", _BANK),
    "MedicalLicenseRecognizer": ("LICENCE", r"dea|licen[cs]e"),
    "NhsRecognizer": ("HEALTH_ID", _HEALTH),
    "UkPassportRecognizer": ("PASSPORT", _PASSPORT),
    "InPassportRecognizer": ("PASSPORT", _PASSPORT),
    "InAadhaarRecognizer": ("NATIONAL_ID", _IDENTITY),
    "AuTfnRecognizer": ("TAX_ID", _TAX),
    "AuMedicareRecognizer": ("HEALTH_ID", _HEALTH),
    "CaSinRecognizer": ("NATIONAL_ID", _IDENTITY),
    "DeTaxIdRecognizer": ("TAX_ID", _TAX),
    "DeIdCardRecognizer": ("NATIONAL_ID", rf"{_PASSPORT}|{_IDENTITY}"),
    "DePassportRecognizer": ("PASSPORT", _PASSPORT),
    "DeHealthInsuranceRecognizer": ("HEALTH_ID", _HEALTH),
    "PlPeselRecognizer": ("NATIONAL_ID", _IDENTITY),
    "SePersonnummerRecognizer": ("NATIONAL_ID", _IDENTITY),
    "KrRrnRecognizer": ("NATIONAL_ID", _IDENTITY),
    "ThTninRecognizer": ("NATIONAL_ID", _IDENTITY),
    "TrNationalIdRecognizer": ("NATIONAL_ID", _IDENTITY),
    "ZaIdNumberRecognizer": ("NATIONAL_ID", _IDENTITY),
    "NgNinRecognizer": ("NATIONAL_ID", _IDENTITY),
    "DateRecognizer": ("BIRTH", _BIRTH),
}
"""Recognisers of numbers that look like many ordinary ones (a tenth of random numbers has the right check digit): they need such a word.

Left out: e-mail, cards, network cards and IP addresses (the fast rules know more of them; presidio takes times in
milliseconds for cards, Haskell's `::` for addresses and a map's `place/@37.33,-121.8` for e-mail), URLs (not personal by
themselves), plates (`is at 192`), postcodes, and company numbers (VAT, registers).
"""

_BEFORE, _AFTER = 60, 40
_PIECE, _OVERLAP = 2000, 200
_ROUNDS = 20
_ASKED, _ASKED_TOGETHER = 24, 20
"""Numbers per exchange, of up to 20 characters, that phonenumbers is asked about, at 2 to 4 ms each; a longer run of digits counts as
several, by its length. Beyond that, in a longer dump, everything that looks like its numbers is masked."""
_DIGIT = re.compile(r"\d")
_DATE = re.compile(r"\d{1,4}([\-./])\d{1,2}\1\d{1,4}")
_NUMBER = re.compile(r"[+(\d][\d ()+.\-/\u00a0\u2010-\u2015]{6,60}")
_NAMES = {"PERSON": "PERSON", "PER": "PERSON", "LOC": "LOCATION", "GPE": "LOCATION", "LOCATION": "LOCATION"}


class _Found(NamedTuple):
    """A place of personal data; of overlapping places, the one with the highest score, then the longest, gives the kind."""

    start: int
    end: int
    kind: str
    score: float


class _Recogniser(NamedTuple):
    kind: str
    find: Callable[..., Iterable[Any]]
    entities: list[str]
    words: re.Pattern[str] | None


def allowance() -> Iterator[int]:
    """Return a counter of how often phonenumbers may be asked for one exchange, across all its texts."""
    return iter(range(_ASKED))


class DeepRedactor:
    """Redacts one text at a time; make one per process, since it takes seconds to load."""

    def __init__(self, ner_model: str = "") -> None:
        """Load presidio, and the spaCy model `ner_model` (a folder or an installed package; empty finds no names).

        Raises:
            ConfigError: there is no such spaCy model.
        """
        self._recognisers = _recognisers()
        self._phones = _phones()
        self._names = _load_names(ner_model) if ner_model else None

    def redact(self, text: str, key: bytes, *, asked: Iterator[int] | None = None) -> tuple[str, Counter[str]]:
        """Return the text with placeholders, and how many new ones there are per kind; a second call changes nothing.

        `asked` is the exchange's `allowance`; without it the text gets its own. Existing placeholders stay. The time grows with the
        text's length, whatever its content.
        """
        counts: Counter[str] = Counter()
        asked = allowance() if asked is None else asked
        # Masking changes the context of the rest: only a text without further hits is done.
        for _ in range(_ROUNDS):
            text, fast = redact(text, key)
            text, deep = self._once(text, key, asked)
            counts += fast + deep
            if not deep:
                break
        return text, counts

    def _once(self, text: str, key: bytes, asked: Iterator[int]) -> tuple[str, Counter[str]]:
        counts: Counter[str] = Counter()
        parts = _MASKED.split(text)
        for place in range(0, len(parts), 2):
            part, after, done = parts[place], 0, []
            seen = view(part)
            for found in _merged(self._find(seen.text, asked), seen.text):
                value = seen.text[found.start : found.end]
                done += [part[after : seen.starts[found.start]], placeholder(found.kind, value, key)]
                after = seen.ends[found.end - 1]
                counts[found.kind] += 1
            parts[place] = "".join([*done, part[after:]])
        return "".join(parts), counts

    def _find(self, text: str, asked: Iterator[int]) -> Iterator[_Found]:
        for offset in range(0, max(len(text) - _OVERLAP, 1), _PIECE - _OVERLAP):
            piece = text[offset : offset + _PIECE]
            found = [*self._find_names(piece)]
            if _DIGIT.search(piece):
                found += [*self._find_patterns(piece), *self._find_phones(piece, asked)]
            for one in found:
                yield one._replace(start=offset + one.start, end=offset + one.end)

    def _find_patterns(self, piece: str) -> Iterator[_Found]:
        for kind, find, entities, words in self._recognisers:
            for hit in find(piece, entities):
                start, end = hit.start, hit.end
                if _whole(piece, start, end) and (words is None or _beside(words, piece, start, end)):
                    yield _Found(start, end, kind, hit.score)

    def _find_phones(self, piece: str, asked: Iterator[int]) -> Iterator[_Found]:
        """Look for telephone numbers only near digits: the recogniser needs milliseconds even for a text without any."""
        for number in _NUMBER.finditer(piece):
            worded = _beside(_WORDS_FOR_CALLS, piece, *number.span())
            if sum(character.isdigit() for character in number.group()) < 7 or not (worded or _TRUNK.search(number.group())):
                continue
            if len(list(islice(asked, cost := -(-len(number.group()) // _ASKED_TOGETHER)))) < cost:
                yield _Found(*number.span(), "PHONE", 0.1)
                continue
            start = max(number.start() - 10, 0)
            for hit in self._phones(piece[start : number.end() + 10], ["PHONE_NUMBER"]):
                place = (start + hit.start, start + hit.end)
                found = piece[slice(*place)]
                # Without a trunk prefix and groups, or a word for calls, any number would be valid in some country.
                if is_help_line(found):
                    continue
                if (worded or _TRUNK.match(found)) and not _DATE.fullmatch(found) and _whole(piece, *place):
                    yield _Found(*place, "PHONE", hit.score)

    def _find_names(self, piece: str) -> Iterator[_Found]:
        if self._names is None:
            return
        for entity in self._names(piece).ents:
            if kind := _NAMES.get(entity.label_):
                yield _Found(entity.start_char, entity.end_char, kind, 0.3)


def deep_version(ner_model: str = "") -> str:
    """Return the content address of everything that decides what is found. Loads nothing.

    Raises:
        ConfigError: there is no such spaCy model.
    """
    libraries = [version(name) for name in ("presidio_analyzer", "phonenumbers")]
    patterns = [_NUMBER.pattern, _TRUNK.pattern, _DATE.pattern, _WORDS_FOR_CALLS.pattern]
    return content_id(RULES, libraries, _SURE, _WITH_WORDS, patterns, _model_version(ner_model) if ner_model else "")[:12]


def _model_version(model: str) -> str:
    try:
        meta = Path(model) / "meta.json"
        return meta.read_text(encoding="utf-8") if meta.is_file() else f"{model}=={version(model)}"
    except (PackageNotFoundError, OSError, ValueError) as error:
        raise _no_model(model, error) from error


def _no_model(model: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"[ingest] ner_model = {model!r} cannot be loaded ({error}); "
        "give the folder of a spaCy model, install its package, or leave it empty"
    )


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)


_TRUNK = re.compile(r"[+(]|(?<!\d)0\d{1,6}[ ()\-./\u00a0\u2010-\u2015]")
_WORDS_FOR_CALLS = _words(_CALLS)


def _beside(words: re.Pattern[str], text: str, start: int, end: int) -> bool:
    return bool(words.search(text[max(start - _BEFORE, 0) : start]) or words.search(text[end : end + _AFTER]))


def _whole(text: str, start: int, end: int) -> bool:
    """Return whether a place is not part of a longer word or number. Underscores are ignored: they are also markup."""
    return not (text[end : end + 1].isalnum() or text[max(start - 1, 0) : start].isalnum())


def _merged(found: Iterable[_Found], text: str) -> list[_Found]:
    """Return the places in order; overlapping places are merged, so that no rest of the loser is left unmasked."""
    merged: list[_Found] = []
    for one in sorted(one for one in found if text[one.start : one.end].strip()):
        if merged and one.start < merged[-1].end:
            last = merged[-1]
            best = max(last, one, key=lambda each: (each.score, each.end - each.start))
            merged[-1] = best._replace(start=last.start, end=max(last.end, one.end))
        else:
            merged.append(one)
    return merged


def _recognisers() -> list[_Recogniser]:
    from presidio_analyzer import predefined_recognizers as known

    made = []
    for name in (*_SURE, *_WITH_WORDS):
        kind, words = (_SURE[name], None) if name in _SURE else _WITH_WORDS[name]
        one = getattr(known, name)()
        if name == "InPanRecognizer":
            # Its weaker patterns match any word with four digits, and take most of the time.
            one = getattr(known, name)(patterns=[pattern for pattern in one.patterns if pattern.score >= 0.5])
        made.append(_Recogniser(kind, one.analyze, one.supported_entities, _words(words) if words else None))
    return made


def _phones() -> Callable[..., Iterable[Any]]:
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    find: Callable[..., Iterable[Any]] = PhoneRecognizer().analyze
    return find


def _load_names(model: str) -> Any:
    import spacy

    try:
        return spacy.load(model)
    except (OSError, ValueError) as error:
        raise _no_model(model, error) from error
