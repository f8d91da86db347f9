"""Read public suites from the user's own files, recognised by their columns. Nothing is downloaded, and none of their data ships.

Rows that cannot be asked or scored are left out and named; a file without any usable row is refused.

Effects: reads the named file.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from alignment.csv_rows import read_csv
from alignment.errors import ConfigError
from alignment.evals.logs import has_system
from alignment.evals.public import FORMATS, NATIVE, TOLD_ONLY
from alignment.evals.rows import Row, fold, folded
from alignment.evals.suites import SCORERS, SPECS, checked, load_suite, read_rows, sample
from alignment.ids import content_id, short
from alignment.records import SuitePrompt

_MOST_BYTES, _LISTED, _LOOKED_AT = 512 * 2**20, 20, 50
OWN = "own"
NAMES = (OWN, *FORMATS)
_FALLBACKS = ("advbench_mirror", "requests")
"""Formats with few columns, which apply only if no other format fits."""


class Suite(NamedTuple):
    """The prompts of a file, and messages about rows that are left out and parts of other rows that are not asked."""

    prompts: list[SuitePrompt]
    told: tuple[str, ...] = ()


def open_suite(name: str, *, kind: str | None = None, scorer: str | None = None, most: int = 0) -> list[SuitePrompt]:
    """Return the prompts of `read_suite`, and log its messages."""
    found = read_suite(name, kind=kind, scorer=scorer, most=most)
    for line in found.told:
        logging.getLogger(__name__).warning("%s: %s", name, line)
    return found.prompts


def read_suite(name: str, *, kind: str | None = None, scorer: str | None = None, most: int = 0) -> Suite:
    """Return the prompts of a bundled suite, or of a file in the project's own or a public suite's format; each names its scorer.

    `kind` is a name in `NAMES`, or None to detect the format by the file's columns; `scorer` is the default where the file names none.

    Raises:
        ConfigError: there is no such suite or scorer, the format is unknown, no row can be asked, a row in the project's own format is
            wrong, or nothing says how to score.
        InputError: a CSV file has a wrong header or wrong quote marks.
    """
    if scorer is not None and scorer not in SCORERS:
        raise ConfigError(f"no scorer {scorer!r}; known are {', '.join(SCORERS)}")
    if name in SPECS:
        if kind or scorer:
            raise ConfigError(f"{name!r} is a bundled suite with a format and a scorer of its own; leave out --format and --scorer")
        return Suite(load_suite(name, most))
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"no suite {name!r}; known are {', '.join(SPECS)}, or the path of a file ({', '.join(NAMES)})")
    if path.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"{name!r} is larger than {_MOST_BYTES >> 20} MiB, which no suite is")
    found = _scored(_parsed(path, kind), scorer)
    return found._replace(prompts=sample(found.prompts, most))


def _scored(found: Suite, scorer: str | None) -> Suite:
    mine = [prompt if prompt.scorer or not scorer else replace(prompt, scorer=scorer) for prompt in found.prompts]
    named = [prompt for prompt in mine if prompt.scorer]
    if not (unnamed := [prompt.id for prompt in mine if not prompt.scorer]):
        return found._replace(prompts=named)
    how = f"give --scorer, or 'scorer' in each row, one of {', '.join(SCORERS)}"
    problem = f"nothing says how to score {len(unnamed)} prompts (the first is {unnamed[0]!r})"
    # In the project's own format either every row names its scorer, or none does.
    if not named or all(prompt.suite not in FORMATS for prompt in mine):
        raise ConfigError(f"{problem}; {how}")
    return Suite(named, (*found.told, f"{problem}, which are left out; {how}"))


def _parsed(path: Path, kind: str | None) -> Suite:
    if kind == OWN:
        return Suite(read_rows(path))
    rows = _rows(path)
    if kind is None and {"id", "prompt", "cluster", "category"} <= next((row.keys() for row in rows if not isinstance(row, str)), set()):
        return Suite(read_rows(path))
    if rows and all(isinstance(row, str) for row in rows):
        checked([], [f"row {number}: {row}" for number, row in enumerate(rows, start=1)], f"{str(path)!r} has no row that can be read")
    name = kind or _recognise(path, rows)
    if name not in FORMATS:
        raise ConfigError(f"no format {name!r}; known are {', '.join(NAMES)}")
    prompts, problems, without = [], [], []
    file = fold(path.stem)
    for number, row in enumerate(rows, start=1):
        try:
            if isinstance(row, str):
                raise ValueError(row)
            prompt = FORMATS[name].read(row if name in NATIVE else folded(row), number, file)
            if not prompt.prompt.strip():
                problems.append(f"row {number}: the prompt is empty")
                continue
            prompts.append(prompt)
            without += [number] * (name == "inspect" and has_system(row))
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            problems.append(f"row {number}: {type(error).__name__}: {error}")
    # One bad row is no reason to ask nothing.
    checked(prompts, () if prompts else problems, f"{str(path)!r} is not a {name} file as it is known")
    return Suite(_told_apart(prompts), tuple(_told(problems, without)))


def _told(problems: Sequence[str], without: Sequence[int]) -> Iterator[str]:
    if problems:
        yield f"{len(problems)} rows are left out"
        yield from problems[:_LISTED]
        if len(problems) > _LISTED:
            yield f"and {len(problems) - _LISTED} rows more"
    if without:
        yield f"{len(without)} samples have a system message, which is not asked; the first is row {without[0]}"


def _told_apart(prompts: list[SuitePrompt]) -> list[SuitePrompt]:
    """Deduplicate ids (an Inspect log has one sample per epoch): a repeated prompt counts once, a different prompt gets a new id."""
    seen: dict[str, SuitePrompt] = {}
    for prompt in prompts:
        known = seen.get(prompt.id)
        if known is None:
            seen[prompt.id] = prompt
        elif known != prompt:
            other = replace(prompt, id=f"{prompt.id}-{short(content_id(prompt.prompt, prompt.right))}")
            seen[other.id] = other
    return list(seen.values())


def _recognise(path: Path, rows: Sequence[Row | str]) -> str:
    """Return the format that fits most columns of the first rows."""
    keys = {fold(key) for row in rows[:_LOOKED_AT] if not isinstance(row, str) for key in row}
    fitting = [name for name, form in FORMATS.items() if form.keys <= keys and name not in TOLD_ONLY]
    fitting = [name for name in fitting if name not in _FALLBACKS] or fitting[:1]
    fitting.sort(key=lambda name: -len(FORMATS[name].keys))
    if not fitting or (len(fitting) > 1 and not FORMATS[fitting[0]].keys > FORMATS[fitting[1]].keys):
        columns = ", ".join(sorted({str(key) for row in rows[:_LOOKED_AT] if not isinstance(row, str) for key in row})[:20]) or "none"
        raise ConfigError(f"{str(path)!r} is in no format that is known (it has: {columns}); give --format, one of {', '.join(NAMES)}")
    return fitting[0]


def _rows(path: Path) -> list[Row | str]:
    """Return the rows of a CSV, Parquet or JSON file, or the samples of an Inspect log; a string says why a row is unusable."""
    try:
        with path.open("rb") as start:
            magic = start.read(4)
        if magic == b"PK\x03\x04":
            raise ConfigError(
                f"{str(path)!r} is a zip archive, as Inspect's .eval logs are; run 'inspect log convert --to json --output-dir DIR "
                f"{path.name}' and give the .json file"
            )
        if magic == b"PAR1":
            import pyarrow.parquet as pq

            return list(pq.read_table(path).to_pylist())
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the suite {str(path)!r}: {error}") from error
    if text.lstrip()[:1] not in ("{", "["):
        return _csv_rows(path, text)
    try:
        whole = json.loads(text)
        found = whole["samples"] if isinstance(whole, dict) and "samples" in whole else [whole] if isinstance(whole, dict) else whole
    except (ValueError, RecursionError):
        found = _lines(text)
    if not isinstance(found, list) or not any(isinstance(row, dict) for row in found):
        raise ConfigError(f"{str(path)!r} holds no list of samples; an Inspect log needs them (export it as .json, not header-only)")
    return [_object(row) for row in found]


def _object(row: Any) -> Row | str:
    if isinstance(row, dict | ValueError):
        return row if isinstance(row, dict) else f"no JSON ({row})"
    return f"a JSON {type(row).__name__} where an object is needed"


def _csv_rows(path: Path, text: str) -> list[Row | str]:
    odd = "it has more or fewer cells than the header; a text with a comma stands between quote marks"
    return [
        f"{odd} (line {row.line})" if row.values is None else row.values
        for row in read_csv(io.StringIO(text, newline=""), name=str(path), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    ]


def _lines(text: str) -> list[Any]:
    """Return the JSON value of each line, or the error from parsing it."""
    rows: list[Any] = []
    for line in text.split("\n"):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except RecursionError:
                rows.append(ValueError("nested too deeply"))
            except ValueError as error:
                rows.append(error)
    return rows
