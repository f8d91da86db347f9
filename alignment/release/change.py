"""A person's change of what is served: planned and shown first, and carried out only if everything is still as it was shown.

Between the two, production may move, the gate may decide again, or somebody else may act. The plan names all that the person relies on,
so one comparison under the registry's lock finds any of these.

Effects: `carry_out` moves the registry's pointer, appends to the audit log and the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from alignment.errors import ReleaseError, ReleaseMoved
from alignment.release.approval import place_by_hand, refuse_nameless
from alignment.release.disk import is_quarantined, locked, next_seq, with_reserve
from alignment.release.events import changes, tell_store
from alignment.release.pointer import current, current_canary
from alignment.release.registry import bar, check_place, folder_of, step_back, way_back
from alignment.release.rights import Right, may_serve, records_of

Action = Literal["promote", "roll back", "quarantine"]


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """What one action would change: production `before` and `after`, and the canary that ends with it.

    `right` says on what basis a promotion serves the release, or what it overrides. `seq` is the number that the registry's next event
    gets: any other change takes it first.
    """

    action: Action
    release_id: str
    before: str
    after: str
    right: Right | None
    canary: str | None
    seq: int

    @property
    def overrides(self) -> bool:
        """Whether it serves what the gate or a person holds back, or what nobody decided on."""
        return self.right is not None and not self.right.allowed


def plan_change(home: Path, action: Action, release_id: str, *, approval: bool) -> PlannedChange:
    """Return what an action on `release_id` would change; `approval`: see `may_serve`. Hashes the release's files; changes nothing.

    Raises:
        ReleaseError: it cannot be done: the release is unknown, changed, quarantined, already there, or not in production.
    """
    # Read first: whatever happens from here on makes the plan outdated.
    seq, before, canary = next_seq(home), current(home), current_canary(home)
    right, after, ends = None, before, canary.release_id if canary else None
    if action == "promote":
        if before == release_id:
            raise ReleaseError(f"{release_id} is in production already; nothing is left to promote")
        verified = check_place(home, release_id)
        right, after = may_serve(release_id, records_of(home, release_id, verified), approval=approval), release_id
    elif action == "roll back":
        if before != release_id:
            raise ReleaseError(f"{release_id} is not in production, {before} is; only what is in production can be rolled back")
        after = way_back(home)
    else:
        folder_of(home, release_id)
        if is_quarantined(home, release_id):
            raise ReleaseError(f"{release_id} is quarantined already; 'align release list' shows the others")
        after = way_back(home) if before == release_id else before
    # A canary stands beside one champion: it ends when production moves, or when it is barred itself.
    ends = ends if after != before or ends == release_id else None
    return PlannedChange(action, release_id, before, after, right, ends, seq)


def carry_out(home: Path, plan: PlannedChange, *, approval: bool, actor: str, reason: str, now: datetime) -> str:
    """Do what was planned; return what is in production afterwards. A rollback and a quarantine work on a full disk.

    Raises:
        ReleaseError: the name or reason is missing.
        ReleaseMoved: something that the plan relies on has changed since; nothing was done.
    """
    refuse_nameless(actor, reason)
    # The lock is outside the reserve here: nobody may act between the comparison and the second try on a full disk.
    with locked(home):
        _refuse_outdated(home, plan, approval=approval)
        if plan.action == "promote":
            place_by_hand(home, plan.release_id, approval=approval, actor=actor, reason=reason, now=now)
        elif plan.action == "roll back":
            with_reserve(home, lambda: step_back(home, actor=actor, reason=reason, now=now.isoformat()))
        else:
            with_reserve(home, lambda: bar(home, plan.release_id, actor=actor, reason=reason, now=now))
        here = current(home)
    tell_store(home)
    return here


def _refuse_outdated(home: Path, plan: PlannedChange, *, approval: bool) -> None:
    try:
        fresh = plan_change(home, plan.action, plan.release_id, approval=approval)
    except ReleaseError as error:
        raise ReleaseMoved(f"{_since(home, plan)}; nothing was done: {error}") from error
    if fresh != plan:
        raise ReleaseMoved(f"{_since(home, plan)}; nothing was done. Look at it as it is now, and decide again")


def _since(home: Path, plan: PlannedChange) -> str:
    """Return what happened since the plan was made."""
    happened = [row for row in changes(home) if (row.get("seq") or 0) >= plan.seq]
    here = current(home)
    moved = f"; {here} is in production by now, it was {plan.before}" if here != plan.before else ""
    if happened:
        return f"this was shown before {_told(happened[-1])}{moved}"
    if moved:
        return f"this was shown before production moved{moved}"
    return f"what is on record about {plan.release_id} has changed since this was shown"


def _told(row: Mapping[str, Any]) -> str:
    """Return one change of the registry in words.

    >>> _told({"actor": "Ada", "event": "rolled_back", "release_id": "base"})
    'Ada changed what is served (rolled back, base)'
    """
    return f"{row.get('actor') or 'somebody'} changed what is served ({str(row['event']).replace('_', ' ')}, {row['release_id']})"
