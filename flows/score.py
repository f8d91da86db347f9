"""Score the lines of a JSON Lines stream with the detectors, block by block; no store is needed.

Each input line gives one output line, in order. A line that cannot be scored is output with an `error`, all its other keys, and its
number as `line`, unless it already has a key of that name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, NamedTuple, NoReturn

from alignment.ingest.redact import locate

BLOCK = 512
MAX_LINE = 16 * 2**20
ADDED = ("harmful_request", "refusal", "harmful_answer", "toxicity", "flags", "pii")
_FIELDS = ("prompt", "response")


class InputLine(NamedTuple):
    """A line of the input: its number from 1, its object, and why it cannot be scored (empty if it can)."""

    number: int
    row: dict[str, Any]
    error: str


Scorer = Callable[[Sequence[str | None], Sequence[str | None]], list[dict[str, float | None]]]


def score_lines(lines: Iterable[bytes], scorer: Scorer, *, thresholds: Mapping[str, float]) -> Iterator[list[tuple[InputLine, str]]]:
    """Yield blocks of (line, its output as JSON). Blank lines are skipped, but count in line numbers.

    `scorer` returns one dictionary of scores (0..1 or None) per row; `thresholds` has a value for each score name. A score equal to its
    threshold flags; a score of None flags nothing and its flag is None.
    """
    read = (read_line(number, raw) for number, raw in zip(count(1), lines, strict=False) if raw.strip())
    for block in _blocks(read):
        usable = [line.row for line in block if not line.error]
        scores = iter(scorer([row.get("prompt") for row in usable], [row.get("response") for row in usable]) if usable else [])
        yield [(line, _output(line, {} if line.error else next(scores), thresholds)) for line in block]


def _blocks(lines: Iterator[InputLine]) -> Iterator[Sequence[InputLine]]:
    while block := list(islice(lines, BLOCK)):
        yield block


def read_line(number: int, raw: bytes) -> InputLine:
    """Parse a line whose `prompt` and `response` must be texts or None, at least one not blank; on failure, record why."""
    if len(raw) > MAX_LINE:
        return InputLine(number, {}, f"longer than {MAX_LINE >> 20} MiB")
    try:
        row = json.loads(raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError as error:
        return InputLine(number, {}, f"not UTF-8 at byte {error.start}")
    except RecursionError:
        return InputLine(number, {}, "nested too deeply")
    except ValueError as error:
        return InputLine(number, {}, f"not JSON: {error}")
    if not isinstance(row, dict):
        return InputLine(number, {}, f"a JSON {_name(row)}, not an object")
    return InputLine(number, row, _problem(row))


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _name(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null", dict: "object"}
    return names.get(type(value), "number")


def _problem(row: Mapping[str, Any]) -> str:
    for field in _FIELDS:
        if not isinstance(value := row.get(field), str | None):
            return f"{field!r} is a JSON {_name(value)}; a string or null is needed"
        if value and any("\ud800" <= char <= "\udfff" for char in value):
            return f"{field!r} has half of a surrogate pair"
    return "" if any((row.get(field) or "").strip() for field in _FIELDS) else "neither 'prompt' nor 'response' has any text"


def _output(line: InputLine, scores: Mapping[str, float | None], thresholds: Mapping[str, float]) -> str:
    if line.error:
        return _dump({"line": line.number, **line.row, "error": line.error})
    row = {key: value for key, value in line.row.items() if key not in (*ADDED, "error")}
    flags: dict[str, bool | None] = {name: None if value is None else value >= thresholds[name] for name, value in scores.items()}
    found = [{"field": field, **one._asdict()} for field in _FIELDS if isinstance(text := row.get(field), str) for one in locate(text)]
    return _dump({**row, **scores, "flags": {**flags, "pii": bool(found)}, "pii": found})


def _dump(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    return text if not any("\ud800" <= char <= "\udfff" for char in text) else json.dumps(row)
