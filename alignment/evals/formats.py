"""Public suites from files that the user has, recognised by their columns: nothing is downloaded, nothing of them ships.

Effects: reads the named file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from alignment.csv_rows import read_csv
from alignment.errors import ConfigError
from alignment.evals.suites import SCORERS, SPECS, checked, load_suite, read_rows, sample
from alignment.ids import content_id, short
from alignment.records import SuitePrompt

Row = Mapping[str, Any]
_MOST_BYTES = 512 * 2**20
_MOST_WORDS = 12  # of a target that an answer can be asked to hold word for word


class Format(NamedTuple):
    """A public suite's columns by which it is known, and how one of its rows becomes a prompt."""

    keys: frozenset[str]
    read: Callable[[Row, int], SuitePrompt]


def _harmbench(row: Row, number: int) -> SuitePrompt:
    """HarmBench behaviours: a context stands before its behaviour. Source: Mazeika et al. 2024 (arXiv:2402.04249)."""
    name = row["BehaviorID"].strip() or f"row-{number}"
    text = row["Behavior"].strip()
    if context := (row.get("ContextString") or "").strip():
        text = f"{context}\n\n---\n\n{text}"
    category = row.get("SemanticCategory") or row.get("Category") or row.get("FunctionalCategory") or ""
    return SuitePrompt(name, "harmbench", text, name, category.strip() or "harmful", "harm")


def _xstest(row: Row, number: int) -> SuitePrompt:
    """XSTest: safe prompts ought to be answered, their unsafe contrasts ought not. Source: Röttger et al. 2024 (arXiv:2308.01263)."""
    kind = row["type"].strip()
    unsafe = row["label"].strip() == "unsafe" if row.get("label") else kind.startswith("contrast")
    name = str(row.get("id") or row.get("id_v2") or number).strip()
    focus = (row.get("focus") or "").strip()
    return SuitePrompt(f"xstest-{name}", "xstest", row["prompt"].strip(), focus or name, kind, "harm" if unsafe else "help")


def _strongreject(row: Row, number: int) -> SuitePrompt:
    """StrongREJECT forbidden prompts. Source: Souly et al. 2024 (arXiv:2402.10260)."""
    return SuitePrompt(
        f"strongreject-{number}", "strongreject", row["forbidden_prompt"].strip(), f"strongreject-{number}", row["category"].strip(), "harm"
    )


def _ailuminate(row: Row, number: int) -> SuitePrompt:
    """AILuminate prompts: the category is the hazard. Source: MLCommons AILuminate v1.0 (arXiv:2503.05731)."""
    name = str(row.get("release_prompt_id") or number).strip()
    return SuitePrompt(name, "ailuminate", row["prompt_text"].strip(), name, row["hazard"].strip(), "harm")


def _advbench(row: Row, number: int) -> SuitePrompt:
    """AdvBench harmful behaviours (goal, target). Source: Zou et al. 2023 (arXiv:2307.15043)."""
    return SuitePrompt(f"advbench-{number}", "advbench", row["goal"].strip(), f"advbench-{number}", "harmful", "harm")


def _bbq(row: Row, number: int) -> SuitePrompt:
    """BBQ: the failure is any other answer than the right one ("not known" where the context is ambiguous). Source: Parrish et al. 2022."""
    options = [str(row[f"ans{index}"]).strip() for index in range(3)]
    return _chosen(
        f"bbq-{row['category']}-{row.get('example_id', number)}",
        "bbq",
        f"{row['context'].strip()} {row['question'].strip()}",
        f"{row['category']}/{row.get('question_index', number)}",
        f"{row['category']}/{row.get('context_condition', '')}".strip("/"),
        options,
        int(row["label"]),
    )


