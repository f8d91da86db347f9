"""`align audit`: list who did what, and verify that the audit log is intact."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from alignment.store.audit_chain import Head
from flows.cli.base import Json, Misuse, app, command, print_json, print_rows, start

audit_app = typer.Typer(no_args_is_help=True, help="The audit log: every act of people and flows, each sealed over the one before it.")
app.add_typer(audit_app, name="audit")


@command(audit_app, "list")
def audit_list(
    limit: Annotated[int, typer.Option(min=1, help="newest acts to show")] = 50,
    action: Annotated[str | None, typer.Option(help="only this act, such as promoted")] = None,
    as_json: Json = False,
) -> None:
    """List the last acts, oldest first. Words removed by an erasure are shown as such."""
    settings = start()
    from alignment.store import audit

    rows = [row for row in audit.read(settings.home) if action in (None, row["action"])][-limit:]
    if as_json:
        print_json(rows)
        return
    columns = ("number", "recorded_at", "actor", "how", "action", "subject")
    withheld = "(taken out by an erasure)"
    print_rows(
        [
            {name: row[name] for name in columns}
            | {"recorded_at": row["recorded_at"][:19], "reason": withheld if row["reason"] is None else row["reason"]}
            for row in rows
        ],
        as_json=False,
    )


@command(audit_app, "verify")
def audit_verify(
    head: Annotated[str | None, typer.Option(metavar="NUMBER:SEAL", help="a head printed by an earlier run and kept elsewhere")] = None,
    as_json: Json = False,
) -> None:
    """Check that no row was changed, removed, inserted or cut off. Exit status 1 if one was; the first is named.

    Keep the printed head where this account cannot write, and pass it back with --head. Only then does it show if the whole folder was
    restored to an earlier state, or rewritten by somebody who has its key.
    """
    settings = start()
    from alignment.store import audit

    found = audit.verify(settings.home, expected=_head(head))
    printed = f"{found.head.number}:{found.head.seal}"
    if as_json:
        print_json({**found._asdict(), "head": printed})
    elif found.problem:
        print(f"BROKEN at {found.problem}")
        print(f"{found.rows} rows before it are as they were written; keep {str(settings.home / audit.FOLDER)!r} as evidence")
    elif not found.rows:
        print("nothing was recorded yet")
    else:
        said = [f"{found.withheld} with words taken out by an erasure"] * bool(found.withheld)
        said += [f"{found.torn} lines cut short by a kill"] * bool(found.torn)
        print(f"{found.rows} rows, unbroken{' (' + ', '.join(said) + ')' if said else ''}; head {printed}")
    if found.problem:
        raise typer.Exit(1)


def _head(text: str | None) -> Head | None:
    if text is None:
        return None
    parts = re.fullmatch(r"(\d{1,15}):([0-9a-f]{64})", text.strip())
    if parts is None:
        raise Misuse(f"--head {text[:100]!r} is none; give NUMBER:SEAL as 'align audit verify' printed it")
    return Head(int(parts[1]), parts[2])
