"""`align bench train`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flows.cli_data import benches
from flows.command import Json, command, print_rows, start


@command(benches, "train")
def bench_train(
    data: Annotated[
        Literal["hh", "short"], typer.Option(help="HH dialogues of ALIGN_DATA_DIR, or bundled exchanges of one turn")
    ] = "short",
    precision: Annotated[Literal["bfloat16", "float32"], typer.Option(help="of the base")] = "bfloat16",
    pairs: Annotated[int, typer.Option(min=8, help="pairs a way and round, after a step that does not count")] = 32,
    repeat: Annotated[int, typer.Option(min=1, help="rounds; medians are shown")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="8 pairs, one round")] = False,
    as_json: Json = False,
) -> None:
    """Measure training beside stock TRL: the same data, seeds, base and optimiser, turn about, each in a process of its own."""
    from bench.train import run
    from flows.night import base_path

    base = base_path(start())
    rows = run(base, data=data, precision=precision, pairs=8 if quick else pairs, repeat=1 if quick else repeat)
    print_rows(rows, as_json=as_json)
