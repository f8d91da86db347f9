"""`align backup` and `align restore`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from alignment.acting import Identity, account, act_as
from alignment.text import printable
from flows.cli.base import Actor, Json, answering, app, command, print_json, print_rows, start


@command(app, "backup")
def backup_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the file to write, such as align-20261130.tar.gz; it must not exist")],
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Write the state folder to one verified file, while nights and pages go on. It holds what people wrote and the keys that mask it.

    Not in it: what is made again (models, vectors, reference, data_docs, Prefect's records), unfinished training runs, and secrets that
    you keep yourself (secrets.toml, align.toml, your constitution).
    """
    settings = start()
    actor = answering(actor, needed=False)
    from flows.backup import back_up

    done = back_up(settings.home, file, actor=actor)
    print_rows([done._asdict()], as_json=as_json)


@command(app, "restore")
def restore_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a file that 'align backup' wrote")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="a new or empty folder, the new state folder")],
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Check every byte of a backup and unpack it into a new state folder, whole or not at all. Then set ALIGN_HOME to it."""
    # Not the settings' own folder: that would be made, and it may be the one to fill.
    act_as(Identity(account(), "account", "operator"))
    os.umask(0o077)
    actor = answering(actor, needed=False)
    from flows.backup import restore_backup

    held = restore_backup(file, to, actor=actor)
    told = {"folder": str(to), "created_at": held.created_at, "files": len(held.files), "bytes": held.size, "schema": held.schema}
    if as_json:
        print_json(told)
        return
    print_rows([told], as_json=False)
    print(f"now: ALIGN_HOME={printable(str(to))} align doctor")
    print("persons erased since this backup was made are in it again: repeat their erasures before the next night")
