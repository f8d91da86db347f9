"""The `align` command. Each command imports the heavy libraries it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from alignment.acting import account
from alignment.config import Settings
from alignment.errors import AlignError, InputError, StoreError
from alignment.ids import short
from alignment.text import cap, printable
from flows.cli import (  # noqa: F401 - they register their commands
    audit,
    bench,
    compare,
    constitution,
    data,
    eval,
    gate,
    init,
    pairs,
    release,
    score,
    seeds,
)
from flows.cli.base import Json, Misuse, app, command, one_of, print_json, print_rows, start
from flows.cli.gate import NightId, begin_night
from flows.secret import without_secret

Preset = Annotated[str | None, typer.Option(help="kind of log that --logs names, instead of [ingest] preset")]
Logs = Annotated[list[str] | None, typer.Option("--logs", help="log file, glob or URL, instead of the configured sources; may be repeated")]


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


@command(app, "ingest")
def ingest_command(
    logs: Logs = None,
    preset: Preset = None,
    source: Annotated[str | None, typer.Option(help="only this one of the configured sources")] = None,
    since: Annotated[datetime | None, typer.Option(help="only files that changed since then (UTC)")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be stored and quarantined, and store nothing")] = False,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="list quarantined lines instead")] = False,
    explain: Annotated[
        str | None, typer.Option("--explain", help="say of this file's first lines which preset fits, and why a line is not read")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="read quarantined lines again, after something was corrected")] = False,
    reason: Annotated[str | None, typer.Option(help="with --quarantine or --replay: only lines with this reason")] = None,
    limit: Annotated[int, typer.Option(min=1, help="with --quarantine: lines to list")] = 50,
    accept: Annotated[
        bool, typer.Option("--accept", help="let what the data checks stop, and files that were set aside, pass this once")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read what is new in the logs: normalise, check, redact, quarantine, moderate."""
    given = {
        "--logs": logs, "--preset": preset, "--source": source, "--since": since, "--dry-run": dry_run, "--reason": reason,
        "--quarantine": quarantine, "--replay": replay, "--accept": accept,
        "--explain": explain,
    }  # fmt: skip
    _fit_together({name for name, value in given.items() if value})
    if preset:
        from alignment.ingest.sources import presets

        one_of("--preset", preset, presets())
    settings = start(writes=not quarantine and not explain, runs_flows=not quarantine and not explain)
    if explain:
        _explain(settings, explain, as_json)
        return
    if source:
        from flows.ingest import chosen_sources

        chosen_sources(settings, None, None, source)
    if quarantine:
        rows = _quarantined(settings, reason, source, limit)
        print_rows(rows if as_json else [_at_a_glance(row) for row in rows], as_json=as_json)
        return
    from alignment.store import export
    from flows.ingest import ingest, replay_quarantine
    from flows.night import only_night

    with only_night(settings):
        if replay:
            outcomes = replay_quarantine(reason, source)
            print_rows([{"outcome": name, "lines": number} for name, number in outcomes.items()], as_json=as_json)
        else:
            moment = since.replace(tzinfo=UTC) if since else None
            print_rows([ingest(logs, preset, source, moment, dry_run, accept)], as_json=as_json)
        if not dry_run:
            export(settings.home)


def _explain(settings: Settings, file: str, as_json: bool) -> None:
    from flows.explain import explain

    found = explain(settings, file)
    if as_json:
        print_json(found)
        return
    print_rows(found["presets"], as_json=False)
    print(f"\nbest: {found['fits'] or 'none; map it: [ingest.sources.NAME.fields]'}")
    for name in ("fields", "not_read"):
        if found[name]:
            print()
            print_rows(found[name], as_json=False)


_NOT_TOGETHER = (
    ({"--quarantine"}, {"--replay", "--logs", "--preset", "--since", "--dry-run", "--accept"}),
    ({"--replay"}, {"--logs", "--preset", "--since", "--dry-run", "--accept"}),
    ({"--explain"}, {"--quarantine", "--replay", "--logs", "--preset", "--source", "--since", "--dry-run", "--accept", "--reason"}),
    ({"--logs"}, {"--source"}),
    ({"--dry-run"}, {"--accept"}),
)


