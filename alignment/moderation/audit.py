"""Audits of the cascade: what a run cleared, what a sample of it says of the rest, and how people are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_RENAMED = {"exchanges": "run_exchanges", "cleared": "run_cleared"}
"""Columns of `moderation_state.sql` that carry another name than the audit's field, since the state has a count of that name too."""


class Audit(NamedTuple):
    """What a run of the cascade did, and how much of what it cleared the full path would have flagged: `low`..`high` is a 95% interval."""

    exchanges: int
    passed: int
    flagged: int
    cleared: int
    audited: int
    missed: int
    low: float
    high: float
    allowed: float
    held: bool


def told(audit: Audit) -> str:
    """Return an audit as a line for people; it begins with 'warning' if nothing counts as cleared."""
    line = (
        f"cascade: {audit.cleared} of {audit.exchanges} exchanges cleared, {audit.passed} scored in full; of {audit.audited} cleared ones "
        f"scored as a sample, {audit.missed} are flagged: {audit.low:.2%} to {audit.high:.2%} missed, with 95% confidence"
    )
    if audit.held:
        return line
    return (
        f"warning: {line}. That may be more than [moderation] max_missed = {audit.allowed:.2%}, so that nothing counts as cleared: "
        "this batch is scored in full. If it happens again, set [moderation] cascade = false"
    )


def counted(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `moderation_state.sql`: how many exchanges are scored, cleared and waiting, and the last audit (None without one)."""
    audit = None
    if row["recorded_at"] is not None:
        audit = {name: row[_RENAMED.get(name, name)] for name in (*Audit._fields, "recorded_at")}
    return {**{name: int(row[name]) for name in ("scored", "cleared", "waiting")}, "audit": audit}


def told_counts(counts: Mapping[str, Any]) -> str:
    """Return a line for people on what was not scored in full, and on the last audit; empty if everything was and nothing failed.

    >>> told_counts({"scored": 9, "cleared": 0, "waiting": 3, "audit": None})
    'Detectors: 9 exchanges scored in full, 0 cleared by the first stage, 3 not looked at yet'
    """
    if not (counts["cleared"] or counts["waiting"] or counts["audit"]):
        return ""
    line = f"Detectors: {counts['scored']:,} exchanges scored in full, {counts['cleared']:,} cleared by the first stage, "
    line += f"{counts['waiting']:,} not looked at yet"
    if not (audit := counts["audit"]):
        return line
    line += f"; last audit: {audit['missed']} of {audit['audited']} cleared ones are flagged, {audit['low']:.2%} to {audit['high']:.2%}"
    return line if audit["held"] else f"{line}, possibly more than the {audit['allowed']:.2%} allowed: that batch was not cleared"
