"""The audit log's rows: how each is sealed over the previous one, and how a whole log is checked. Nothing here touches a file.

    words ──salted digest──┐
    fields ────────────────┴─HMAC(key)─> seal ──previous──> next row ...      head: number and seal of the last row, with a proof

What people wrote (`words`: reason and details) is bound by a salted digest and not by the seal, so that an erasure can remove it without
breaking the chain.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignment.ids import canonical

WITHHELD = "words_withheld"
"""The act that names the rows whose words an erasure removed."""
GONE = "rows_gone"
"""The note of a row before which the log, or its head, was removed."""
_SEALED = ("number", "recorded_at", "actor", "how", "role", "account", "action", "subject", "digest", "note", "previous")
_NAMES = {*_SEALED, "seal", "salt", "words"}
Row = dict[str, Any]


class Head(NamedTuple):
    """The last row's number (0: there is none) and seal."""

    number: int
    seal: str


START = Head(0, "0" * 64)


class VerifiedChain(NamedTuple):
    """The result of a check: valid rows, the last of them, how many had their words removed, and how many lines a kill cut short.

    `problem` names the first row that is not as written; None if all are.
    """

    rows: int
    head: Head
    withheld: int
    torn: int
    problem: str | None


def sealed(key: bytes, fields: Mapping[str, Any], words: Mapping[str, Any], *, after: Head, note: str, salt: str) -> Row:
    """Return the row that follows `after`."""
    row = {"number": after.number + 1, **fields, "digest": _digest(salt, words), "note": note, "previous": after.seal}
    return {**row, "seal": _seal(key, row), "salt": salt, "words": dict(words)}


def dumped(row: Mapping[str, Any]) -> bytes:
    """Return a row as its line."""
    return json.dumps(row, ensure_ascii=True).encode() + b"\n"


def parsed(line: bytes) -> Row | None:
    """Return the row of a line; None unless it is written exactly as a row is, so that no other reader sees another row in it."""
    try:
        row = json.loads(line)
        whole = isinstance(row, dict) and set(row) == _NAMES and type(row["number"]) is int and dumped(row) == line.rstrip(b"\n") + b"\n"
    except (ValueError, RecursionError):
        return None
    return row if whole else None


def head_of(row: Mapping[str, Any]) -> Head:
    """Return the part of a row that is noted elsewhere."""
    return Head(row["number"], row["seal"])


def proof(key: bytes, head: Head) -> str:
    """Return the proof that a head was written by a holder of the key."""
    return hmac.new(key, canonical(["head", *head]).encode(), hashlib.sha256).hexdigest()


def torn_note(lines: Sequence[bytes]) -> str:
    """Return the note by which a row covers the lines before it that a kill cut short."""
    return "torn:" + hashlib.sha256(b"\n".join(lines)).hexdigest() if lines else ""


def without_words(row: Row) -> Row:
    """Return a row without its reason and details; its seal and its place in the chain stay."""
    return {**row, "salt": None, "words": None}


def check(key: bytes, lines: Sequence[bytes], said: Head | None) -> VerifiedChain:
    """Check every line, the chain, and that it ends at the head `said` (None: there is no trustworthy head).

    The last of `lines` is what follows the last line break: empty, unless a kill cut a row short.
    """
    rows, torn, problem = _read(key, lines, said)
    last = head_of(rows[-1]) if rows else START
    problem = problem or _wrong_end(last, said) or _wrongly_withheld(rows)
    return VerifiedChain(len(rows), last, sum(row["words"] is None for row in rows), torn, problem)


def _seal(key: bytes, row: Mapping[str, Any]) -> str:
    fields = canonical([row[name] for name in _SEALED])
    return hmac.new(key, fields.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _digest(salt: str, words: Any) -> str:
    return hashlib.sha256(f"{salt}\x1f{canonical(words)}".encode("utf-8", "surrogatepass")).hexdigest()


def _read(key: bytes, lines: Sequence[bytes], said: Head | None) -> tuple[list[Row], int, str | None]:
    """Return the rows up to the first that is not as written, how many lines a kill cut, and the problem."""
    rows: list[Row] = []
    last, torn = START, 0
    unreadable: list[bytes] = []
    for position, line in enumerate(lines, 1):
        row = parsed(line)
        if row is None:
            if not line and position == len(lines) and not unreadable:
                break
            unreadable.append(line)
            continue
        problem = _wrong(key, row, last)
        if problem and unreadable and row["number"] > last.number + 1:
            problem = f"row {last.number + 1}: it cannot be read: it was changed"
        if problem is None and row["note"] != torn_note(unreadable):
            problem = f"row {row['number']}: what stands before it cannot be read: it was changed or put in"
        if problem:
            return rows, torn, problem
        torn += len(unreadable)
        last, unreadable = head_of(row), []
        rows.append(row)
    if unreadable and (not unreadable[-1] or said is None or said.number > last.number):
        return rows, torn, f"row {last.number + 1}: what stands there cannot be read: it was cut, changed or put in"
    return rows, torn + len(unreadable), None


def _wrong(key: bytes, row: Row, last: Head) -> str | None:
    number, due = row["number"], last.number + 1
    if number > due:
        return f"row {due}: " + ("it is missing" if number == due + 1 else f"rows {due} to {number - 1} are missing")
    if number != due or row["previous"] != last.seal:
        return f"row {due}: row {number} stands there and does not continue row {last.number}"
    if not hmac.compare_digest(str(row["seal"]), _seal(key, row)):
        return f"row {number}: it was changed (its seal does not fit)"
    if row["words"] is not None and row["digest"] != _digest(str(row["salt"]), row["words"]):
        return f"row {number}: its reason or details were changed"
    if row["note"] == GONE:
        return f"row {number}: before it the log, or what says where it ended, was removed: rows may be missing"
    return None


def _wrong_end(last: Head, said: Head | None) -> str | None:
    if said is None:
        return f"row {last.number + 1}: what says where the log ends is gone or was changed: rows may be missing"
    if said.number > last.number:
        return f"row {last.number + 1}: the log ends at row {last.number}, but there were {said.number} rows"
    # A kill after a row and before its head leaves the head one behind.
    if said.number < last.number - 1 or (said.number == last.number and said.seal != last.seal):
        return f"row {last.number}: it does not fit what says where the log ends, row {said.number}"
    return None


def _wrongly_withheld(rows: Sequence[Row]) -> str | None:
    announced = {part for row in rows if row["action"] == WITHHELD for part in str(row["subject"]).split(",")}
    for row in rows:
        if row["words"] is None and str(row["number"]) not in announced:
            return f"row {row['number']}: its reason and details were taken out, and by no erasure"
    return None