def _fit_together(given: set[str]) -> None:
    for these, others in _NOT_TOGETHER:
        if these <= given and others & given:
            raise Misuse(f"{min(these)} does not go with {', '.join(sorted(others & given))}; leave one out ('align ingest --help')")
    if "--preset" in given and "--logs" not in given:
        raise Misuse("--preset says what --logs names; give --logs, or set [ingest] preset in align.toml")
    if "--reason" in given and not {"--quarantine", "--replay"} & given:
        raise Misuse("--reason goes with --quarantine or --replay")


def _at_a_glance(row: dict[str, Any]) -> dict[str, str]:
    """Return a quarantined line as a row that fits a terminal; --json gives the full line."""
    where = f"{Path(row['path'] or '?').name}:{row['line_number']}"
    return {"id": row["id"], "reason": row["reason"], "line": where, "begins": cap(row["raw"], 60)}


def _quarantined(settings: Settings, reason: str | None, source: str | None, limit: int) -> list[dict[str, Any]]:
    from alignment.store import query, sql

    rows = query(settings.home, sql("flows", "quarantine_list"), {"reason": reason, "source": source, "limit": limit})
    return [{**row, "id": short(row["id"])} for row in rows]


@command(app, "curate")
def curate_command(night: NightId = None, as_json: Json = False) -> None:
    """Choose prompts, generate candidates, judge them and build tonight's pairs."""
    settings = start(writes=True, runs_flows=True)
    from flows.night import only_night
    from flows.stages import run_stage

    with only_night(settings):
        counts = run_stage(settings.home, begin_night(settings, night), "curate")
    print_rows([counts], as_json=as_json)


@command(app, "train")
def train_command(night: NightId = None, as_json: Json = False) -> None:
    """Train tonight's challenger on the pairs that 'align curate' built."""
    settings = start(writes=True, runs_flows=True)
    from flows.night import only_night
    from flows.stages import run_stage

    with only_night(settings):
        summary = run_stage(settings.home, begin_night(settings, night), "train")
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


@command(app, "serve")
def serve_command() -> None:
    """Run nights on a schedule, with every stage as a deployment; starts a Prefect server if none is configured."""
    settings = start(quiet=False, writes=True)
    from flows.serve import serve

    serve(settings)


@command(app, "dashboard")
def dashboard_command(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="instead of [serve] dashboard_port")] = None,
    link: Annotated[bool, typer.Option("--link", help="only print a link that signs in once to the dashboard that runs already")] = False,
    name: Annotated[
        str | None,
        typer.Option("--for", metavar="NAME", help="with --link: whom it signs in, as [dashboard] calls them; else this account"),
    ] = None,
) -> None:
    """Show the overview, the gate, the review queue and drift in a browser. It prints a link: open it to sign in.

    The link works once, within the hour. Your acts are recorded under the name of your account, which may approve and review unless
    [dashboard] in align.toml says who may. With an [auth] section (OpenID Connect) in secrets.toml people sign in with their organisation.
    """
    settings = start()
    listening = port or settings.serve.dashboard_port
    if name is not None and not link:
        raise Misuse("--for goes with --link: 'align dashboard --link --for NAME'")
    if link:
        print(_sign_in_link(settings, name, listening))
        return
    from alignment.store import migrate, store_path

    if store_path(settings.home).exists():
        # The pages report a damaged store.
        with suppress(StoreError):
            migrate(settings.home)
    found = find_spec("dashboard")
    if found is None or found.origin is None:
        raise AlignError("the dashboard is not installed; run 'pip install -c constraints.txt -e .' in the project's folder")
    folder = Path(found.origin).parent
    sys.exit(
        subprocess.call(
            [sys.executable, "-m", "dashboard.server", str(listening)],
            cwd=folder.parent,
            env=_dashboard_environment(settings),
        )
    )


