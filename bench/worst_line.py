"""Find the slowest single log line: attack every stage that reads a line, and print the worst attacks.

`python -m bench.worst_line` builds lines of up to `[ingest] max_line_bytes` and times each on its way into the store (cutting, parsing,
redacting, quarantine), in presidio's second look, and in the detectors' counts besides their encoders.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from io import BytesIO
from typing import Any, NamedTuple

from alignment.ingest.files import LogFile
from alignment.ingest.lines import Place, read_blocks
from alignment.ingest.parse import Context, parse
from alignment.ingest.reading import FileProgress, Part
from alignment.ingest.sources import LogSource, make_source, parser, presets
from alignment.sections import Ingest

KEY = b"k" * 32
MOMENT = datetime(2026, 11, 1, 12)  # noqa: DTZ001 - the store keeps UTC without a zone
TRIES = 3


class Timed(NamedTuple):
    """Seconds of one line in one stage, the best of three runs."""

    seconds: float
    stage: str
    attack: str
    bytes: int


# Each unit is repeated to the length of a line: known weak points of regular expressions, normalisers and parsers.
UNITS: dict[str, str] = {
    "letters": "a",
    "words": "ordinary words in a row ",
    "digits": "7",
    "dates": "2026-11-01 ",
    "cards": "4111 1111 1111 1112 ",
    "card digits": "4 ",
    "hyphens": "1-",
    "ibans": "GB82 ",
    "iban letters": "GB82WEST12345698765433",
    "at": "@",
    "mail": "a@b.c ",
    "mail run": "a@a",
    "no top level": "a@b.1",
    "dots": "1.",
    "addresses": "1.1.1.1.",
    "colons": "a:",
    "ipv6": "1:2:3:4:5:6:7:8:",
    "double colons": "ab::",
    "plus": "+1 ",
    "phones": "+1 (2) 3 ",
    "phone words": "call 030 1234567 ",
    "trunks": "(0",
    "keys": "sk-",
    "key runs": "sk-aaaaaaaaaaaaaaaaaaaaaaaa",
    "jwt": "eyJaaaaaaaaaaa.",
    "jwt dots": "eyJaaaaaaaaaaaa.aaaaaaaaaaaaa",
    "bearer": "bearer ",
    "aws": "aws_secret_access_key",
    "names": "password = ",
    "assignments": "api_key='a",
    "pem": "-----BEGIN PRIVATE KEY-----",
    "pem dashes": "-----BEGIN PRIVATE KEY-----\n-",
    "dashes": "-",
    "placeholders": "<EMAIL_aaaaaa>",
    "brackets": "<",
    "combining": "e\u0301\u0323\u0302",
    "one base": "\u0301",
    "wide digits": "\uff17",
    "ligatures": "\ufdfa",
    "zero width": "1\u200b",
    "percent": "%40",
    "percent digits": "%37",
    "spaced digits": "7\n",
    "spaces": " ",
    "lines": "\n",
    "i cannot": "i cannot ",
    "i then words": "i a ",
    "we": "we ",
    "as an": "as an a ",
    "as an ai": "as an ai, ",
    "without": "without a ",
    "against": "against ",
    "that is": "that is ",
    "hows": "how to ",
    "quotes": '"',
    "quoted": '"aaaaaaaa',
    "backslashes": "\\",
    "human": "\n\nHuman: a",
    "alternate": "\n\nHuman:\n\nAssistant:",
    "user keys": '"user_id":"a",',
    "emoji": "\U0001f600",
    "rtl": "\u202e",
    "surrogates": "\ud800",
    "bullets": "- a\n",
    "numbers": "1. a\n",
    "code": "```",
    "html": "<a href=",
    "control tokens": "<|im_start|>",
    "marked": "**a",
    "touching phones": "+49 151 23456789",
    "touching numbers": "123-45-6789/aaa:bb:cc:dd:ee:ffDE89370400440532013000",
}
PREFIXES = ("", "call me at (", "i ", "mail ann@example.com ")


def texts(size: int) -> Iterator[tuple[str, str]]:
    """Yield named texts of about `size` characters."""
    for name, unit in UNITS.items():
        yield name, (unit * (size // len(unit) + 1))[:size]
    draw = random.Random(0)
    known = list(UNITS.values())
    for number in range(12):
        parts = draw.choices(known, k=4)
        yield f"mixed {number}", ("".join(parts) * (size // max(1, len("".join(parts))) + 1))[:size]


def line_of(**changes: Any) -> bytes:
    """Return a valid log line with `changes`."""
    values = {
        "conversation_id": "c",
        "user_id": "u",
        "created_at": "2026-11-01T12:00:00Z",
        "model": "m",
        "messages": [{"role": "user", "content": "How do I boil an egg?"}],
        "response": "In water.",
    }
    return json.dumps(values | changes).encode("utf-8", "surrogatepass") + b"\n"


def _shapes(size: int) -> Iterator[tuple[str, bytes]]:
    """Yield lines that are hard to parse as JSON, whatever their texts."""
    good = line_of()
    count = size // 14
    body = good.rstrip()[:-1]
    yield "many keys", body + b"".join(b',"k%07d":%d' % (n, n % 10) for n in range(count)) + b"}\n"
    yield "many user keys", body + b"".join(b',"user_id":"%d"' % n for n in range(count)) + b"}\n"
    yield "many equal keys", body + b',"k":1' * (size // 6) + b"}\n"
    yield "many keys in signals", body + b',"signals":{' + b",".join(b'"k%07d":1' % n for n in range(count)) + b"}}\n"
    yield "many keys in a turn", line_of(messages=[{"role": "user", "content": "a", **{f"k{n}": n for n in range(count)}}])
    yield "many turns", line_of(messages=[{"role": "user", "content": "a"}] * (size // 34))
    yield "many personal turns", line_of(messages=[{"role": "user", "content": "a@b.co"}] * (size // 40))
    phones = (UNITS["touching phones"] * 4000)[:60_000]
    yield "fifteen turns of phones", line_of(messages=[{"role": "user", "content": phones[:4000]}] * 15)
    yield "one turn of phones", line_of(messages=[{"role": "user", "content": phones}])
    numbers = (UNITS["touching numbers"] * 2000)[:60_000]
    yield "one turn of numbers", line_of(messages=[{"role": "user", "content": numbers}])
    yield "one turn and more of phones", line_of(messages=[{"role": "user", "content": phones}], response=phones)
    yield "many empty objects", line_of(messages=[{}] * (size // 4))
    yield "many nulls", line_of(messages=[None] * (size // 6))
    yield "many parts", line_of(messages=[{"role": "user", "content": [{"text": "a"}] * (size // 14)}])
    for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
        depth = size // (len(opened) + 1)
        yield f"deep {opened.decode()}", body + b',"x":' + opened * depth + b"1" + closed * depth + b"}\n"
        yield f"deep, not closed {opened.decode()}", body + b',"x":' + opened * depth + b"\n"
        yield f"only deep {opened.decode()}", opened * depth + b"\n"
    yield "a long number", body + b',"x":' + b"9" * size + b"}\n"
    yield "a long number as a time", body.replace(b'"2026-11-01T12:00:00Z"', b"9" * size) + b"}\n"
    yield "a long exponent", body + b',"x":1e' + b"9" * size + b"}\n"
    yield "many numbers", body + b',"x":[' + b"1e308," * (size // 6) + b"1]}\n"
    yield "escapes", body + b',"x":"' + rb"\u0041" * (size // 6) + b'"}\n'
    yield "lone surrogates", body + b',"x":"' + rb"\ud800" * (size // 6) + b'"}\n'
    yield "no JSON", b"x" * size + b"\n"
    yield "no JSON, escapes", rb"\u0041" * (size // 6) + b"\n"
    yield "no JSON, quoted", b'{"aaaaaaaa"' * (size // 11) + b"\n"
    yield "not UTF-8", b"\xff" * size + b"\n"
    yield "NUL bytes", b"\0" * size + b"\n"
    yield "blanks", b" " * size + b"\n"
    yield "carriage returns", b"\r" * size + b"\n"
    for name in ("conversation_id", "user_id", "model", "created_at"):
        yield f"a long {name}", line_of(**{name: "4915112345678" * (size // 13)})
    other = {
        "openai": {"request": {"messages": [{"role": "user", "content": "a"}] * (size // 34)}, "response": {}},
        "hh": {"chosen": "\n\nHuman: a\n\nAssistant: b" * (size // 26), "rejected": ""},
        "litellm": {"status": "success", "messages": [{"role": "user", "content": "a"}] * (size // 34)},
        "langfuse": {"observations": [{"type": "GENERATION", "input": "a", "output": "b"}] * (size // 52)},
        "langfuse, named": {"userId": "u" * (size // 2), "observations": [{"type": "GENERATION"}] * (size // 48)},
        "otel spans": {"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": []}] * (size // 20)}]}]},
        "otel attributes": {"attributes": [{"key": "k", "value": {"stringValue": "a"}}] * (size // 46)},
        "otel scopes": {"resourceSpans": [{"scopeSpans": []}] * (size // 20)},
    }
    for name, value in other.items():
        yield f"for {name}", json.dumps(value).encode() + b"\n"


def lines(size: int) -> Iterator[tuple[str, bytes]]:
    """Yield named log lines of at most about `size` bytes."""
    yield from _shapes(size)
    for name, text in texts(size):
        # Encode as compactly as JSON allows, to fit as much of the text as possible into the line.
        for place in ("prompt", "response", "conversation_id", "raw"):
            yield f"{name} as {place}", _fit(text, place, size)


def _fit(text: str, place: str, size: int) -> bytes:
    if place == "raw":
        return text.replace("\n", " ").encode("utf-8", "surrogatepass")[:size] + b"\n"
    while True:
        values: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if place == "prompt" else {place: text}
        whole = json.dumps(
            {"conversation_id": "c", "created_at": "2026-11-01T12:00:00Z", "messages": [{"role": "user", "content": "a"}], "response": "b"}
            | values,
            ensure_ascii="\ud800" in text,
        ).encode()
        if len(whole) <= size:
            return whole + b"\n"
        text = text[: int(len(text) * min(0.98, size / len(whole)))]


class Way:
    """The way in of one line, as in the flow, with the connection that all lines of a file share."""

    def __init__(self, source: LogSource) -> None:
        self.source, self.connection, self.statement = source, parser(), source.statement()

    def take(self, line: bytes) -> Any:
        """Return the result of one line."""
        settings = Ingest()
        reading = FileProgress(LogFile("/log.jsonl", len(line), 0), "file", Place(), 0, "")
        context = Context(settings, KEY, MOMENT, MOMENT)
        for block in read_blocks(BytesIO(line), Place(), max_line_bytes=settings.max_line_bytes, growing=False):
            return parse(self.connection, self.statement, self.source.undated, [Part(reading, block)], context)
        return None


def seconds(call: Callable[[], Any], enough: float) -> float:
    """Return the best of three runs; a run clearly below `enough` is not repeated."""
    best = float("inf")
    for _ in range(TRIES):
        # Processor time: other programs on the machine do not lengthen it.
        started = time.process_time()
        call()
        best = min(best, time.process_time() - started)
        if best < enough / 2:
            break
    return best


def ingest_times(size: int, enough: float, chosen: list[str] | None = None) -> Iterator[Timed]:
    """Yield the time of each line, with each preset for lines of its kind."""
    for preset in chosen or list(presets()):
        way = Way(make_source("logs", ["x"], preset, {}))
        way.take(line_of())
        for name, line in lines(size) if preset == "gateway" else _shapes(size):
            yield Timed(seconds(lambda: way.take(line), enough), f"ingest {preset}", name, len(line))  # noqa: B023
        way.connection.close()


def text_times(size: int, enough: float, *, deep: bool = True) -> Iterator[Timed]:
    """Yield the time of each text in the second look and in the detectors' counts."""
    from alignment.ingest.presidio import DeepRedactor
    from alignment.models.embedder import _beginning
    from alignment.moderation.detectors import Exchanges, _pii, _toxicity
    from alignment.moderation.features import Views, intent, lexical
    from alignment.moderation.grams import request_grams
    from alignment.wording import degenerate

    second = DeepRedactor()
    second.redact("call 030 1234567", KEY)
    nothing: Any = None
    _toxicity(Exchanges(["a"], ["b"], nothing))
    stages: dict[str, Callable[[str], Any]] = {
        **({"second look": lambda text: second.redact(text, KEY)} if deep else {}),
        "phrases of an answer": lambda text: lexical([text]),
        "views": Views,
        "intent of a prompt": lambda text: intent([text]),
        "grams": lambda text: request_grams([text]),
        "toxicity": lambda text: _toxicity(Exchanges([text], [""], nothing)),
        "an answer's worth": degenerate,
        "cut for the encoder": lambda text: _beginning(text, 128),
        "placeholders": lambda text: _pii(Exchanges([text], [""], nothing)),
    }
    for name, text in texts(size):
        for stage, call in stages.items():
            yield Timed(seconds(lambda: call(text), enough), stage, name, len(text))  # noqa: B023


def main(size: int = 1 << 20, second: int = 12_000, enough: float = 0.2) -> None:
    """Print each stage's worst attacks: lines of `size` bytes, `second` characters for the second look, a line's text for detectors."""
    looked = (one for one in text_times(second, enough) if one.stage == "second look")
    counted = (one for one in text_times(size, enough, deep=False))
    for kind in (ingest_times(size - 1, enough), looked, counted):
        worst = sorted(kind, reverse=True)
        for one in worst[:25]:
            print(f"{one.seconds:8.3f} s  {one.stage:22s} {one.attack} ({one.bytes:,})", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
