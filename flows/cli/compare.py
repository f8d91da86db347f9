"""`align compare`: run the gate on two files of outcomes."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alignment.text import printable
from flows.cli.base import Json, app, command, print_json


class RuleKind(StrEnum):
    """What a rule asks of the challenger."""

    SUPERIOR = "superior"
    NON_INFERIOR = "non-inferior"


@command(app, "compare")
def compare_command(
    champion: Annotated[Path, typer.Argument(help=".jsonl with one row per prompt: id, cluster, outcome (1: failure, 0: none, or null)")],
    challenger: Annotated[Path, typer.Argument(help="the same prompts, answered by the challenger")],
    kind: Annotated[RuleKind, typer.Option(help="failures must fall, or may rise by less than the margin")] = RuleKind.NON_INFERIOR,
    margin: Annotated[float | None, typer.Option(min=0, max=1, help="difference of rates; default 0.05, or 0 with --kind superior")] = None,
    confidence: Annotated[float, typer.Option(min=0.51, max=0.9999, help="one-sided confidence")] = 0.95,
    max_unscored: Annotated[float, typer.Option(min=0, max=1, help="allowed share of missing or unscored outcomes")] = 0.02,
    as_json: Json = False,
) -> None:
    """Decide on two files of outcomes as the gate would. Exit status 0 if it promotes, 3 if not, 1 if a file is wrong."""
    from alignment.evals.compare import compare, is_sealed, read_outcomes
    from alignment.evals.gate import power_statement

    allowed = margin if margin is not None else 0.05 if kind is RuleKind.NON_INFERIOR else 0.0
    files = {path: read_outcomes(path) for path in (champion, challenger)}
    decision = compare(
        files[champion], files[challenger], kind=kind.value, margin=allowed, confidence=confidence, max_unscored=max_unscored
    )
    [metric] = decision.metrics
    power = power_statement(metric)
    bare = [path for path, rows in files.items() if not is_sealed(rows)]
    if as_json:
        values = asdict(metric)
        print_json(
            {
                "decision": decision.decision,
                "effect": metric.diff,
                "interval": [metric.low, metric.high],
                "confidence": confidence,
                "power": {"detectable": metric.detectable, "statement": power},
                "reasons": list(decision.reasons),
                "unsealed": [str(path) for path in bare],
                **{key: values[key] for key in _FACTS},
            }
        )
    else:
        print(f"{decision.decision}: {metric.champion:.1%} -> {metric.challenger:.1%} failures")
        print(f"change {metric.diff:+.1%} [{metric.low:+.1%}, {metric.high:+.1%}], each end with {confidence:.0%} confidence")
        for line in (*decision.reasons, power):
            print(f"  {printable(line)}")
        for path in bare:
            print(f"  unsealed: nothing shows whether {printable(str(path))!r} was edited; rows of 'align eval' are sealed")
    if decision.decision != "promote":
        raise typer.Exit(3)


_FACTS = (
    "champion", "challenger", "n", "clusters", "design_effect", "unscored", "worse", "better", "p_value", "rule", "margin", "status"
)  # fmt: skip