def _sign_in_link(settings: Settings, name: str | None, port: int) -> str:
    from alignment.store.sign_in import issue_token

    whom = account() if name is None else name.strip()
    if not whom or not whom.isprintable() or len(whom) > 100:
        raise Misuse(f"--for {name!r} is no name; give up to 100 printable characters, such as ada@example.com")
    token = issue_token(settings.home, whom, now=datetime.now(UTC).replace(tzinfo=None))
    return f"http://{settings.dashboard.hosts[0] if settings.dashboard.hosts else '127.0.0.1'}:{port}/?token={token}"


def _dashboard_environment(settings: Settings) -> dict[str, str]:
    """Return an environment that reads the same settings from another working folder."""
    from alignment.config import config_file

    found = config_file()
    return {**without_secret(os.environ), "ALIGN_HOME": str(settings.home)} | ({"ALIGN_CONFIG": str(found.absolute())} if found else {})


@command(app, "status")
def status_command(as_json: Json = False) -> None:
    """Show what is in production, the last night, its stages, and what waits for people."""
    settings = start()
    from alignment.gate_floor import weakenings
    from alignment.release import current
    from alignment.store import migrate, query, sql, store_path

    if store_path(settings.home).exists():
        migrate(settings.home)
    weakened = list(map(str, weakenings(settings.gate)))
    nights = query(settings.home, sql("flows", "status_nights"))
    files = query(settings.home, sql("flows", "status_files"))
    reasons = query(settings.home, "SELECT reason, count(*) AS lines FROM open_quarantine GROUP BY reason ORDER BY lines DESC")
    aside = query(settings.home, "SELECT source, path, kind, reason, set_aside_at FROM open_set_aside ORDER BY set_aside_at DESC LIMIT 20")
    [reviews] = query(settings.home, "SELECT count(*) AS open FROM open_reviews")
    if as_json:
        print_json(
            {
                "release": current(settings.home),
                "nights": nights,
                "files": files,
                "set_aside": aside,
                "quarantine": reasons,
                "open_reviews": reviews["open"],
                "gate": {"weakened": weakened, "unsafe": settings.gate.unsafe},
            }
        )
        return
    print(f"In production: {current(settings.home)}; open reviews: {reviews['open']}")
    for one in weakened:
        print(f"The gate is weakened (reason given: {settings.gate.unsafe}): {one}")
    for title, rows in (("Nights", nights), ("Log files", files), ("Log files set aside", aside), ("Quarantine", reasons)):
        print(f"\n{title}")
        print_rows(rows, as_json=False)


@command(app, "doctor")
def doctor_command(
    quick: Annotated[bool, typer.Option("--quick", help="do not read the whole store and evidence")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="make a damaged store anew from evidence, its readable rows and logs")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="rebuild without asking")] = False,
    as_json: Json = False,
) -> None:
    """Check versions, disk, settings, model files, the store, its evidence and the registry. Exit status 1 if something is wrong."""
    if rebuild:
        _rebuild(yes=yes, as_json=as_json)
        return
    from flows.doctor import diagnose

    findings = diagnose(quick=quick)
    print_rows(findings, as_json=as_json)
    if any(row["result"] == "wrong" for row in findings):
        raise typer.Exit(1)


def _rebuild(*, yes: bool, as_json: bool) -> None:
    settings = start(writes=True)
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Rebuild the store in {settings.home}? The old file is kept beside it.")):
        raise InputError("nothing was changed; run 'align doctor --rebuild --yes' to rebuild without being asked")
    from flows.rebuild import rebuild

    rows, lost = rebuild(settings)
    if as_json:
        print_json({"tables": rows, "lost": lost})
    elif rows:
        print_rows(rows, as_json=False)
    if not rows and not lost and not as_json:
        print("the store is whole: nothing was rebuilt")
    for line in lost:
        print(f"lost: {printable(line)}", file=sys.stderr)
    if lost:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of `align`."""
    app()
