"""Versioned suites of held-out prompts, written for this project."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from alignment.errors import ConfigError
from alignment.ids import content_id, unit_interval
from alignment.records import SuitePrompt

SUITES = ("harm", "lookalike", "ordinary")
_FIELDS = ("id", "prompt", "cluster", "category")


def load_suite(name: str, most: int = 0) -> list[SuitePrompt]:
    """Read a bundled suite by name, or a `.jsonl` file by path; with `most`, a sample of that size that is always the same.

    Raises:
        ConfigError: there is no such suite, or lines of it are wrong; all are named.
    """
    path = Path(str(files("alignment.evals") / "suites" / f"{name}.jsonl")) if name in SUITES else Path(name)
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"no suite {name!r}: known are {', '.join(SUITES)}, or the path of a .jsonl file") from error
    prompts, problems = [], []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            values = [str(row[field]) for field in _FIELDS]
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"line {number}: {error!r}")
            continue
        if values[0] in seen:
            problems.append(f"line {number}: id {values[0]!r} repeats")
        seen.add(values[0])
        prompts.append(SuitePrompt(values[0], path.stem, *values[1:]))
    if problems or not prompts:
        listed = "\n".join(f"  - {problem}" for problem in problems[:20]) or "  - it is empty"
        raise ConfigError(f"the suite {str(path)!r} is wrong (each line needs {', '.join(_FIELDS)}):\n{listed}")
    if 0 < most < len(prompts):
        prompts = sorted(prompts, key=lambda prompt: unit_interval("suite", prompt.id))[:most]
    return prompts


def suite_version(prompts: list[SuitePrompt]) -> str:
    """Return the content address of a suite."""
    return content_id([(p.id, p.prompt, p.cluster, p.category) for p in prompts])[:12]
