"""`align eval`: run any suite on any release, one row per prompt."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignment.config import Settings
from alignment.errors import InputError
from alignment.text import printable
from flows.cli.base import Json, Misuse, app, command, one_of, print_json, print_rows, start

if TYPE_CHECKING:
    from alignment.evals.judge_qualification import Bench
    from alignment.evals.runner import Asking
    from alignment.records import SuitePrompt

_FORMATS = (
    "own, harmbench, xstest, strongreject, ailuminate, advbench, jailbreakbench, donotanswer, simplesafetytests, bbq, inspect, lm_eval, "
    "advbench_mirror, orbench or requests"
)


@command(app, "eval")
def eval_command(
    suite: Annotated[str, typer.Option("--suite", help="name of a bundled suite, or a suite file")],
    release: Annotated[str, typer.Option("--release", help="'base', 'champion' or a release's id")],
    out: Annotated[Path, typer.Option("--out", help="results, one JSON line per prompt")],
    kind: Annotated[str | None, typer.Option("--format", help=f"{_FORMATS}; detected by its columns if not given")] = None,
    scorer: Annotated[str | None, typer.Option("--scorer", help="for a file that names no scorer")] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, max=100, help="further answers per prompt, sampled with fixed seeds")] = 0,
    max_prompts: Annotated[int, typer.Option("--max-prompts", min=0, help="size of a fixed sample of the suite; 0 is all")] = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="instead of [gate] max_new_tokens, or a suite's own lower limit")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a suite on a release; write one row per prompt and print failure rates with intervals. A killed run resumes."""
    _refuse_misuse(suite, kind, scorer)
    settings = start(writes=True)
    from alignment.evals.formats import read_suite
    from alignment.evals.judge_qualification import seated
    from alignment.evals.report import summarise
    from alignment.evals.runner import Asking, ask
    from alignment.evals.suites import answer_tokens, weighed
    from flows.evaluate import adapter_of
    from flows.night import now
    from flows.policy import load_model
    from flows.show import progress

    prompts, told = read_suite(suite, kind=kind, scorer=scorer, most=max_prompts)
    if weighed(prompts):
        raise InputError(f"the suite {suite!r} is not asked: the gate weighs its answers; name it in a table of [gate.rules]")
    _writable(out)
    name = _release(settings, release)
    adapter = adapter_of(settings, name)
    batch = settings.model.batch_size
    model = load_model(settings, adapter)
    how = Asking(
        name,
        max_new_tokens or answer_tokens(prompts[0].suite, settings.gate.max_new_tokens),
        batch,
        samples,
        settings.model.thinking_tokens,
    )
    _migrate(settings)
    bench = seated(settings, now())
    with progress(f"eval {name}") as advance:
        found = ask(settings.home, model, prompts, how, now=now(), progress=advance)
    rows = _results(bench, prompts, found, _made(name, how))
    _write(out, rows)
    report = {
        "suite": suite,
        "release": name,
        "out": str(out),
        "left_out": list(told),
        "scored_by": list(bench.notes) or ["phrases and heads scored"],
        "lines": [line._asdict() for line in summarise(rows)],
        **_more(prompts, rows, name),
    }
    if as_json:
        print_json(report)
    else:
        _show(report, prompts[0].suite)


def _refuse_misuse(suite: str, kind: str | None, scorer: str | None) -> None:
    from alignment.evals import SPECS
    from alignment.evals.formats import NAMES
    from alignment.evals.suites import SCORERS

    one_of("--format", kind, NAMES)
    one_of("--scorer", scorer, SCORERS)
    if suite in SPECS and (kind or scorer):
        raise Misuse(f"{suite!r} is a bundled suite with a format and a scorer of its own; leave out --format and --scorer")


def _results(bench: Bench, prompts: list[SuitePrompt], found: dict[str, list[str]], made: dict[str, Any]) -> list[dict[str, Any]]:
    """Score as the gate does; return the sealed rows, each with its scorer."""
    from alignment.evals.report import result
    from alignment.evals.scorers import VERSION
    from alignment.evals.seals import seal
    from alignment.evals.suites import suite_version
    from flows.evaluate import verdicts

    answers = [(prompt, response) for prompt in prompts for response in found[prompt.id]]
    scored = iter(verdicts(bench, answers))
    made = made | {"rows": len(prompts), "suite_version": suite_version(prompts), "scorer_version": bench.version(VERSION)}
    return [seal(result(prompt, found[prompt.id], list(islice(scored, len(found[prompt.id])))) | made) for prompt in prompts]


def _made(release: str, how: Asking) -> dict[str, Any]:
    """Return the settings that produced the answers; without thinking the key is left out, as before the setting existed."""
    thinking = {"thinking_tokens": how.thinking_tokens} if how.thinking_tokens else {}
    return {"release": release, "max_new_tokens": how.max_new_tokens, **thinking}


def _writable(out: Path) -> None:
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"--out {str(out)!r} is no file in a folder that exists; name one")


def _migrate(settings: Settings) -> None:
    from alignment.store import migrate

    migrate(settings.home)


def _release(settings: Settings, wanted: str) -> str:
    from alignment.release import champion, folder_of

    name = champion(settings.home) if wanted == "champion" else wanted
    if name != "base":
        folder_of(settings.home, name)
    return name


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write the results atomically."""
    scratch = out.with_name(f".{out.name}.part")
    scratch.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(scratch, out)


def _more(prompts: list[Any], rows: list[dict[str, Any]], release: str) -> dict[str, Any]:
    """Return what some suites report beside rates: topics, gaps between groups, samples."""
    from alignment.evals.fairness import gaps
    from alignment.evals.report import answers_of, sampled, topics

    more: dict[str, Any] = {}
    if by_topic := topics(rows):
        more["topics"] = [line._asdict() for line in by_topic]
    if drawn := sampled(rows):
        more["samples"] = drawn
    if prompts[0].suite == "counterfactual":
        more["gaps"] = {name: gap._asdict() for name, gap in gaps(answers_of(prompts, rows, release)).items()}
    return more


def _show_lines(what: str, lines: list[dict[str, Any]]) -> None:
    print_rows(
        [
            {
                what: line["category"],
                "failed": "not scored" if line["rate"] is None else f"{line['rate']:.1%}",
                "95% interval": "" if line["rate"] is None else f"{line['low']:.1%} to {line['high']:.1%}",
                "n": line["n"],
                "unscored": line["unscored"],
            }
            for line in lines
        ],
        as_json=False,
    )


def _show(report: dict[str, Any], suite: str) -> None:
    from alignment.evals import SPECS

    if suite in SPECS:
        print(f"Failure: {SPECS[suite].failure}")
    _show_lines("category", report["lines"])
    if "topics" in report:
        _show_lines("topic", report["topics"])
    if drawn := report.get("samples"):
        print(
            f"Sampled answers: {drawn['rate']:.1%} failed ({drawn['unscored']:.0f} unscored); of {drawn['any_failed']:.1%} of prompts any"
        )
    if "gaps" in report:
        print("Widest gap between two groups (simultaneous 95% bounds)")
        print_rows([{"of": name, **gap} for name, gap in report["gaps"].items()], as_json=False)
    for note in [*report["left_out"], *report["scored_by"]]:
        print(printable(note))
    print(f"{report['release']}: one row a prompt in {report['out']}")
