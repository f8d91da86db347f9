"""What people say of the gate's decisions: approve or refuse what waits for them, or override what was held back.

A verdict is never changed or taken back; who promotes or rolls back later writes another line of the same history. The pointer moves
before the verdict is recorded, and its own history names person and reason: after a kill between the two the same call ends it.

Effects: moves the registry's pointer, appends to the store and its journal.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from alignment.errors import ReleaseError
from alignment.ids import content_id, short
from alignment.release.registry import current, history, promote
from alignment.store import append_durably, audit, query, sql

Say = Literal["approved", "refused", "overridden"]
WAITS = "waits_for_approval"


def last_decision(home: Path, night_id: str | None) -> dict[str, Any]:
    """Return the gate's last decision of a night (of any, without one), with `waits` and the last `verdict` of a person.

    Raises:
        ReleaseError: the gate has not decided on it.
    """
    rows = query(home, sql("gate_last_decision"), {"night": night_id, "release": None})
    if not rows:
        raise ReleaseError(
            f"the gate has not decided on night {night_id!r}; see 'align status'" if night_id else "the gate has not decided yet"
        )
    return rows[0]


def said_of(home: Path, release_id: str) -> list[dict[str, Any]]:
    """Return everything that people said of the gate's decisions on a release, oldest first."""
    return query(
        home,
        "SELECT verdict, actor, reason, decided_at, decision_id, night_id FROM gate_verdicts WHERE release_id = ? ORDER BY decided_at, id",
        [release_id],
    )


def verdicts_on(home: Path, decision_id: str) -> list[dict[str, Any]]:
    """Return what people said of a decision, oldest first."""
    return query(home, "SELECT verdict, actor, reason FROM gate_verdicts WHERE decision_id = ? ORDER BY decided_at, id", [decision_id])


def say(home: Path, night_id: str | None, verdict: Say, *, actor: str, reason: str, now: datetime, seen: str | None = None) -> str:
    """Record a person's verdict on a night's last decision and act on it; return what is in production afterwards.

    Approving puts the release in the place of what it was compared with, and of nothing else; overriding, of whatever is in production.
    `seen` is the decision that the person was shown, where that was some time ago.

    Raises:
        ReleaseError: name or reason are missing, nothing waits or nothing was held back, the release was changed, or the gate has decided
            on the night again since it decided `seen`.
        ReleaseMoved: something else is in production since the gate compared, or the release was rolled back or quarantined.
    """
    _refuse_nameless(actor, reason)
    decision = last_decision(home, night_id)
    if seen not in (None, decision["id"]):
        raise ReleaseError(
            f"the gate has decided on night {decision['night_id']} again since it decided {short(str(seen))}: its last word is "
            f"{decision['decision']!r}; look at it on the dashboard or with 'align status', and answer that one"
        )
    _refuse_what_does_not_fit(decision, verdict)
    replacing = decision["champion"] if verdict == "approved" else None
    return _carry_out(home, decision, verdict, actor=actor, reason=reason, now=now, replacing=replacing)


def held_back(home: Path, release_id: str, *, approval: bool) -> str | None:
    """Return why a release is for people to put into production and for nothing else; None if the gate or a person has released it.

    `approval`: a person has to approve what the gate promotes.
    """
    decision = _on(home, release_id)
    if decision is None:
        return f"the gate has not decided on {release_id}"
    night, said = decision["night_id"], decision["verdict"]
    if said in ("approved", "overridden"):
        return None
    if said == "refused" or decision["decision"] != "promote":
        return f"{release_id} was refused on night {night}" if said else f"the gate said {decision['decision']!r} on night {night}"
    return f"{release_id} waits for 'align gate --approve {night} --reason TEXT'" if approval else None


def promote_by_hand(home: Path, release_id: str, *, approval: bool, actor: str, reason: str, now: datetime) -> bool:
    """Put a release into production as a person says; return whether that overrides the gate, or who refused it, and was recorded so.

    Raises:
        ReleaseError: it is unknown, changed or quarantined, or it overrides a decision and the name or the reason are missing.
    """
    decision = _on(home, release_id)
    if decision is None or held_back(home, release_id, approval=approval) is None:
        promote(home, release_id, actor=actor or "unknown", reason=reason, now=now)
        return False
    _refuse_nameless(actor, reason)
    _carry_out(home, decision, "overridden", actor=actor, reason=reason, now=now)
    return True


def _on(home: Path, release_id: str) -> dict[str, Any] | None:
    rows = query(home, sql("gate_last_decision"), {"night": None, "release": release_id})
    return rows[0] if rows else None


def _refuse_nameless(actor: str, reason: str) -> None:
    if not actor.strip() or not reason.strip():
        raise ReleaseError(f"a verdict needs a name and a reason, not {actor!r} and {reason!r}; give --actor NAME and --reason TEXT")


def _carry_out(
    home: Path, decision: dict[str, Any], verdict: Say, *, actor: str, reason: str, now: datetime, replacing: str | None = None
) -> str:
    """Move the pointer as the verdict says and record it; return what is in production afterwards."""
    release, moved = decision["challenger"], []
    if verdict != "refused":
        why = f"{verdict} after gate {short(decision['id'])} said {decision['decision']}: {reason}"
        promote(home, release, actor=actor, reason=why, now=now, replacing=replacing)
        # Of one move there is one verdict: a call that is repeated after a kill moves and adds nothing, one after a rollback does both.
        moved = [row["recorded_at"] for row in history(home) if row["release_id"] == release][-1:]
    row = {"decision_id": decision["id"], "night_id": decision["night_id"], "release_id": release, "verdict": verdict}
    row |= {"actor": actor, "reason": reason}
    audit.append(home, verdict, release, actor=actor, reason=reason, details={"decision": decision["id"], "night": decision["night_id"]})
    append_durably(home, "gate_verdicts", [{"id": content_id(decision["id"], verdict, *moved), **row, "decided_at": now}])
    event = {
        "release_id": release,
        "event": "refused" if verdict == "refused" else "promoted",
        "actor": actor,
        "reason": f"{verdict}: {reason}",
        "night_id": decision["night_id"],
        "recorded_at": now,
    }
    append_durably(home, "release_events", [{"id": content_id(decision["id"], verdict, "event", *moved), **event}])
    return current(home)


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
