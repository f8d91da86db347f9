"""`align release`: the registry by hand."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from alignment.config import Settings
from alignment.text import printable
from flows.command import Actor, Json, app, command, print_json, print_rows, start

releases = typer.Typer(no_args_is_help=True, help="The registry: what was released, and what is in production.")
app.add_typer(releases, name="release")


@command(releases, "list")
def release_list(as_json: Json = False) -> None:
    """List all releases, newest first."""
    settings = start()
    from alignment.release import list_releases
    from flows.erase import training_of

    decided, training = _decisions(settings), training_of(settings)
    columns = ["release_id", "status", "decision", "champion", "night_id", "created_at", *["training"] * bool(training)]
    rows = []
    for row in list_releases(settings.home):
        last = {"decision": decided.get(row["release_id"], row.get("decision", "")), "created_at": str(row.get("created_at", ""))[:19]}
        last["training"] = training.get(row["release_id"], "")
        rows.append({name: ({**row, **last}).get(name, "") for name in columns})
    print_rows(rows, as_json=as_json)


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
    settings = start()
    from alignment.release import folder_of
    from flows.erase import training_of

    folder, training = folder_of(settings.home, release_id), training_of(settings).get(release_id)
    if as_json:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        print_json(manifest | ({"training": training} if training else {}) | {"people": _people(settings, release_id)})
        return
    print((folder / "card.md").read_text(encoding="utf-8"))
    if decision := _decisions(settings).get(release_id):
        print(f"The gate's last word: {decision}")
    if training:
        print(f"Training: {training}")
    for row in _people(settings, release_id):
        moment = row["decided_at"].isoformat(sep=" ", timespec="minutes")
        print(f"{row['verdict'].capitalize()} by {printable(row['actor'])} on {moment}: {printable(row['reason'])}")


def _people(settings: Settings, release_id: str) -> list[dict[str, Any]]:
    """Return who approved, refused or overrode the gate on a release; the card itself is sealed when it is registered."""
    from alignment.release.approval import said_of
    from alignment.store import migrate, store_path

    if not store_path(settings.home).exists():
        return []
    migrate(settings.home)
    return said_of(settings.home, release_id)


def _recorded(settings: Settings, release_id: str, event: str, actor: str, reason: str) -> None:
    from alignment.store import migrate
    from flows.release import record_events

    migrate(settings.home)
    record_events(settings, [(release_id, event, actor, reason, None)])


@command(releases, "promote")
def release_promote(release_id: str, reason: Annotated[str, typer.Option(help="why, for the record")], actor: Actor = "unknown") -> None:
    """Put a registered release into production by hand."""
    settings = start()
    from alignment.release import promote
    from flows.night import now

    previous = promote(settings.home, release_id, actor=actor, reason=reason, now=now())
    _recorded(settings, release_id, "promoted", actor, reason)
    print(f"{release_id} is in production; before it was {previous}")


@command(releases, "rollback")
def release_rollback(reason: Annotated[str, typer.Option(help="why, for the record")], actor: Actor = "unknown") -> None:
    """Return to what was in production before. Nothing is deleted."""
    settings = start()
    from alignment.release import rollback
    from flows.night import now

    target = rollback(settings.home, actor=actor, reason=reason, now=now())
    _recorded(settings, target, "rolled_back", actor, reason)
    print(f"{target} is in production")


@command(releases, "quarantine")
def release_quarantine(release_id: str, reason: Annotated[str, typer.Option(help="why, for the record")], actor: Actor = "unknown") -> None:
    """Bar a release from production for good; rolls back if it is there."""
    settings = start()
    from alignment.release import current, quarantine
    from flows.night import now

    before = current(settings.home)
    target = quarantine(settings.home, release_id, actor=actor, reason=reason, now=now())
    _recorded(settings, release_id, "quarantined", actor, reason)
    if target != before:
        _recorded(settings, target, "rolled_back", actor, reason)
    print(f"{release_id} is quarantined; {target} is in production")
