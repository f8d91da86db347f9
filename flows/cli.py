"""The `align` command. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from alignment.config import Settings, load_settings
from alignment.errors import AlignError, InputError, NoSpace
from alignment.text import printable
from flows.environment import prepare

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Continuous alignment: from flagged production logs to a safer release, every night.",
)
releases = typer.Typer(no_args_is_help=True, help="The registry: what was released, and what is in production.")
app.add_typer(releases, name="release")

Json = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Logs = Annotated[list[str] | None, typer.Option("--logs", help="log file or glob, instead of [ingest] logs; may be repeated")]
NightId = Annotated[str | None, typer.Option("--night", help="the night's id; the newest unfinished one if not given")]
Actor = Annotated[str, typer.Option("--actor", help="who does it, for the record", envvar="USER")]
_ROOM = 64 * 2**20
out = Console(highlight=False)


def _root_cause(error: BaseException) -> AlignError | None:
    from alignment.store.session import is_disk_full

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AlignError):
            return seen
        if is_disk_full(seen):
            return NoSpace(f"the disk is full ({seen}); free some space and run the same command again")
        seen = seen.__cause__ or seen.__context__
    return None


def _fails_clearly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an error of this project into one message and exit status 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            print("stopped; run the same command again to go on from here", file=sys.stderr)
            raise typer.Exit(130) from None
        except Exception as error:
            known = _root_cause(error)
            if known is None:
                raise
            print(f"error: {known}", file=sys.stderr)
            raise typer.Exit(1) from None

    return wrapped


def command(group: typer.Typer, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command whose errors are messages."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        group.command(name)(_fails_clearly(function))
        return function

    return register


def _start(*, quiet: bool = True, writes: bool = False) -> Settings:
    """Return the settings, ready to run; with `writes`, refuse a disk on which Prefect's own store would hang instead of failing."""
    settings = load_settings()
    prepare(settings.home, quiet=quiet)
    if writes and (free := shutil.disk_usage(settings.home).free) < _ROOM:
        raise NoSpace(
            f"only {free >> 20} MiB are free for {str(settings.home)!r}, {_ROOM >> 20} are needed to start; free some space and run the "
            "same command again"
        )
    return settings


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str, ensure_ascii=False))


def _print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    if not rows:
        print("nothing to show")
        return
    table = Table()
    for name in rows[0]:
        # An id that is cut cannot be copied.
        table.add_column(name.replace("_", " "), no_wrap=name.endswith("_id"), overflow="fold")
    for row in rows:
        table.add_row(*(printable(_shown(value)).replace("[", r"\[") for value in row.values()))
    out.print(table)


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@command(app, "nightly")
def nightly_command(
    logs: Logs = None,
    force: Annotated[bool, typer.Option("--force", help="run even if there is nothing new")] = False,
    as_json: Json = False,
) -> None:
    """Run the whole loop once: ingest, curate, train, gate, monitor. A night that was killed goes on where it stopped."""
    _start(writes=True)
    from flows.nightly import nightly
    from flows.show import show_summary

    summary = nightly(logs, force)
    if as_json:
        _print_json(summary)
    else:
        show_summary(summary)


@command(app, "ingest")
def ingest_command(logs: Logs = None, as_json: Json = False) -> None:
    """Read new log files: normalise, check, redact, quarantine, moderate."""
    settings = _start(writes=True)
    from flows.ingest import ingest
    from flows.night import night_lock

    with night_lock(settings.home):
        counts = ingest(logs)
    _print_rows([counts], as_json=as_json)


def _night(settings: Settings, night_id: str | None) -> str:
    from alignment.store import migrate
    from flows.night import night_ids, plan_night, record_night, unfinished

    migrate(settings.home)
    if night_id and night_id not in (known := night_ids(settings.home)):
        raise InputError(f"no night {night_id!r}; known are {', '.join(known) or 'none yet'} (newest first)")
    night = night_id or unfinished(settings.home) or plan_night(settings).id
    record_night(settings.home, night, "started", {})
    return night


@command(app, "curate")
def curate_command(night: NightId = None, as_json: Json = False) -> None:
    """Choose prompts, generate candidates, judge them and build tonight's pairs."""
    settings = _start(writes=True)
    from flows.curate import curate
    from flows.night import night_lock, stage

    with night_lock(settings.home):
        night_id = _night(settings, night)
        with stage(settings.home, night_id, "curate") as counts:
            counts |= curate(night_id)
    _print_rows([counts], as_json=as_json)


@command(app, "train")
def train_command(night: NightId = None, as_json: Json = False) -> None:
    """Train tonight's challenger on the pairs that 'align curate' built."""
    settings = _start(writes=True)
    from flows.night import night_lock, stage
    from flows.train import train

    with night_lock(settings.home):
        night_id = _night(settings, night)
        with stage(settings.home, night_id, "train") as summary:
            summary |= train(night_id)
    _print_rows([summary], as_json=as_json)


