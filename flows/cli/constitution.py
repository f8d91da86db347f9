"""The commands about the constitution: `align constitution check | diff | explain`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from alignment.errors import InputError
from alignment.text import cap, printable
from flows.cli.base import Json, app, command, out, print_json, print_rows, start

if TYPE_CHECKING:
    from alignment.config import Settings
    from alignment.labels import Constitution, Principle

BUNDLED = "bundled"
_SHOWN = 70
group = typer.Typer(no_args_is_help=True, help="The written constitution: check it, compare two files, see what a principle decides.")
app.add_typer(group, name="constitution")


def _path(settings: Settings, given: str | None) -> str:
    if given is None:
        return settings.labels.constitution
    return "" if given == BUNDLED else given


@command(group, "check")
def check_command(
    file: Annotated[str | None, typer.Argument(help="a constitution file, or 'bundled'; the one in force if not given")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="also score each principle's examples with its own detectors")] = False,
    as_json: Json = False,
) -> None:
    """Report every problem of a constitution at once, with line numbers. Exit status 1 if there is one; warnings do not count."""
    settings = start()
    from alignment.labels.check import constitution_text, read_constitution

    source, text = constitution_text(_path(settings, file))
    read = read_constitution(text)
    found = [{"line": one.line, "kind": "problem", "place": one.place, "message": one.message} for one in read.problems]
    if read.constitution is not None:
        found += _warnings(read.constitution, read.line_of, deep=deep)
    if as_json:
        print_json({"file": str(source), "findings": found})
    else:
        for row in found:
            kind = "warning: " if row["kind"] == "warning" else ""
            print(printable(f"{source}:{row['line']}: {kind}{row['place']}{': ' if row['place'] else ''}{row['message']}"))
        print(_conclusion(read.constitution, found, deep=deep))
    if read.constitution is None:
        raise typer.Exit(1)


def _warnings(constitution: Constitution, line_of: Any, *, deep: bool) -> list[dict[str, Any]]:
    from alignment.labels.check import doubtful_examples, never_deciding, uncovered

    doubts = [*never_deciding(constitution), *uncovered(constitution)]
    if deep:
        from alignment.moderation import score_answers
        from flows.night import embedder

        doubts += doubtful_examples(constitution, lambda prompts, answers: score_answers(prompts, answers, embedder=embedder()))
    rows = [{"line": line_of(place), "kind": "warning", "place": ".".join(map(str, place)), "message": text} for place, text in doubts]
    return sorted(rows, key=lambda row: row["line"])


def _conclusion(constitution: Constitution | None, found: Sequence[Any], *, deep: bool) -> str:
    if constitution is None:
        return f"{len(found)} problem{'s' * (len(found) != 1)}; correct them and check again"
    warned = f", {len(found)} warning{'s' * (len(found) != 1)}" if found or deep else ""
    more = "" if deep else " (--deep scores its examples too)"
    return f"{constitution.name} {constitution.version}: {len(constitution.principles)} principles, no problem{warned}{more}"


@command(group, "diff")
def diff_command(
    old: Annotated[str, typer.Argument(help="a constitution file, or 'bundled'")],
    new: Annotated[str | None, typer.Argument(help="a constitution file, or 'bundled'; the one in force if not given")] = None,
    as_json: Json = False,
) -> None:
    """Show which principles were added, removed or changed, field by field, and how many stored pairs and judgements it affects."""
    settings = start()
    from alignment.labels import load_constitution
    from alignment.labels.compare import compare

    before, after = load_constitution(_path(settings, old)), load_constitution(_path(settings, new))
    changes = compare(before, after)
    touched = _touched(settings, [one.principle_id for one in changes])
    if as_json:
        print_json([{**one._asdict(), **touched.get(one.principle_id, {})} for one in changes])
        return
    for one in changes:
        counts = touched.get(one.principle_id)
        said = f"{counts['pairs']} pairs, {counts['judgements']} judgements" if counts else "no store yet"
        out.print(Text.assemble((f"{one.kind} {one.principle_id}", "bold"), f"  ({said})"))
        for name, (was, now) in one.fields.items():
            out.print(Text(f"  {name}: {_short(was)} → {_short(now)}"))
    if not changes:
        print("no principle differs")


def _short(value: Any) -> str:
    return cap(printable(str(value)), _SHOWN)


def _touched(settings: Settings, names: list[str]) -> dict[str, dict[str, int]]:
    """Return how many stored pairs and judgements each principle decided; empty if there is no store yet."""
    from alignment.store import migrate, query, sql
    from alignment.store.session import store_path

    if not names or not store_path(settings.home).exists():
        return {}
    migrate(settings.home)
    rows = query(settings.home, sql("flows", "constitution_touched"), {"names": names})
    return {row["name"]: {"pairs": row["pairs"], "judgements": row["judgements"]} for row in rows}


@command(group, "explain")
def explain_command(
    name: Annotated[str, typer.Argument(metavar="ID_OR_CATEGORY", help="a principle's id, or a category (main principle first)")],
    days: Annotated[int, typer.Option(min=1, help="days that count as recent")] = 30,
    as_json: Json = False,
) -> None:
    """Show a principle, what it decides and how, its examples, and its recent decisions."""
    settings = start()
    from alignment.labels import load_constitution

    constitution = load_constitution(settings.labels.constitution)
    found = _named(constitution, name)
    told = [{**one.model_dump(mode="json"), **_role(constitution, one), **_recent(settings, one.id, days)} for one in found]
    if as_json:
        print_json(told)
        return
    for principle, facts in zip(found, told, strict=True):
        _show(principle, facts, days)


def _role(constitution: Constitution, one: Principle) -> dict[str, Any]:
    """Return a principle's role: whether it is in force, what it decides, and the order of principles in each of its categories."""
    return {
        "principle_version": one.version,
        "in_force": one in constitution.in_force,
        "decides": list(constitution.decides(one)),
        "order": {each: [f"{rule.id} ({rule.weight:g})" for rule in constitution.covering(one.side, each)] for each in one.categories},
    }


