"""`align gate`: decide on the last trained challenger, or record a person's decision on it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from alignment.config import Settings
from alignment.errors import InputError
from alignment.text import printable
from flows.cli.base import Actor, Json, Misuse, answering, app, command, print_json, print_rows, start

NightId = Annotated[str | None, typer.Option("--night", help="the night's id; the newest unfinished night if not given")]


def begin_night(settings: Settings, night_id: str | None) -> str:
    """Return the named, the unfinished or a new night, with the bundled seeds in the store, and record that it was started.

    Raises:
        InputError: there is no such night.
    """
    from flows.night import plan_night, record_night
    from flows.seeds import sync_bundled

    begun = _begun(settings, night_id)
    sync_bundled(settings)
    night = begun or plan_night(settings).id
    record_night(settings.home, night, "started", {})
    return night


def _begun(settings: Settings, night_id: str | None) -> str | None:
    """Return the named or the unfinished night; None if there is neither.

    Raises:
        InputError: there is no such night.
    """
    from alignment.store import migrate
    from flows.night import night_ids, unfinished

    migrate(settings.home)
    if night_id and night_id not in (known := night_ids(settings.home)):
        raise InputError(f"no night {night_id!r}; known are {', '.join(known) or 'none yet'} (newest first)")
    return night_id or unfinished(settings.home)


@command(app, "gate")
def gate_command(
    night: Annotated[str | None, typer.Option("--night", help="the challenger's night; the last that trained if not given")] = None,
    again: Annotated[bool, typer.Option("--again", help="first discard stored answers that were altered, and generate them again")] = False,
    approve: Annotated[str | None, typer.Option(metavar="NIGHT", help="release what waits for approval since this night")] = None,
    refuse: Annotated[str | None, typer.Option(metavar="NIGHT", help="refuse what waits for approval since this night")] = None,
    override: Annotated[
        str | None, typer.Option(metavar="REASON", help="release what the gate held back (last decision, or --night)")
    ] = None,
    reason: Annotated[str, typer.Option(help="with --approve or --refuse: why, for the record")] = "",
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Evaluate the last challenger of 'align train' against production, and release it if the gate says so. Exit status 3 if not released.

    With --approve, --refuse or --override a person decides; their name and reason are kept for ever.
    """
    spoken = {"approved": approve, "refused": refuse, "overridden": override}
    given = {verdict: value for verdict, value in spoken.items() if value is not None}
    if len(given) > 1 or (given and again) or bool(reason.strip()) != bool(approve or refuse):
        raise Misuse("give one of --approve NIGHT, --refuse NIGHT (both with --reason TEXT), --override REASON or --again, or none")
    if given:
        [(verdict, value)] = given.items()
        _say(
            verdict,
            night if override is not None else value,
            reason=value if override is not None else reason,
            actor=actor,
            as_json=as_json,
        )
        return
    decided = _decide(night, again=again)
    _show(decided, as_json=as_json)
    if decided["state"] != "released":
        raise typer.Exit(3)


def _say(verdict: Any, night: str | None, *, reason: str, actor: str, as_json: bool) -> None:
    settings = start()
    from alignment.release.approval import last_decision, say
    from alignment.store import migrate
    from flows.approve import let_go
    from flows.hooks import deliver
    from flows.night import now

    actor = answering(actor)
    migrate(settings.home)
    here = say(settings.home, night, verdict, actor=actor, reason=reason, now=now())
    deliver(settings)
    let_go(settings)
    decision = last_decision(settings.home, night)
    if as_json:
        print_json({"verdict": verdict, "night_id": decision["night_id"], "release_id": decision["challenger"], "in_production": here})
    else:
        print(f"{decision['challenger']} was {verdict} by {printable(actor)}; {here} is in production")


def _decide(night: str | None, *, again: bool) -> dict[str, Any]:
    settings = start(writes=True, runs_flows=True)
    from alignment.store import export
    from flows.evaluate import discard_broken
    from flows.gate import trained_challenger
    from flows.hooks import deliver
    from flows.night import only_night, record_night
    from flows.nightly import summarise
    from flows.notifications import tell_end
    from flows.show import say
    from flows.stages import run_stage

    with only_night(settings):
        night_id = trained_challenger(settings.home, night and _begun(settings, night)).night_id
        if again:
            say(f"{discard_broken(settings)} answers were changed since they were stored and are asked anew")
        decided = run_stage(settings.home, night_id, "gate")
        deliver(settings)
        # Otherwise the next night's manual stages would belong to this night.
        summary = summarise(settings, night_id, decided)
        record_night(settings.home, night_id, "finished", summary)
        export(settings.home)
    tell_end(settings, summary)
    return decided


def _show(decided: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(decided)
        return
    columns = ("name", "champion", "challenger", "diff", "low", "high", "n", "clusters", "status")
    print_rows([{name: metric[name] for name in columns} for metric in decided["metrics"]], as_json=False)
    print(f"Verdict: {decided['decision']} ({decided['state']})")