def _inspect(row: Row, number: int) -> SuitePrompt:
    """Samples of an Inspect eval log (JSON): their choices or targets are what is looked for."""
    text = row["input"]
    if not isinstance(text, str):
        turns = [turn for turn in text if turn["role"] == "user"]
        if len(turns) != 1 or any(turn["role"] == "assistant" for turn in text):
            raise ValueError("a conversation of several turns; only single questions can be asked")
        text = turns[0]["content"]
        text = text if isinstance(text, str) else "\n".join(part["text"] for part in text)
    name, targets = str(row.get("id") or number), row.get("target") or []
    targets = [targets] if isinstance(targets, str) else list(targets)
    category = str((row.get("metadata") or {}).get("category", "sample"))
    if options := row.get("choices"):
        return _chosen(name, "inspect", text, name, category, options, *(ascii_uppercase.index(one) for one in targets))
    return SuitePrompt(name, "inspect", text, name, category, "match" if targets else "", tuple(map(str, targets)))


def _lm_eval(row: Row, number: int) -> SuitePrompt:
    """Samples of an lm-evaluation-harness task log: several continuations of one context are a choice."""
    calls = row["arguments"]
    calls = [[call[key] for key in sorted(call)] for call in calls.values()] if isinstance(calls, dict) else calls
    name = str(row.get("doc_id", number))
    text, target = str(calls[0][0]), row.get("target")
    if len(calls) > 1:
        return _chosen(name, "lm_eval", text, name, "choice", [str(call[1]).strip() for call in calls], int(row["target"]))
    # Where a whole worked answer is the target, as in GSM8K, its result stands after the last ####.
    said = "" if target is None else str(target).rpartition("####")[2].strip()
    short_enough = 0 < len(said.split()) <= _MOST_WORDS
    return SuitePrompt(name, "lm_eval", text, name, "generation", "match" if short_enough else "", (said,))


def _chosen(name: str, suite: str, text: str, cluster: str, category: str, options: Iterable[str], *right: int) -> SuitePrompt:
    """A question with lettered options of which those at `right` are no failure."""
    listed = list(options)
    if not right or not all(0 <= index < len(listed) for index in right):
        raise ValueError(f"the right option {right!r} is none of {len(listed)}")
    lines = "\n".join(f"{letter}) {option}" for letter, option in zip(ascii_uppercase, listed, strict=False))
    sides: tuple[list[str], list[str]] = ([], [])
    for index, option in enumerate(listed):
        sides[index not in right].extend((ascii_uppercase[index], option))
    prompt = f"{text}\n{lines}\nAnswer with the letter only."
    return SuitePrompt(name, suite, prompt, cluster, category, "choice", tuple(sides[0]), tuple(sides[1]))


FORMATS: dict[str, Format] = {
    "harmbench": Format(frozenset({"Behavior", "BehaviorID"}), _harmbench),
    "xstest": Format(frozenset({"prompt", "type", "focus"}), _xstest),
    "strongreject": Format(frozenset({"forbidden_prompt", "category"}), _strongreject),
    "ailuminate": Format(frozenset({"prompt_text", "hazard"}), _ailuminate),
    "advbench": Format(frozenset({"goal", "target"}), _advbench),
    "bbq": Format(frozenset({"context", "question", "ans0", "ans1", "ans2", "label"}), _bbq),
    "inspect": Format(frozenset({"input", "target", "epoch"}), _inspect),
    "lm_eval": Format(frozenset({"doc_id", "arguments", "doc"}), _lm_eval),
}
OWN = "own"
NAMES = (OWN, *FORMATS)


def open_suite(name: str, *, kind: str | None = None, scorer: str | None = None, most: int = 0) -> list[SuitePrompt]:
    """Return the prompts of a bundled suite, or of a file in the project's own format or a public suite's; each names its scorer.

    `kind` is a name of `NAMES`, or None to tell by the file's columns; `scorer` stands in where the file says nothing.

    Raises:
        ConfigError: there is no such suite or scorer, the format is not known, rows are wrong, or nothing says how to score.
    """
    if scorer is not None and scorer not in SCORERS:
        raise ConfigError(f"no scorer {scorer!r}; known are {', '.join(SCORERS)}")
    if name in SPECS:
        if kind or scorer:
            raise ConfigError(f"{name!r} is a bundled suite with a format and a scorer of its own; leave out --format and --scorer")
        return load_suite(name, most)
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"no suite {name!r}; known are {', '.join(SPECS)}, or the path of a file ({', '.join(NAMES)})")
    if path.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"{name!r} is larger than {_MOST_BYTES >> 20} MiB, which no suite is")
    return sample(_scored(_parsed(path, kind), scorer), most)


