"""Progress bars and the table at the end of a night.

Effects: writes to the terminal (stderr for progress).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from alignment.models.chat import Progress as Callback
from alignment.text import amount, change, printable

console = Console(stderr=True)


@contextmanager
def progress(title: str) -> Iterator[Callback]:
    """Show a progress bar; the yielded callback takes (done, total). Without a terminal, print one line at the end."""
    columns = (
        TextColumn("  {task.description:<34}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        last = (0, 0)

        def advance(done: int, total: int) -> None:
            nonlocal last
            last = (done, total)
            bars.update(task, completed=done, total=total)

        yield advance
    if not console.is_terminal and last[1]:
        console.print(f"  {title}: {last[0]}/{last[1]}", highlight=False)


def headline(text: str) -> None:
    """Announce a stage."""
    console.print(f"[bold]{text}[/bold]", highlight=False)


def say(text: str) -> None:
    """Print one line that is not part of a command's output, with control characters removed."""
    console.print("  " + printable(text), highlight=False, markup=False, soft_wrap=True)


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _data_table(summary: dict[str, Any]) -> Table:
    table = Table(title="Data", title_justify="left", show_header=False)
    counts = summary["counts"]
    for name in (
        "read",
        "stored",
        "duplicate",
        "quarantined",
        "redacted",
        "flagged",
        "selected",
        "pairs",
        "held_back",
        "open_reviews",
    ):
        if name in counts:
            table.add_row(name.replace("_", " "), f"{counts[name]:,}")
    if counts.get("empty_texts"):
        table.add_row("texts of the model that are empty", f"{counts['empty_texts']:,}")
    for labeler, number in sorted(counts.get("pairs_by_labeler", {}).items()):
        table.add_row(f"pairs by {labeler}", f"{number:,}")
    for side, number in sorted(counts.get("pairs_by_side", {}).items()):
        table.add_row(f"pairs, {side} side", f"{number:,}")
    if "teacher_revisions" in counts:
        shares = f"{_percent(counts['teacher_revisions_share'])} of pairs, {_percent(counts['teacher_revisions_share_harm'])} of harm pairs"
        table.add_row("chosen: the teacher's revision", f"{counts['teacher_revisions']:,} ({shares})")
    for reason, number in sorted(counts.get("teacher_fell_back", {}).items()):
        table.add_row(f"teacher fell back: {reason.replace('_', ' ')}", f"{number:,}")
    for reason, number in sorted(counts.get("held_back_by_reason", {}).items()):
        table.add_row(f"held back: {reason.removeprefix('held_back_').replace('_', ' ')}", f"{number:,}")
    train = summary.get("train")
    if train:
        table.add_row("trained on", f"{train['pairs']} pairs in {train['steps']} steps")
        table.add_row("loss", f"{train['loss']:.3f}")
        table.add_row("rewards/margins", f"{train['reward_margin']:.2f}")
        table.add_row("rewards/accuracies", _percent(train["reward_accuracy"]))
    return table


def _gate_table(summary: dict[str, Any]) -> Table:
    # No frame: the rows fit a terminal of 80 columns.
    table = Table(
        title=f"Gate: {summary['champion']} → {summary['challenger']}",
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in ("metric", "rate", "change, points", "n, unscored", "status"):
        table.add_column(column, justify="left" if column in ("metric", "status") else "right", no_wrap=column == "metric")
    for metric in summary["metrics"]:
        unit = metric.get("unit", "rate")
        table.add_row(
            metric["name"],
            f"{amount(metric['champion'], unit)} → {amount(metric['challenger'], unit)}",
            rf"{change(metric['diff'], unit)} \[{change(metric['low'], unit)}, {change(metric['high'], unit)}]",
            f"{metric['n']}, {metric['unscored']}",
            metric["status"],
        )
    return table


def show_summary(summary: dict[str, Any]) -> None:
    """Print what a night did as tables a person can read."""
    out = Console(file=sys.stdout)
    out.print(_data_table(summary))
    if summary.get("metrics"):
        out.print(_gate_table(summary))
    if summary.get("stages"):
        table = Table(title="Stages", title_justify="left", show_header=False)
        for name, seconds in summary["stages"].items():
            table.add_row(name, f"{seconds:.1f} s")
        table.add_row("total", f"{summary['seconds']:.1f} s", style="bold")
        out.print(table)
    if alarms := summary.get("alarms"):
        out.print(f"Drift alarms: {', '.join(alarms)} (align dashboard → Drift)", highlight=False)
    if summary.get("decision"):
        waits = summary.get("state") == "waits for approval"
        how = f" (waits for approval: 'align gate --approve {summary['night_id']} --reason TEXT', or --refuse)" if waits else ""
        out.print(f"Verdict: [bold]{summary['decision']}[/bold]{how}", highlight=False)
        for reason in summary.get("reasons", ()):
            out.print(f"  {reason}", highlight=False, markup=False)
    out.print(f"In production: [bold]{summary['release_id']}[/bold]", highlight=False)
