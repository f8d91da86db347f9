"""People's verdicts on the gate's decisions: approve or refuse a decision that waits, or override one that held a release back.

A verdict is never changed or revoked; a later promotion or rollback adds another row to the same history. A verdict is bound to the
decision's number and the release's weights. It is recorded, in the journal too, before the pointer moves: nothing is served whose right
is not on record. After a kill between the two, repeating the call completes it.

Effects: moves the registry's pointer, appends to the store and its journal.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from alignment.errors import ReleaseError
from alignment.ids import content_id, short
from alignment.release.contents import Verified
from alignment.release.disk import is_quarantined, locked
from alignment.release.events import tell_store
from alignment.release.pointer import Canary, current
from alignment.release.registry import check_place, place, right_of, take_out, taken_back, times_left
from alignment.release.rights import may_serve, records_of
from alignment.release.traffic import check_share, put_canary, start_canary
from alignment.store import append_durably, audit, migrate, query, sql

Say = Literal["approved", "refused", "overridden"]
WAITS = "waits_for_approval"


def last_decision(home: Path, night_id: str | None) -> dict[str, Any]:
    """Return the gate's last decision of a night (of any night if None), with `waits` and the last `verdict` of a person.

    Raises:
        ReleaseError: the gate has not decided on the night.
    """
    rows = query(home, sql("alignment.release", "gate_last_decision"), {"night": night_id, "release": None})
    if not rows:
        raise ReleaseError(
            f"the gate has not decided on night {night_id!r}; see 'align status'" if night_id else "the gate has not decided yet"
        )
    return rows[0]


def said_of(home: Path, release_id: str) -> list[dict[str, Any]]:
    """Return every verdict of people on the gate's decisions on a release, oldest first."""
    return query(
        home,
        "SELECT verdict, actor, reason, decided_at, decision_id, night_id FROM gate_verdicts WHERE release_id = ? ORDER BY seq",
        [release_id],
    )


def verdicts_on(home: Path, decision_id: str) -> list[dict[str, Any]]:
    """Return people's verdicts on a decision, oldest first."""
    return query(home, "SELECT verdict, actor, reason FROM gate_verdicts WHERE decision_id = ? ORDER BY seq", [decision_id])


def last_approved(home: Path, *, besides: str) -> str | None:
    """Return the last release other than `besides` that a person approved, or overrode the gate for, and nobody took back since."""
    rows = query(home, sql("alignment.release", "last_approved"), {"besides": besides})
    found = (str(row["release_id"]) for row in rows)
    return next((one for one in found if not is_quarantined(home, one) and not taken_back(home, one)), None)


def say(home: Path, night_id: str | None, verdict: Say, *, actor: str, reason: str, now: datetime, seen: str | None = None) -> str:
    """Record a person's verdict on a night's last decision and act on it; return what is in production afterwards.

    An approved release replaces only the release it was compared with; an override replaces whatever is in production. `seen` is the
    decision that the person was shown, if that was some time ago.

    Raises:
        ReleaseError: name or reason is missing, nothing waits or was held back, the release was changed, or the gate has decided on the
            night again since `seen`.
        ReleaseMoved: production has changed since the gate compared, or the release was rolled back or quarantined.
    """
    refuse_nameless(actor, reason)
    with locked(home):
        decision = last_decision(home, night_id)
        if seen not in (None, decision["id"]):
            raise ReleaseError(
                f"the gate has decided on night {decision['night_id']} again since it decided {short(str(seen))}: its last word is "
                f"{decision['decision']!r}; look at it on the dashboard or with 'align status', and answer that one"
            )
        _refuse_what_does_not_fit(decision, verdict)
        if verdict == "refused":
            _refuse(home, decision, actor=actor, reason=reason, now=now)
        else:
            replacing = decision["champion"] if verdict == "approved" else None
            verified = check_place(home, release := decision["challenger"], replacing=replacing)
            _record(home, release, decision, verdict, verified, actor=actor, reason=reason, now=now)
            why = f"{verdict} after gate {short(decision['id'])} said {decision['decision']}: {reason}"
            place(home, release, actor=actor, reason=why, now=now, night_id=decision["night_id"])
        here = current(home)
    tell_store(home)
    return here


def promote_by_hand(home: Path, release_id: str, *, approval: bool, actor: str, reason: str, now: datetime) -> bool:
    """Promote a release on a person's order; return whether that needed an override, which was recorded.

    An override is needed for releases that the gate or a person holds back, and for those that nobody decided on.

    Raises:
        ReleaseError: it is unknown, changed or quarantined, or it needs an override and name or reason is missing.
    """
    with locked(home):
        overridden = place_by_hand(home, release_id, approval=approval, actor=actor, reason=reason, now=now)
    tell_store(home)
    return overridden


