"""Run the gate on two files of outcomes: one row per prompt with `id`, `cluster` and `outcome` (1 failure, 0 none, null unscored).

Malformed files raise `InputError`: an empty file, a line that is no object, a missing key, a repeated id, any other outcome, or one id
in two clusters. Weak evidence is accepted, but releases nothing:

- Ids that only one file has, and null outcomes, count as missing.
- A row that does not match its own `digest` was edited. A row without a digest among sealed rows has lost it.
- Rows of another release than the file's first row do not belong there. A file that lost or gained rows is not what was written.
- Rows are stale if prompt, suite, scorer, a version or a setting of them differs between the files.
- Either both files are sealed or neither: an unsealed file is no evidence against a sealed one. Two unsealed files are compared as such.

Other keys are ignored.

Effects: reads the two files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.errors import InputError
from alignment.evals.gate import decide
from alignment.evals.rules import Rule
from alignment.evals.seals import DIGEST, fits
from alignment.evals.statistics import Kind
from alignment.records import Answer, GateDecision, SuitePrompt
from alignment.sections import Gate

MADE_WITH = ("prompt", "suite", "suite_version", "scorer", "scorer_version", "max_new_tokens", "thinking_tokens")
"""Keys that must agree between the files. Where both rows are sealed, a key that only one row has counts as a difference."""
_SUITE = "outcomes"
_UNSEALED = "the row has no seal, unlike those of the other file"
_SHOWN = 20
Rows = dict[str, dict[str, Any]]


def read_outcomes(path: Path) -> Rows:
    """Return the rows of a results file by id.

    Raises:
        InputError: the file cannot be read, or has wrong rows; the first twenty are named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}; give a .jsonl file with a row a prompt") from error
    rows: Rows = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = _row(line)
        if isinstance(found, str):
            problems.append(f"line {number}: {found}")
        elif found["id"] in rows:
            problems.append(f"line {number}: id {found['id']!r} was there before")
        else:
            rows[found["id"]] = found
    if problems or not rows:
        listed = "\n".join(f"  - {one}" for one in problems[:_SHOWN]) or "  - it has no rows"
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(f"{str(path)!r} cannot be compared (each line needs id, cluster, and outcome 0, 1 or null):\n{listed}{more}")
    return {name: {**row, "flaw": _flaw(row, rows)} for name, row in rows.items()} if is_sealed(rows) else rows


def is_sealed(rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a file is sealed: one sealed row is enough, and then all must be."""
    return any(DIGEST in row for row in rows.values())


def _flaw(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what is wrong with a row of a sealed file; the first row names the release, and each row the number of rows."""
    if DIGEST not in row:
        return "the row has no seal, unlike others of its file"
    if row["flaw"]:
        return str(row["flaw"])
    if row.get("release") != next(iter(rows.values())).get("release"):
        return "the row is of another release than the first of its file"
    # Files from before 2026-11-28 do not record their number of rows.
    return None if row.get("rows", len(rows)) == len(rows) else f"the row was sealed as one of {row['rows']}, the file has {len(rows)}"


def _row(line: str) -> dict[str, Any] | str:
    """Return a row with id and cluster as text, or what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"no JSON ({error})"
    if not isinstance(row, dict):
        return "no object"
    if missing := [key for key in ("id", "cluster", "outcome") if key not in row]:
        return f"{', '.join(map(repr, missing))} missing"
    for key in ("id", "cluster"):
        if isinstance(row[key], bool) or not isinstance(row[key], str | int) or row[key] == "":
            return f"{key} = {row[key]!r}; a text or a whole number is needed"
    outcome = row["outcome"]
    if isinstance(outcome, bool) or not (outcome is None or outcome in (0, 1)):
        return f"outcome = {outcome!r}; 0, 1 or null is needed"
    flaw = None if fits(row) else "the row was edited after it was sealed (its digest does not fit)"
    return {**row, "id": str(row["id"]), "cluster": str(row["cluster"]), "flaw": flaw}


def compare(old: Rows, new: Rows, *, kind: Kind, margin: float, confidence: float, max_unscored: float) -> GateDecision:
    """Return the gate's decision on the champion's and the challenger's outcomes under one rule.

    Raises:
        InputError: an id is in different clusters in the two files.
    """
    moved = sorted(name for name in old.keys() & new.keys() if old[name]["cluster"] != new[name]["cluster"])
    if moved:
        raise InputError(
            f"{len(moved)} ids are in another cluster in each file, such as {moved[0]!r} ({old[moved[0]]['cluster']!r} and "
            f"{new[moved[0]]['cluster']!r}); both files must be about the same prompts"
        )
    if is_sealed(old) != is_sealed(new):
        old, new = _stripped(old), _stripped(new)
    answers = {"champion": _answers("champion", old), "challenger": _answers("challenger", new)}
    answers["challenger"] = [
        replace(one, flaw=one.flaw or _stale(old.get(one.prompt.id), new[one.prompt.id])) for one in answers["challenger"]
    ]
    settings = Gate(confidence=confidence, max_unscored=max_unscored)
    rule = Rule("failures", _SUITE, kind, margin)
    return decide("champion", "challenger", answers, {_SUITE: len(old.keys() | new.keys())}, settings, asked=[rule])


def _stripped(rows: Rows) -> Rows:
    return {name: row if DIGEST in row else {**row, "flaw": row["flaw"] or _UNSEALED} for name, row in rows.items()}


def _answers(model: str, rows: Mapping[str, Mapping[str, Any]]) -> Sequence[Answer]:
    return [
        Answer(
            SuitePrompt(name, _SUITE, "", row["cluster"], ""),
            model,
            "",
            {},
            None if row["outcome"] is None else int(row["outcome"]),
            row["flaw"],
        )
        for name, row in rows.items()
    ]


def _stale(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str | None:
    if old is None:
        return None
    both_sealed = DIGEST in old and DIGEST in new
    differ = [key for key in MADE_WITH if old.get(key) != new.get(key) and (both_sealed or (key in old and key in new))]
    return f"stale: {differ[0]} differs between the files" if differ else None