def _named(constitution: Constitution, name: str) -> list[Principle]:
    from alignment.labels.constitution import CATEGORIES
    from alignment.records import Side

    found = [one for one in constitution.principles if one.id == name]
    if name in CATEGORIES:
        found = found or list(constitution.covering(Side.of(name), name))
    if not found:
        ids = [one.id for one in constitution.principles]
        known = [*ids, *CATEGORIES]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise InputError(f"no principle and no category is called {name!r}; {hint}")
    return found


def _recent(settings: Settings, name: str, days: int) -> dict[str, Any]:
    from alignment.store import migrate, query, sql
    from alignment.store.session import store_path
    from flows.night import now

    if not store_path(settings.home).exists():
        return {"decisions": [], "pairs": []}
    migrate(settings.home)
    values = {"name": name, "since": now() - timedelta(days=days)}
    return {
        "decisions": query(settings.home, sql("flows", "constitution_decisions"), values),
        "pairs": query(settings.home, sql("flows", "constitution_pairs"), values),
    }


def _show(principle: Principle, facts: dict[str, Any], days: int) -> None:
    out.print(
        Text.assemble((principle.id, "bold"), f"  version {principle.version}, side {principle.side.value}, {principle.refusal_strategy}")
    )
    out.print(Text(f"{principle.text}\n"))
    force = "in force" if facts["in_force"] else "not in force, for it is not the constitution's"
    out.print(Text(f"locale: {principle.locale}, {force}\ndecides: {', '.join(facts['decides']) or 'nothing'}"))
    for category, order in facts["order"].items():
        out.print(Text(f"in {category} the heaviest decides: {', then '.join(order)}"))
    out.print(Text("An answer's worth is the weighted sum of these scores, each in 0..1; the best and the worst answer make a pair:"))
    print_rows([{"detector": each, "weight": weight} for each, weight in principle.detectors.items()], as_json=False)
    out.print(Text(f"critique: {principle.critique_request}\nrevision: {principle.revision_request}"))
    for kind, examples in (("violates", principle.examples.violates), ("complies", principle.examples.complies)):
        for one in examples:
            out.print(Text(f"{kind}: {one.prompt} → {one.response}"))
    for title, rows in ((f"Decisions of the last {days} days", facts["decisions"]), ("Pairs", facts["pairs"])):
        print(f"\n{title}")
        print_rows(rows, as_json=False)
