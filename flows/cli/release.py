"""`align release`: manage the registry by hand."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from alignment.config import Settings
from alignment.text import printable
from flows.cli.base import Actor, Json, Misuse, answering, app, command, print_json, print_rows, start

releases = typer.Typer(no_args_is_help=True, help="The registry: what was released, and what is in production.")
app.add_typer(releases, name="release")
Reason = Annotated[str, typer.Option(help="why, for the record")]


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
    """Return the gate's latest decision on each release: a release that was registered once may be gated again."""
    from alignment.store import query, store_path

    if not store_path(settings.home).exists():
        return {}
    rows = query(settings.home, "SELECT challenger, max_by(decision, seq) AS decision FROM gate_decisions GROUP BY challenger")
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
    for row in _told(settings, release_id):
        print(f"Hook {row['hook']} ({row['event']}): {'done' if row['ok'] else 'failed'}, {printable(row['detail'])}")


def _people(settings: Settings, release_id: str) -> list[dict[str, Any]]:
    """Return who approved, refused or overrode the gate on a release; the card itself is sealed at registration."""
    from alignment.release.approval import said_of

    return said_of(settings.home, release_id) if _has_store(settings) else []


def _told(settings: Settings, release_id: str) -> list[dict[str, Any]]:
    """Return the last attempt of each hook for each of a release's changes."""
    from alignment.store import query, sql

    return query(settings.home, sql("alignment.store", "hook_states"), {"release": release_id, "limit": 20}) if _has_store(settings) else []


def _has_store(settings: Settings) -> bool:
    from alignment.store import migrate, store_path

    if not store_path(settings.home).exists():
        return False
    migrate(settings.home)
    return True


def _hooks(settings: Settings) -> list[dict[str, Any]]:
    """Call the hooks after the pointer moved; failures are reported and change nothing else."""
    from flows.hooks import deliver

    runs = deliver(settings)
    if any(not run["ok"] for run in runs):
        print("'align release push' repeats what failed", file=sys.stderr)
    return runs


@command(releases, "promote")
def release_promote(release_id: str, reason: Reason, actor: Actor = "") -> None:
    """Put a registered release into production by hand.

    A release that the gate holds back, or never decided on, needs --actor; its promotion is recorded as an override.
    """
    settings = start()
    actor = answering(actor)
    from alignment.release import current
    from alignment.release.approval import promote_by_hand
    from alignment.store import migrate
    from flows.night import now

    migrate(settings.home)
    previous, approval = current(settings.home), settings.gate.approval == "required"
    overridden = promote_by_hand(settings.home, release_id, approval=approval, actor=actor, reason=reason, now=now())
    print(f"{release_id} is in production{', over the gate' * overridden}; before it was {previous}")
    _hooks(settings)


@command(releases, "rollback")
def release_rollback(reason: Reason, actor: Actor = "") -> None:
    """Return to the release that was in production before. Nothing is deleted."""
    settings = start()
    actor = answering(actor)
    from alignment.release import rollback
    from flows.night import now

    target = rollback(settings.home, actor=actor, reason=reason, now=now())
    print(f"{target} is in production")
    _hooks(settings)


@command(releases, "quarantine")
def release_quarantine(release_id: str, reason: Reason, actor: Actor = "") -> None:
    """Bar a release from production for good; roll back if it is in production."""
    settings = start()
    actor = answering(actor)
    from alignment.release import quarantine
    from flows.night import now

    target = quarantine(settings.home, release_id, actor=actor, reason=reason, now=now())
    print(f"{release_id} is quarantined; {target} is in production")
    _hooks(settings)


