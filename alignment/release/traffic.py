"""A canary: a registered release that answers a share of the traffic beside the champion, until it is promoted, rolled back or ended.

Effects: writes `<home>/releases`.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from alignment.errors import ReleaseError
from alignment.ids import content_id
from alignment.release.disk import BASE, CANARIES, CANARY, is_quarantined, locked, read_rows, root, sync_folder, write_durably
from alignment.release.pointer import Canary, current, current_canary, history, log_canary, serving, write_serving
from alignment.release.registry import finish_quarantine, verify

Ending = Literal["canary_ended", "canary_rolled_back"]


def start_canary(home: Path, release_id: str, *, share: float, actor: str, reason: str, now: datetime) -> Canary:
    """Give a verified release `share` (above 0, at most 0.5) of the traffic, in place of any other canary.

    Asking for what holds already changes nothing; another share begins a new comparison.

    Raises:
        ReleaseError: the share is out of range, or the release is unknown, changed, quarantined or in production.
    """
    if not 0 < share <= 0.5:
        raise ReleaseError(f"a canary's share is above 0 and at most 0.5, {share!r} is not; give --share 0.1, or promote the release")
    with locked(home):
        verify(home, release_id)
        if is_quarantined(home, release_id):
            raise ReleaseError(f"release {release_id!r} is quarantined and gets no traffic; see 'align release show {release_id}'")
        if release_id == (here := current(home)):
            raise ReleaseError(f"release {release_id!r} is in production already; a canary is another one ('align release list')")
        held = current_canary(home)
        if held and (held.release_id, held.share) == (release_id, share):
            write_serving(home)
            return held
        if held:
            log_canary(home, "canary_ended", held, actor=actor, reason=f"in favour of {release_id}", now=now)
        started = Canary(release_id, here, share, actor, reason, now.isoformat(), len(history(home)))
        # The file first: after a kill in between, `canary_events` reads the start from it.
        write_durably(root(home) / CANARY, json.dumps(started._asdict()) + "\n")
        log_canary(home, "canary_started", started, actor=actor, reason=reason, now=now)
        write_serving(home)
    return started


def end_canary(home: Path, *, actor: str, reason: str, now: datetime, event: Ending = "canary_ended", only: Canary | None = None) -> str:
    """Give all traffic back to the champion; return what was the canary. With `only`, that one or none is ended.

    Raises:
        ReleaseError: there is no canary, or another one.
    """
    with locked(home):
        held = current_canary(home)
        if held is None or only not in (None, held):
            raise ReleaseError(f"{only.release_id if only else 'no release'} is a canary by now; 'align release canary' shows what holds")
        # The log first: a canary that was rolled back must not come back after a kill, but may be ended twice.
        log_canary(home, event, held, actor=actor, reason=reason, now=now)
        (root(home) / CANARY).unlink()
        sync_folder(root(home))
        write_serving(home)
        return held.release_id


def canary_events(home: Path) -> list[dict[str, Any]]:
    """Return what happened to canaries, oldest first."""
    rows = read_rows(root(home) / CANARIES)
    held = current_canary(home)
    started = {(row["release_id"], row["recorded_at"]) for row in rows if row["event"] == "canary_started"}
    if held and (held.release_id, held.started_at) not in started:
        row = {"event": "canary_started", "release_id": held.release_id, "previous": held.champion, "share": held.share}
        rows.append({**row, "actor": held.actor, "reason": held.reason, "recorded_at": held.started_at})
    return rows


def changes(home: Path) -> list[dict[str, Any]]:
    """Return every change of what is served, oldest first, each with an `id` that stays."""
    rows = sorted([*history(home), *canary_events(home)], key=lambda row: str(row["recorded_at"]))
    return [{"id": content_id("change", row["event"], row["release_id"], row["previous"], row["recorded_at"]), **row} for row in rows]


def settle(home: Path) -> dict[str, Any]:
    """Write `serving.json` again if a kill left it behind, and step back from a release whose quarantine it cut short; return what it says.

    Raises:
        ReleaseError: what is in production is not as it was registered.
    """
    with locked(home):
        finish_quarantine(home)
        says = serving(home)
        for release_id in {says["champion"], says["canary"]} - {BASE, None}:
            verify(home, release_id)
        write_serving(home)
    return says
