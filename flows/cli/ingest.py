"""`align ingest`: read logs, explain a file, list and replay the quarantine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from alignment.config import Settings
from alignment.ids import short
from alignment.text import cap
from flows.cli.base import Json, Misuse, app, command, one_of, print_json, print_rows, start

Preset = Annotated[str | None, typer.Option(help="kind of log in --logs, instead of [ingest] preset")]
Logs = Annotated[list[str] | None, typer.Option("--logs", help="log file, glob or URL, instead of the configured sources; may be repeated")]


@command(app, "ingest")
def ingest_command(
    logs: Logs = None,
    preset: Preset = None,
    source: Annotated[str | None, typer.Option(help="read only this configured source")] = None,
    since: Annotated[datetime | None, typer.Option(help="only files that changed since this time (UTC)")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="report what would be stored and quarantined, and store nothing")] = False,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="list quarantined lines instead")] = False,
    explain: Annotated[
        str | None, typer.Option("--explain", help="report which preset fits this file's first lines, and why a line is not read")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="read quarantined lines again, after a correction")] = False,
    reason: Annotated[str | None, typer.Option(help="with --quarantine or --replay: only lines with this reason")] = None,
    limit: Annotated[int, typer.Option(min=1, help="with --quarantine: lines to list")] = 50,
    accept: Annotated[
        bool, typer.Option("--accept", help="accept what the data checks stop, and files that were set aside, this once")
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
