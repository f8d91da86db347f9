"""The command about pairs: `align pairs export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.command import Json, app, command, print_rows, start

pairs_app = typer.Typer(no_args_is_help=True, help="Accepted preference pairs.")
app.add_typer(pairs_app, name="pairs")


class Form(StrEnum):
    """Kinds of files."""

    JSONL = "jsonl"
    PARQUET = "parquet"


@command(pairs_app, "export")
def export_command(
    out: Annotated[Path, typer.Option("--out", help="a new or empty folder")],
    night: Annotated[
        str | None, typer.Option("--night", help="only the training set of this night; all accepted pairs if not given")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="jsonl or parquet")] = Form.JSONL,
    as_json: Json = False,
) -> None:
    """Write accepted pairs as a preference data set with a card, for `datasets` and TRL."""
    settings = start()
    from flows.export import export_pairs

    written = export_pairs(settings, out, night_id=night, form=form.value)
    print_rows([{"file": name, "pairs": n} for name, n in written.items()], as_json=as_json)
