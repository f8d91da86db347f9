"""`align doctor`: what is wrong and what to do, and a rebuild of a damaged store."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from alignment.errors import InputError
from alignment.text import printable
from flows.cli.base import Json, app, command, print_json, print_rows, start


@command(app, "doctor")
def doctor_command(
    quick: Annotated[bool, typer.Option("--quick", help="skip the full read of store and evidence")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="rebuild a damaged store from evidence, its readable rows and the logs")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="rebuild without asking")] = False,
    as_json: Json = False,
) -> None:
    """Check versions, disk, settings, model files, the store, its evidence and the registry. Exit status 1 if something is wrong."""
    if rebuild:
        _rebuild(yes=yes, as_json=as_json)
        return
    from flows.doctor import diagnose

    findings = diagnose(quick=quick)
    print_rows(findings, as_json=as_json)
    if any(row["result"] == "wrong" for row in findings):
        raise typer.Exit(1)


def _rebuild(*, yes: bool, as_json: bool) -> None:
    settings = start(writes=True)
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Rebuild the store in {settings.home}? The old file is kept beside it.")):
        raise InputError("nothing was changed; run 'align doctor --rebuild --yes' to rebuild without being asked")
    from flows.rebuild import rebuild

    rows, lost = rebuild(settings)
    if as_json:
        print_json({"tables": rows, "lost": lost})
    elif rows:
        print_rows(rows, as_json=False)
    if not rows and not lost and not as_json:
        print("the store is whole: nothing was rebuilt")
    for line in lost:
        print(f"lost: {printable(line)}", file=sys.stderr)
    if lost:
        raise typer.Exit(1)
