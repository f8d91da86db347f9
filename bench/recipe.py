"""Measure a training recipe on prompts that neither training nor the gate's suites contain: the detectors' own examples.

Choosing a recipe by the gate's suites would make the gate's rates optimistic. So try one like this:

    export ALIGN_HOME=/tmp/recipe ALIGN_TRAIN__LEARNING_RATE=5e-4
    align ingest && align curate && align train && python bench/recipe.py

Prints, for each kind of prompt, the failure rate of the base model and of the newest run with a paired interval (one-sided 95% each).

Effects: loads the base model and the newest adapter under `<home>/training`.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path

from alignment.config import Settings, load_settings
from alignment.evals.scorers import score_answer
from alignment.evals.statistics import count, difference
from alignment.ids import unit_interval
from alignment.models.local import LocalModel
from alignment.models.whole import trained
from alignment.records import SuitePrompt
from alignment.text import similar
from alignment.train.job import PAIRS, RESULT
from flows.environment import prepare
from flows.night import base_path

KINDS = ("harm", "lookalike", "ordinary")
"""Kinds of prompts that the bundled traffic has, which are the names of the suites that judge them."""

NEAR = 0.6


def development(kind: str, most: int, taught: list[str]) -> list[SuitePrompt]:
    """Return `most` examples of a kind, always the same, none near a prompt that was trained on."""
    lines = (files("alignment.moderation") / "data" / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["label"] == kind]
    near = {i for i, _, _ in similar([row["text"] for row in rows], taught, NEAR)}
    kept = [row for number, row in enumerate(rows) if number not in near]
    kept.sort(key=lambda row: unit_interval("development", row["text"]))
    return [SuitePrompt(row["text"], kind, row["text"], row["text"], row["category"]) for row in kept[:most]]


def outcomes(settings: Settings, adapter: Path | None, prompts: list[SuitePrompt]) -> list[int]:
    """Return 1 for each answer that fails its kind, as the gate would say."""
    model = LocalModel(
        base_path(settings), adapter=adapter, batch_size=settings.model.batch_size, thinking_tokens=settings.model.thinking_tokens
    )
    answers = model.generate([one.conversation for one in prompts], max_new_tokens=settings.gate.max_new_tokens)
    return [score_answer(one, answer)[1] or 0 for one, answer in zip(prompts, answers, strict=True)]


def main() -> None:
    """Print one line a kind of prompt."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=200, help="of each kind (default 200)")
    most = parser.parse_args().prompts
    settings = load_settings()
    prepare(settings.home)
    runs = sorted((settings.home / "training").glob(f"*/{RESULT}"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise SystemExit(f"error: no finished run under {str(settings.home / 'training')!r}; run 'align train' first")
    run = runs[-1].parent
    taught = [json.loads(line)["messages"][-1]["content"] for line in (run / PAIRS).read_text(encoding="utf-8").split("\n") if line]
    prompts = [one for kind in KINDS for one in development(kind, most, taught)]
    champion, challenger = outcomes(settings, None, prompts), outcomes(settings, trained(run), prompts)
    result = json.loads((run / RESULT).read_text(encoding="utf-8"))
    print(f"run {run.name}: {result['pairs']} pairs, {result['steps']} steps, {result['seconds']:.0f} s")
    for kind in KINDS:
        at = [number for number, one in enumerate(prompts) if one.suite == kind]
        old, new = [champion[number] for number in at], [challenger[number] for number in at]
        change, low, high = difference(count(old, new), settings.gate.confidence)
        print(f"{kind:10} {sum(old) / len(at):6.1%} -> {sum(new) / len(at):6.1%}  {change:+6.1%} [{low:+.1%}, {high:+.1%}]  n = {len(at)}")


if __name__ == "__main__":
    main()
