"""The commands about labelers: `align bench label`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_data import benches
from flows.command import Json, command, print_rows, start


@command(benches, "label")
def bench_label(
    pairs: Annotated[int, typer.Option(min=8, help="pairs to label")] = 256,
    concurrency: Annotated[int, typer.Option(min=2, max=256, help="calls at a time")] = 32,
    embedded: Annotated[bool, typer.Option("--embedded", help="measure the embedded model as a judge, too")] = False,
    as_json: Json = False,
) -> None:
    """Measure pairs a second, calls and tokens for each accepted pair, by source. With a [teacher] set up, its calls are paid for."""
    settings = start()
    from bench.label import run

    print_rows(run(pairs, concurrency, settings.teacher, embedded=settings.home if embedded else None), as_json=as_json)