@command(app, "gate")
def gate_command(night: NightId = None, as_json: Json = False) -> None:
    """Evaluate tonight's challenger against production and release it if the gate says so. Exit status 3 if it does not."""
    settings = _start(writes=True)
    from flows.monitor import monitor
    from flows.night import night_lock, record_night, stage
    from flows.nightly import summarise
    from flows.release import release
    from flows.train import train

    with night_lock(settings.home):
        night_id = _night(settings, night)
        trained = train(night_id)
        with stage(settings.home, night_id, "release") as counts:
            decided = release(night_id, trained["folder"])
            counts |= {"decision": decided["decision"]}
        with stage(settings.home, night_id, "monitor") as counts:
            counts |= {"alarms": (alarms := monitor(night_id))}
        record_night(settings.home, night_id, "finished", summarise(settings, night_id, trained, decided, alarms))
    if as_json:
        _print_json(decided)
    else:
        _print_rows(
            [{k: m[k] for k in ("name", "champion", "challenger", "diff", "low", "high", "n", "status")} for m in decided["metrics"]],
            as_json=False,
        )
        print(f"Verdict: {decided['decision']}")
    if decided["decision"] != "promote":
        raise typer.Exit(3)


@command(app, "monitor")
def monitor_command(as_json: Json = False) -> None:
    """Compare the last days of traffic with those before them."""
    settings = _start(writes=True)
    from alignment.store import migrate, query
    from flows.monitor import monitor
    from flows.night import now

    migrate(settings.home)
    name = f"by-hand-{now().isoformat(timespec='seconds')}"
    monitor(name)
    columns = "metric, test, baseline, current, effect, adjusted_p, alarm, baseline_n, current_n"
    rows = query(settings.home, f"SELECT {columns} FROM drift_results WHERE night_id = ? ORDER BY alarm DESC, metric", [name])  # noqa: S608
    _print_rows(rows, as_json=as_json)


@command(app, "serve")
def serve_command() -> None:
    """Run nights on a schedule, with every stage as a deployment; starts a Prefect server if none is configured."""
    settings = _start(quiet=False, writes=True)
    from flows.serve import serve

    serve(settings)


@command(app, "dashboard")
def dashboard_command(
    port: Annotated[int | None, typer.Option(help="instead of [serve] dashboard_port")] = None,
    headless: Annotated[bool, typer.Option(help="do not open a browser")] = True,
) -> None:
    """Show the overview, the gate, the review queue and drift in a browser."""
    settings = _start()
    found = find_spec("dashboard")
    if found is None or found.origin is None:
        raise AlignError("the dashboard is not installed; run 'pip install -c constraints.txt -e .' in the project's folder")
    page = Path(found.origin).with_name("app.py")
    arguments = [
        f"--server.port={port or settings.serve.dashboard_port}",
        f"--server.headless={str(headless).lower()}",
        "--server.address=127.0.0.1",
        "--browser.gatherUsageStats=false",
    ]
    sys.exit(
        subprocess.call(
            [sys.executable, "-m", "streamlit", "run", str(page), *arguments],
            cwd=page.parent,
            env=_dashboard_environment(settings),
        )
    )


def _dashboard_environment(settings: Settings) -> dict[str, str]:
    """Return an environment that reads the same settings from another working folder."""
    from alignment.config import config_file

    found = config_file()
    return {**os.environ, "ALIGN_HOME": str(settings.home)} | ({"ALIGN_CONFIG": str(found.absolute())} if found else {})


@command(app, "status")
def status_command(as_json: Json = False) -> None:
    """Show what is in production, the last night, its stages, and what waits for people."""
    settings = _start()
    from alignment.release import current
    from alignment.store import query

    nights = query(
        settings.home,
        "SELECT night_id, arg_max(event, recorded_at) AS state, max(recorded_at) AS since, "
        "max(summary ->> '$.decision') AS decision FROM night_events GROUP BY night_id ORDER BY since DESC LIMIT 10",
    )
    files = query(
        settings.home,
        "SELECT path, rows_read, rows_stored, rows_duplicate, rows_quarantined, rows_redacted FROM source_files "
        "ORDER BY ingested_at DESC LIMIT 10",
    )
    reasons = query(settings.home, "SELECT reason, count(*) AS lines FROM quarantine GROUP BY reason ORDER BY lines DESC")
    [reviews] = query(settings.home, "SELECT count(*) AS open FROM open_reviews")
    if as_json:
        _print_json(
            {
                "release": current(settings.home),
                "nights": nights,
                "files": files,
                "quarantine": reasons,
                "open_reviews": reviews["open"],
            }
        )
        return
    print(f"In production: {current(settings.home)}; open reviews: {reviews['open']}")
    for title, rows in (("Nights", nights), ("Log files", files), ("Quarantine", reasons)):
        print(f"\n{title}")
        _print_rows(rows, as_json=False)


