"""`align seeds add`, `list` and `remove`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from alignment.text import printable
from flows.cli.base import Actor, Json, answering, app, command, one_of, print_rows, start

seeds_app = typer.Typer(no_args_is_help=True, help="Labelled requests that are taught beside the logs.")
app.add_typer(seeds_app, name="seeds")
Source = Annotated[str, typer.Option("--source", help="name of the set, for the record")]


@command(seeds_app, "add")
def add_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="a suite's file as 'align eval --suite' reads it: JSON lines, CSV, Parquet")],
    source: Source,
    licence: Annotated[str, typer.Option("--licence", help="the licence that lets you train on it, such as MIT")],
    kind: Annotated[
        str | None, typer.Option("--format", help="the file's format, as in 'align eval'; detected by its columns if not given")
    ] = None,
    scorer: Annotated[
        Literal["harm", "help"] | None, typer.Option("--scorer", help="whether the prompts are harm or help, if the file does not say")
    ] = None,
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Teach a file's prompts and conversations beside the logs from the next night on. Prompts of evaluation suites are left out."""
    from alignment.evals.formats import NAMES

    one_of("--format", kind, NAMES)
    settings = start()
    actor = answering(actor, needed=False)
    from alignment.store import migrate
    from flows.night import only_night
    from flows.seeds import add_file

    with only_night(settings):
        migrate(settings.home)
        added = add_file(settings, file, source=source, licence=licence, kind=kind, scorer=scorer, actor=actor)
    for line in added.told:
        typer.echo(f"warning: {printable(line)}", err=True)
    print_rows([{"source": source, "new": added.new, "asked_by_a_suite": added.contaminated}], as_json=as_json)


@command(seeds_app, "list")
def list_command(as_json: Json = False) -> None:
    """Show the sources of seeds with licence and number of seeds."""
    settings = start()
    from alignment.pairs.seeds import sources
    from alignment.store import migrate

    migrate(settings.home)
    print_rows(sources(settings.home), as_json=as_json)


@command(seeds_app, "remove")
def remove_command(
    source: Source,
    reason: Annotated[str, typer.Option("--reason", help="why, for the record; kept for ever")],
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Stop teaching the seeds of a source."""
    settings = start()
    actor = answering(actor, needed=False)
    from alignment.pairs.seeds import remove_seeds
    from alignment.store import migrate
    from flows.night import now

    migrate(settings.home)
    remove_seeds(settings.home, source, actor=actor, reason=reason, now=now())
    print_rows([{"source": source, "removed": True}], as_json=as_json)
