"""The canary's test, run each night or by hand: promote or roll back as soon as its outcomes prove enough.

A canary's outcomes do not replace the gate: a release that the gate, or a person, holds back is reported as proven no worse, and stays
where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from prefect import flow, task

from alignment.config import Settings, load_settings
from alignment.errors import ReleaseError
from alignment.ids import content_id
from alignment.release import BASE, Canary, current_canary, end_canary, promote
from alignment.release.canary import Rules, Traffic, Watch, watch
from alignment.store import append, migrate, session, sql
from flows.hooks import deliver
from flows.night import now
from flows.show import say

ACTOR = "canary monitor"


@dataclass(frozen=True)
class Looked:
    """One look at a canary, before acting on it; `began` is when the look started to read."""

    held: Canary
    found: Watch
    began: datetime


def rules_of(settings: Settings) -> Rules:
    """Return the test's rules from the settings."""
    chosen = settings.release
    return Rules(chosen.canary_alpha, chosen.canary_margin, chosen.canary_harm, chosen.canary_min_exchanges)


def look(settings: Settings, held: Canary) -> Looked:
    """Test a canary on the logs so far. Changes nothing."""
    champion = settings.release.base_name if held.champion == BASE else held.champion
    names = {
        "canary": [held.release_id, *settings.release.canary_names],
        "champion": [champion, champion.rsplit("/", 1)[-1], *settings.release.champion_names],
    }
    since = {"since": datetime.fromisoformat(held.started_at), "release": held.release_id}
    # Taken before reading: lines that arrive from here on are new to the next look.
    began = now()
    with session(settings.home) as connection:
        rows = connection.execute(sql("flows", "canary_outcomes"), names | since).fetchnumpy()
    traffic = Traffic(*(np.asarray(rows[name], dtype=np.int64) for name in Traffic._fields))
    return Looked(held, watch(traffic, rules_of(settings)), began)


def _record(settings: Settings, looked: Looked) -> dict[str, Any]:
    held, found, moment = looked.held, looked.found, looked.began
    last = found.curve[-1] if found.curve else None
    row = {
        "id": content_id("canary check", held, moment),
        "release_id": held.release_id,
        "champion": held.champion,
        "share": held.share,
        "decision": found.decision,
        "reason": found.reason,
        **{name: getattr(found, name) for name in ("canary_exchanges", "canary_failures", "champion_exchanges", "champion_failures")},
        "blocks": found.blocks,
        **{name: getattr(last, name) if last else None for name in ("diff", "low", "high")},
        "alpha": settings.release.canary_alpha,
        "margin": settings.release.canary_margin,
        "harm": settings.release.canary_harm,
        "curve": [list(point) for point in found.curve],
        "started_at": datetime.fromisoformat(held.started_at),
        "recorded_at": moment,
    }
    with session(settings.home, write=True) as connection:
        append(connection, "canary_checks", [row])
    return row


def _act(settings: Settings, looked: Looked) -> str:
    """Carry out the look's decision; return what was done. People's changes in the meantime win."""
    held, found = looked.held, looked.found
    try:
        if found.decision == "promote":
            promote(
                settings.home,
                held.release_id,
                actor=ACTOR,
                reason=found.reason,
                now=now(),
                replacing=held.champion,
                held=held,
                approval=settings.gate.approval == "required",
            )
            event = "promoted"
        elif found.decision == "roll back":
            end_canary(settings.home, actor=ACTOR, reason=found.reason, now=now(), event="canary_rolled_back", only=held)
            event = "canary_rolled_back"
        else:
            return "nothing"
    except ReleaseError as error:
        say(f"the canary's test says {found.decision!r}, but nothing was done: {error}")
        return f"nothing: {error}"
    say(f"canary {held.release_id}: {found.decision}; {found.reason}")
    return event


@task
def check() -> dict[str, Any]:
    """Look at the canary once and act on what its outcomes prove; return the look and what was done."""
    settings = load_settings()
    held = current_canary(settings.home)
    if held is None:
        return {"decision": "no canary", "done": "nothing"}
    migrate(settings.home)
    looked = look(settings, held)
    row = _record(settings, looked)
    return {**{name: value for name, value in row.items() if name not in ("id", "curve")}, "done": _act(settings, looked)}


@flow(name="canary")
def watch_canary() -> dict[str, Any]:
    """Look at the canary, act, and tell the hooks."""
    found = check()
    deliver(load_settings())
    return found