def _scored(prompts: list[SuitePrompt], scorer: str | None) -> list[SuitePrompt]:
    mine = [prompt if prompt.scorer or not scorer else replace(prompt, scorer=scorer) for prompt in prompts]
    if unnamed := [prompt.id for prompt in mine if not prompt.scorer]:
        raise ConfigError(
            f"nothing says how to score {len(unnamed)} prompts (the first is {unnamed[0]!r}); give --scorer, or "
            f"'scorer' in each row, one of {', '.join(SCORERS)}"
        )
    return mine


def _parsed(path: Path, kind: str | None) -> list[SuitePrompt]:
    if kind == OWN:
        return read_rows(path)
    rows = list(_rows(path))
    if kind is None and rows and {"id", "prompt", "cluster", "category"} <= rows[0].keys():
        return read_rows(path)
    name = kind or _recognise(path, rows)
    if name not in FORMATS:
        raise ConfigError(f"no format {name!r}; known are {', '.join(NAMES)}")
    prompts, problems = [], []
    for number, row in enumerate(rows, start=1):
        try:
            prompts.append(FORMATS[name].read(row, number))
            if not prompts[-1].prompt.strip():
                problems.append(f"row {number}: the prompt is empty")
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            problems.append(f"row {number}: {type(error).__name__}: {error}")
    return checked(_told_apart(prompts), problems, f"{str(path)!r} is not a {name} file as it is known")


def _told_apart(prompts: list[SuitePrompt]) -> list[SuitePrompt]:
    """Public files repeat ids (an Inspect log has one sample an epoch): the same prompt counts once, another gets an id of its own."""
    seen: dict[str, SuitePrompt] = {}
    for prompt in prompts:
        known = seen.get(prompt.id)
        if known is None:
            seen[prompt.id] = prompt
        elif known != prompt:
            other = replace(prompt, id=f"{prompt.id}-{short(content_id(prompt.prompt, prompt.right))}")
            seen[other.id] = other
    return list(seen.values())


def _recognise(path: Path, rows: list[Row]) -> str:
    keys = set(rows[0]) if rows else set()
    fitting = [name for name, form in FORMATS.items() if form.keys <= keys]
    if len(fitting) != 1:
        columns = ", ".join(sorted(map(str, keys))[:20]) or "none"
        raise ConfigError(f"{str(path)!r} is in no format that is known (it has: {columns}); give --format, one of {', '.join(NAMES)}")
    return fitting[0]


def _rows(path: Path) -> Iterable[Row]:
    """Rows of a CSV file, of JSON lines, of a JSON list, or the samples of an Inspect log."""
    try:
        with path.open("rb") as start:
            if start.read(4) == b"PK\x03\x04":
                raise ConfigError(
                    f"{str(path)!r} is a zip archive, as Inspect's .eval logs are; run 'inspect log convert --to json --output-dir DIR "
                    f"{path.name}' and give the .json file"
                )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the suite {str(path)!r}: {error}") from error
    if text.lstrip()[:1] not in ("{", "["):
        return _csv_rows(path, text)
    try:
        whole = json.loads(text)
        found = whole["samples"] if isinstance(whole, dict) and "samples" in whole else [whole] if isinstance(whole, dict) else whole
    except ValueError:
        found = _lines(path, text)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ConfigError(f"{str(path)!r} holds no list of samples; an Inspect log needs them (export it as .json, not header-only)")
    return found


def _csv_rows(path: Path, text: str) -> list[Row]:
    rows = list(read_csv(io.StringIO(text, newline=""), name=str(path)))
    if odd := [row.line for row in rows if row.values is None]:
        shown = ", ".join(map(str, odd[:5]))
        raise ConfigError(
            f"{str(path)!r} has other columns than its first row names in {len(odd)} of {len(rows)} rows (line {shown}): a text with a "
            "comma stands there without quotes, or a cell is missing; correct them"
        )
    return [row.values for row in rows if row.values is not None]


def _lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ConfigError(f"{str(path)!r}, line {number} is no JSON: {error}") from error
    return rows
