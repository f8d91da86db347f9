"""`align nightly`, and the stages by hand: `align curate`, `train` and `monitor`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.base import Json, app, command, print_json, print_rows, start
from flows.cli.gate import NightId, begin_night
from flows.cli.ingest import Logs


@command(app, "nightly")
def nightly_command(
    logs: Logs = None,
    force: Annotated[bool, typer.Option("--force", help="run even if there is nothing new")] = False,
    as_json: Json = False,
) -> None:
    """Run the whole loop once: ingest, curate, train, gate, monitor. A killed night resumes where it stopped."""
    start(writes=True, runs_flows=True)
    from flows.nightly import nightly
    from flows.show import show_summary

    summary = nightly(logs, force)
    if as_json:
        print_json(summary)
    else:
        show_summary(summary)


@command(app, "curate")
def curate_command(night: NightId = None, as_json: Json = False) -> None:
    """Choose prompts, generate candidates, judge them and build tonight's pairs."""
    _run("curate", night, as_json)


@command(app, "train")
def train_command(night: NightId = None, as_json: Json = False) -> None:
    """Train tonight's challenger on the pairs that 'align curate' built."""
    _run("train", night, as_json)


def _run(stage: str, night: str | None, as_json: bool) -> None:
    settings = start(writes=True, runs_flows=True)
    from flows.night import only_night
    from flows.stages import run_stage

    with only_night(settings):
        summary = run_stage(settings.home, begin_night(settings, night), stage)
    print_rows([summary], as_json=as_json)


@command(app, "monitor")
def monitor_command(as_json: Json = False) -> None:
    """Compare the latest days of traffic with the days before them."""
    settings = start(writes=True, runs_flows=True)
    from alignment.store import migrate, query
    from flows.monitor import monitor
    from flows.night import now

    migrate(settings.home)
    name = f"by-hand-{now().isoformat(timespec='seconds')}"
    monitor(name)
    columns = "metric, test, baseline, current, effect, adjusted_p, alarm, baseline_n, current_n"
    rows = query(settings.home, f"SELECT {columns} FROM drift_results WHERE night_id = ? ORDER BY alarm DESC, metric", [name])  # noqa: S608
    print_rows(rows, as_json=as_json)