@command(app, "doctor")
def doctor_command(as_json: Json = False) -> None:
    """Check versions, disk, settings, model files, the store and the registry. Exit status 1 if something is wrong."""
    settings = _start()
    from flows.doctor import examine

    findings = examine(settings)
    _print_rows(findings, as_json=as_json)
    if any(row["result"] == "wrong" for row in findings):
        raise typer.Exit(1)


@command(releases, "list")
def release_list(as_json: Json = False) -> None:
    """List all releases, newest first."""
    settings = _start()
    from alignment.release import list_releases
    from flows.erase import training_of

    decided, training = _decisions(settings), training_of(settings)
    columns = ["release_id", "status", "decision", "champion", "night_id", "created_at", *["training"] * bool(training)]
    rows = []
    for row in list_releases(settings.home):
        last = {"decision": decided.get(row["release_id"], row.get("decision", "")), "created_at": str(row.get("created_at", ""))[:19]}
        last["training"] = training.get(row["release_id"], "")
        rows.append({name: ({**row, **last}).get(name, "") for name in columns})
    _print_rows(rows, as_json=as_json)


def _decisions(settings: Settings) -> dict[str, str]:
    """Return the gate's last word on each release: a release that was registered once may be gated again."""
    from alignment.store import query, store_path

    if not store_path(settings.home).exists():
        return {}
    rows = query(settings.home, "SELECT challenger, max_by(decision, decided_at) AS decision FROM gate_decisions GROUP BY challenger")
    return {row["challenger"]: row["decision"] for row in rows}


@command(releases, "show")
def release_show(release_id: str, as_json: Json = False) -> None:
    """Show a release's card, or with --json its manifest."""
    settings = _start()
    from alignment.release import folder_of
    from flows.erase import training_of

    folder, training = folder_of(settings.home, release_id), training_of(settings).get(release_id)
    if as_json:
        _print_json(json.loads((folder / "manifest.json").read_text(encoding="utf-8")) | ({"training": training} if training else {}))
    else:
        print((folder / "card.md").read_text(encoding="utf-8"))
        if decision := _decisions(settings).get(release_id):
            print(f"The gate's last word: {decision}")
        if training:
            print(f"Training: {training}")


def _recorded(settings: Settings, release_id: str, event: str, actor: str, reason: str) -> None:
    from alignment.store import migrate
    from flows.release import record_events

    migrate(settings.home)
    record_events(settings, [(release_id, event, actor, reason, None)])


@command(releases, "promote")
def release_promote(release_id: str, reason: Annotated[str, typer.Option(help="why, for the record")], actor: Actor = "unknown") -> None:
    """Put a registered release into production by hand."""
    settings = _start()
    from alignment.release import promote
    from flows.night import now

    previous = promote(settings.home, release_id, actor=actor, reason=reason, now=now())
    _recorded(settings, release_id, "promoted", actor, reason)
    print(f"{release_id} is in production; before it was {previous}")


@command(releases, "rollback")
def release_rollback(reason: Annotated[str, typer.Option(help="why, for the record")], actor: Actor = "unknown") -> None:
    """Return to what was in production before. Nothing is deleted."""
    settings = _start()
    from alignment.release import rollback
    from flows.night import now

    target = rollback(settings.home, actor=actor, reason=reason, now=now())
    _recorded(settings, target, "rolled_back", actor, reason)
    print(f"{target} is in production")


@command(releases, "quarantine")
def release_quarantine(release_id: str, reason: Annotated[str, typer.Option(help="why, for the record")], actor: Actor = "unknown") -> None:
    """Bar a release from production for good; rolls back if it is there."""
    settings = _start()
    from alignment.release import current, quarantine
    from flows.night import now

    before = current(settings.home)
    target = quarantine(settings.home, release_id, actor=actor, reason=reason, now=now())
    _recorded(settings, release_id, "quarantined", actor, reason)
    if target != before:
        _recorded(settings, target, "rolled_back", actor, reason)
    print(f"{release_id} is quarantined; {target} is in production")


import flows.cli_data  # noqa: E402, F401 - it registers its commands on the app above


def main() -> None:
    """Entry point of `align`."""
    app()


if __name__ == "__main__":
    # `python -m flows.cli` is a second copy of this module; the commands of flows.cli_data hang on the first.
    from flows.cli import main as start

    start()
