"""A canary: a registered release that answers a share of the traffic beside the champion, until it is promoted, rolled back or ended.

Effects: writes `<home>/releases`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from alignment.errors import ReleaseError
from alignment.release.disk import (
    CANARY,
    is_quarantined,
    keep_reserve,
    locked,
    next_seq,
    root,
    sync_folder,
    with_reserve,
    write_durably,
)
from alignment.release.events import tell_store
from alignment.release.pointer import Canary, audit_canary, current, current_canary, end_in_log, history, log_canary, serving, write_serving
from alignment.release.registry import finish_quarantine, inspect, right_of, take_out
from alignment.release.rights import may_serve, records_of, refuse

Ending = Literal["canary_ended", "canary_rolled_back"]
REGISTRY = "registry"
"""Actor of removals for lack of a right to be served."""


def start_canary(home: Path, release_id: str, *, share: float, actor: str, reason: str, now: datetime, approval: bool = False) -> Canary:
    """Give a verified release that may be served `share` (above 0, at most 0.5) of the traffic, replacing any other canary.

    Repeating a call changes nothing; another share starts a new comparison. `approval`: see `may_serve`.

    Raises:
        ReleaseError: the share is out of range, or the release is unknown, changed, quarantined, in production, or may not be served.
    """
    check_share(share)
    with locked(home):
        started = put_canary(home, release_id, share=share, actor=actor, reason=reason, now=now, approval=approval)
    tell_store(home)
    return started


def check_share(share: float) -> None:
    """Refuse a share that is out of range for a canary."""
    if not 0 < share <= 0.5:
        raise ReleaseError(f"a canary's share is above 0 and at most 0.5, {share!r} is not; give --share 0.1, or promote the release")


def put_canary(home: Path, release_id: str, *, share: float, actor: str, reason: str, now: datetime, approval: bool = False) -> Canary:
    """Do as `start_canary` for a caller that holds the lock."""
    verified = inspect(home, release_id)
    if is_quarantined(home, release_id):
        raise ReleaseError(f"release {release_id!r} is quarantined and gets no traffic; see 'align release show {release_id}'")
    if release_id == (here := current(home)):
        raise ReleaseError(f"release {release_id!r} is in production already; a canary is another one ('align release list')")
    refuse(may_serve(release_id, records_of(home, release_id, verified), approval=approval, share=share))
    held = current_canary(home)
    if held and (held.release_id, held.share) == (release_id, share):
        write_serving(home)
        return held
    if held:
        end_in_log(home, "canary_ended", held, actor=actor, reason=f"in favour of {release_id}", now=now)
    keep_reserve(home)
    started = Canary(release_id, here, share, actor, reason, now.isoformat(), len(history(home)), next_seq(home))
    audit_canary(home, "canary_started", started, actor=actor, reason=reason)
    # Write the file before the log: after a kill in between, `canary_events` reads the start from it.
    write_durably(root(home) / CANARY, json.dumps(started._asdict()) + "\n")
    log_canary(home, "canary_started", started, actor=actor, reason=reason, now=now, seq=started.seq)
    write_serving(home)
    return started


def end_canary(home: Path, *, actor: str, reason: str, now: datetime, event: Ending = "canary_ended", only: Canary | None = None) -> str:
    """Return all traffic to the champion; return the ended canary's id. With `only`, end no other canary than that.

    Raises:
        ReleaseError: there is no canary, or it is not `only`.
    """

    def act() -> str:
        with locked(home):
            held = current_canary(home)
            if held is None or only not in (None, held):
                raise ReleaseError(
                    f"{only.release_id if only else 'no release'} is a canary by now; 'align release canary' shows what holds"
                )
            # Write the log first: after a kill, a rolled-back canary must not come back, but may be ended twice.
            end_in_log(home, event, held, actor=actor, reason=reason, now=now)
            (root(home) / CANARY).unlink()
            sync_folder(root(home))
            write_serving(home)
            return held.release_id

    ended = with_reserve(home, act)
    tell_store(home)
    return ended


def _bar(home: Path, canary: Canary) -> str:
    """Return why a canary may not be served, empty if it may; changed files count as a reason."""
    try:
        right = right_of(home, canary.release_id, share=canary.share)
    except ReleaseError as error:
        return str(error)
    return "" if right.allowed else right.why


def settle(home: Path, *, now: datetime | None = None) -> dict[str, Any]:
    """Bring what is served in line with what may be served, and update `serving.json` and the store; return `serving.json`'s contents.

    A kill may have left any of them behind, or a right may be lost: a canary without a right is ended, and production steps back. `now` is
    the time recorded for that; by default the clock's.

    Raises:
        ReleaseError: what is served is not as registered.
        StoreError: the store cannot tell what may be served; nothing was changed.
    """
    moment = now or datetime.now(UTC).replace(tzinfo=None)

    def act() -> dict[str, Any]:
        with locked(home):
            finish_quarantine(home)
            # Step back repeatedly: in the end to the base model, which always may serve.
            while (held := current_canary(home)) and (why := _bar(home, held)):
                take_out(home, held.release_id, actor=REGISTRY, reason=f"may not be served: {why}", now=moment)
            while not (right := right_of(home, here := current(home))).allowed:
                take_out(home, here, actor=REGISTRY, reason=f"may not be served: {right.why}", now=moment)
            write_serving(home)
            return serving(home)

    says = with_reserve(home, act)
    keep_reserve(home)
    tell_store(home, look_first=True)
    return says