def place_by_hand(home: Path, release_id: str, *, approval: bool, actor: str, reason: str, now: datetime) -> bool:
    """Do as `promote_by_hand` for a caller that holds the lock."""
    verified = check_place(home, release_id)
    right = may_serve(release_id, records_of(home, release_id, verified), approval=approval)
    why = reason if right.allowed else _override(home, release_id, verified, actor=actor, reason=reason, now=now)
    place(home, release_id, actor=actor, reason=why, now=now)
    return not right.allowed


def canary_by_hand(home: Path, release_id: str, *, share: float, approval: bool, actor: str, reason: str, now: datetime) -> Canary:
    """Start a canary on a person's order, with a recorded override if it needs one (see `promote_by_hand`).

    Raises:
        ReleaseError: see `start_canary`; or it needs an override and name or reason is missing.
    """
    check_share(share)
    if right_of(home, release_id, approval=approval, share=share).allowed:
        return start_canary(home, release_id, share=share, actor=actor, reason=reason, now=now, approval=approval)
    with locked(home):
        _override(home, release_id, check_place(home, release_id), actor=actor, reason=reason, now=now, share=share)
        started = put_canary(home, release_id, share=share, actor=actor, reason=reason, now=now)
    tell_store(home)
    return started


def override(home: Path, release_id: str, *, actor: str, reason: str, now: datetime) -> None:
    """Record that a person allows a release, as it is and as last decided on, to be served, without serving it yet.

    Raises:
        ReleaseError: it is unknown, changed or quarantined, or name or reason is missing.
    """
    with locked(home):
        _override(home, release_id, check_place(home, release_id), actor=actor, reason=reason, now=now)


def _override(
    home: Path, release_id: str, verified: Verified, *, actor: str, reason: str, now: datetime, share: float | None = None
) -> str:
    """Record an override, for production or for a share; return its text for the pointer's history. The caller holds the lock."""
    refuse_nameless(actor, reason)
    migrate(home)
    decision = _on(home, release_id)
    _record(home, release_id, decision, "overridden", verified, actor=actor, reason=reason, now=now, share=share)
    said = f"gate {short(decision['id'])} said {decision['decision']}" if decision else "no decision of the gate"
    return f"overridden after {said}: {reason}"


def _on(home: Path, release_id: str) -> dict[str, Any] | None:
    rows = query(home, sql("alignment.release", "gate_last_decision"), {"night": None, "release": release_id})
    return rows[0] if rows else None


def refuse_nameless(actor: str, reason: str) -> None:
    """Raise ReleaseError unless a person's act has a name and a reason."""
    if not actor.strip() or not reason.strip():
        raise ReleaseError(f"a verdict needs a name and a reason, not {actor!r} and {reason!r}; give --actor NAME and --reason TEXT")


def _refuse(home: Path, decision: dict[str, Any], *, actor: str, reason: str, now: datetime) -> None:
    release = decision["challenger"]
    # First take it out of use, in case an older decision or an override serves it: a refused release is never served.
    take_out(home, release, actor=actor, reason=f"refused: {reason}", now=now)
    _record(home, release, decision, "refused", None, actor=actor, reason=reason, now=now)
    event = {
        "release_id": release,
        "event": "refused",
        "actor": actor,
        "reason": f"refused: {reason}",
        "night_id": decision["night_id"],
        "recorded_at": now,
    }
    append_durably(home, "release_events", [{"id": content_id(decision["id"], "refused", "event"), **event}])


def _record(
    home: Path,
    release: str,
    decision: dict[str, Any] | None,
    verdict: Say,
    verified: Verified | None,
    *,
    actor: str,
    reason: str,
    now: datetime,
    share: float | None = None,
) -> None:
    """Append a person's verdict, bound to the decision and the weights.

    Each stay in production gets one verdict: repeating a call adds nothing, but a call after a rollback does.
    """
    weights = verified.weights if verified else None
    row = {"decision_id": decision and decision["id"], "night_id": decision and decision["night_id"], "release_id": release}
    row |= {"verdict": verdict, "actor": actor, "reason": reason, "weights": weights, "share": share}
    row |= {"decision_seq": decision["seq"] if decision else 0, "decided_at": now}
    name = content_id(
        decision["id"] if decision else release, verdict, weights, times_left(home, release), *([] if share is None else [share])
    )
    audit.append(home, verdict, release, actor=actor, reason=reason, details={"decision": row["decision_id"], "night": row["night_id"]})
    append_durably(home, "gate_verdicts", [{"id": name, **row}])


def _refuse_what_does_not_fit(decision: dict[str, Any], verdict: Say) -> None:
    night, waits, before = decision["night_id"], decision["waits"], decision["verdict"]
    if verdict == "overridden":
        if decision["decision"] == "promote" and before != "refused":
            raise ReleaseError(
                f"the gate said promote on night {night}: there is nothing to override; 'align release promote' puts any release back"
            )
        return
    if before and before != verdict:
        raise ReleaseError(
            f"night {night} was {before} already; 'align gate --override REASON --night {night}' or 'align release rollback' undo it"
        )
    if not waits:
        raise ReleaseError(f"night {night} does not wait for approval (the gate said {decision['decision']!r}); see 'align status'")
