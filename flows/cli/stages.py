"""`align nightly`, and the stages by hand: `align curate`, `train` and `monitor`."""

from __future__ import annotations

from typing import Annotated

import typer

from alignment.config import Settings
from flows.cli.base import Json, Misuse, app, command, print_json, print_rows, start, start_flows
from flows.cli.gate import NightId, begin_night
from flows.cli.ingest import Logs


@command(app, "nightly")
def nightly_command(
    logs: Logs = None,
    force: Annotated[bool, typer.Option("--force", help="run even if there is nothing new")] = False,
    background: Annotated[
        bool, typer.Option("--background", help="start it and return: through a running 'align serve', else as its own process")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the whole loop once: ingest, curate, train, gate, monitor. A killed night resumes where it stopped."""
    settings = start(writes=True)
    if background:
        _start_in_background(settings, logs, force=force, as_json=as_json)
        return
    from flows.night import night_lock

    # Held before the server starts, so that whoever comes second is refused at once.
    with night_lock(settings.home):
        start_flows(settings)
        from flows.nightly import nightly

        summary = nightly(logs, force)
    from flows.show import show_summary

    if as_json:
        print_json(summary)
    else:
        show_summary(summary)


def _start_in_background(settings: Settings, logs: list[str] | None, *, force: bool, as_json: bool) -> None:
    if logs:
        raise Misuse("--logs and --background do not go together; name the files in [ingest] logs")
    from flows.launch import launch_night

    launched = launch_night(settings, force=force)
    if as_json:
        print_json(launched._asdict())
    else:
        print(f"a night was started ({launched.how} {launched.id}); {launched.follow}")


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
    """Measure the days of traffic that closed since the last report, and show each signal beside the weeks before."""
    settings = start(writes=True, runs_flows=True)
    from alignment.drift import action, unit
    from alignment.store import migrate, query, sql
    from flows.monitor import monitor
    from flows.night import only_night

    with only_night(settings):
        migrate(settings.home)
        monitor()
    rows = query(settings.home, sql("alignment.store", "drift_latest"))
    found = [{**row, "unit": unit(row["signal"]), "do": action(row["signal"]) if row["alarm"] else None} for row in rows]
    columns = ("signal", "unit", "baseline", "rate", "users", "alarm", "since", "effect")
    print_rows(found if as_json else [{name: row[name] for name in columns} for row in found], as_json=as_json)
    for row in found:
        if row["do"] and not as_json:
            print(f"{row['signal']}: {row['do']}")
