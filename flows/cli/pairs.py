"""The commands about pairs: `align pairs export`, and people's rulings on single pairs: `exclude`, `flip`, `review`, `restore`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from alignment.errors import InputError
from flows.cli.base import Actor, Json, answering, app, command, print_rows, start

pairs_app = typer.Typer(no_args_is_help=True, help="Accepted preference pairs.")
app.add_typer(pairs_app, name="pairs")


Action = Literal["exclude", "flip", "review", "restore"]


class Form(StrEnum):
    """File formats."""

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


PairId = Annotated[str, typer.Argument(metavar="ID", help="the pair's id, or at least its first eight digits")]
Reason = Annotated[str, typer.Option("--reason", help="why, for the record; kept for ever")]


@command(pairs_app, "exclude")
def exclude_command(pair: PairId, reason: Reason, actor: Actor = "", as_json: Json = False) -> None:
    """Exclude a pair, and any other pair of its exchange, from every training set from now on."""
    _rule(pair, "exclude", actor, reason, as_json)


@command(pairs_app, "flip")
def flip_command(pair: PairId, reason: Reason, actor: Actor = "", as_json: Json = False) -> None:
    """Teach a pair's rejected answer instead of the chosen one; the pair is then labelled by a human."""
    _rule(pair, "flip", actor, reason, as_json)


@command(pairs_app, "review")
def review_command(pair: PairId, reason: Reason, actor: Actor = "", as_json: Json = False) -> None:
    """Keep a pair out of training until a reviewer has decided on it."""
    _rule(pair, "review", actor, reason, as_json)


@command(pairs_app, "restore")
def restore_command(pair: PairId, reason: Reason, actor: Actor = "", as_json: Json = False) -> None:
    """Take back an exclude, flip or review of a pair."""
    _rule(pair, "restore", actor, reason, as_json)


def _rule(name: str, action: Action, actor: str, reason: str, as_json: bool) -> None:
    settings = start()
    actor = answering(actor)
    from alignment.ingest.redact import redact, redaction_key
    from alignment.lineage import find
    from alignment.pairs.rulings import rule
    from flows.night import now

    thing = find(settings.home, name)
    if thing.kind != "pair":
        raise InputError(
            f"{name!r} is the id of something else ({thing.kind}), not of a pair; "
            "the dashboard's page Pairs and 'align pairs export' show ids"
        )
    said = redact(reason, redaction_key(settings.home))[0]
    new = rule(settings.home, thing.id, action, actor=actor, reason=said, now=now())
    row = {"pair_id": thing.id, "action": action, "actor": actor, "reason": said, "recorded": "now" if new else "before"}
    print_rows([row], as_json=as_json)