@command(releases, "push")
def release_push(as_json: Json = False) -> None:
    """Tell the hooks what is served, if they do not know yet, and rewrite serving.json. Exit status 1 if a hook fails."""
    settings = start()
    from alignment.acting import acting_name
    from alignment.release import current, settle
    from alignment.release.hooks import configured
    from alignment.store import audit
    from flows.approve import let_go

    audit.append(settings.home, "pushed", current(settings.home), actor=acting_name())
    says = settle(settings.home)
    runs = _hooks(settings)
    if _has_store(settings):
        let_go(settings)
    rows = [{name: run[name] for name in ("hook", "event", "release_id", "ok", "tries", "detail")} for run in runs]
    if as_json:
        print_json({"serving": says, "hooks": rows})
    elif rows:
        print_rows(rows, as_json=False)
    else:
        print(f"{says['champion']} is in production; " + ("all hooks know it" if configured(settings) else "[release] names no hook"))
    if any(not run["ok"] for run in runs):
        raise typer.Exit(1)


@command(releases, "diff")
def release_diff(a: str, b: str, as_json: Json = False) -> None:
    """Compare two releases ('base' is the base model): settings, lineage, pairs, metrics with intervals, files."""
    settings = start()
    from flows.compare import compare

    found = compare(settings, a, b)
    if as_json:
        print_json(found)
        return
    for title, rows in found["changes"].items():
        print(f"\n{title}: " + (f"{len(rows)} differ" if rows else "the same"))
        if rows:
            print_rows([{"name": name, "a": sides["a"], "b": sides["b"]} for name, sides in rows.items()], as_json=False)


@command(releases, "canary")
def release_canary(
    release_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="the release that gets a share; without it, show the current canary")
    ] = None,
    share: Annotated[float, typer.Option(help="share of the traffic, above 0 and at most 0.5")] = 0.1,
    end: Annotated[bool, typer.Option("--end", help="give all traffic back to the champion")] = False,
    check: Annotated[bool, typer.Option("--check", help="test the outcomes, and promote or roll back if they prove enough")] = False,
    override: Annotated[bool, typer.Option("--override", help="allow a release that the gate holds back; needs --actor")] = False,
    reason: Annotated[str | None, typer.Option(help="why, for the record")] = None,
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Let a release answer a share of the traffic, and watch it with an anytime-valid test.

    A release that the gate holds back, or never decided on, needs --override and --actor; this is recorded.
    """
    if sum((release_id is not None, end, check)) > 1:
        raise Misuse("a release id, --end and --check do not go together; give one of them")
    if (release_id or end) and not reason:
        raise Misuse("--reason is missing: say why, for the record")
    if not 0 < share <= 0.5:
        raise Misuse(f"--share {share:g} is no share; give more than 0 and at most 0.5")
    settings = start()
    if check:
        from flows.canary import check as look

        print_rows([look.fn()], as_json=as_json)
        _hooks(settings)
        return
    if release_id or end:
        actor = answering(actor)
        _change_canary(settings, release_id, share=share, override=override, actor=actor, reason=reason or "")
        _hooks(settings)
    _show_canary(settings, as_json=as_json)


def _change_canary(settings: Settings, release_id: str | None, *, share: float, override: bool, actor: str, reason: str) -> None:
    from alignment.release import end_canary, start_canary
    from alignment.release.approval import canary_by_hand
    from flows.night import now

    home, approval = settings.home, settings.gate.approval == "required"
    if release_id and override:
        canary_by_hand(home, release_id, share=share, approval=approval, actor=actor, reason=reason, now=now())
    elif release_id:
        start_canary(home, release_id, share=share, approval=approval, actor=actor, reason=reason, now=now())
    else:
        end_canary(home, actor=actor, reason=reason, now=now())


def _show_canary(settings: Settings, *, as_json: bool) -> None:
    from alignment.release import current_canary

    held = current_canary(settings.home)
    if as_json:
        print_json({"canary": held._asdict() if held else None})
    elif held is None:
        print("no canary: the champion answers everything")
    else:
        print(
            f"{held.release_id} answers {held.share:.0%} beside {held.champion} since {held.started_at[:19]} UTC "
            f"({printable(held.actor)}: {printable(held.reason)})"
        )
