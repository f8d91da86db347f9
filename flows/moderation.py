"""Moderate new exchanges: all of them in full, or, from a batch's size on, a cascade whose first stage clears what is surely harmless.

A cleared exchange has a risk and no score. Every run of the cascade scores a random sample of what it cleared in full; if the share that
it missed may be too large, nothing that the run cleared counts as cleared. What a time limit leaves is counted and waits for another night.

Effects: reads and writes the store; loads models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from time import monotonic
from typing import Any

import pyarrow as pa
from prefect import task

from alignment.candidates.select import considered_first
from alignment.config import Settings, load_settings
from alignment.evals.statistics import wilson
from alignment.ids import content_id
from alignment.moderation.audit import Audit, counted, told
from alignment.records import Interaction
from alignment.store import append, query, session, sql
from alignment.store.session import append_arrow
from flows.night import embedder, interaction, now
from flows.show import progress, say

_SCORED_TOGETHER, _READ_TOGETHER, _SAVED_TOGETHER = 512, 4096, 50_000
AUDIT_LEAST, AUDIT_MOST = 500, 4000
"""Of what is cleared, at least and about at most so many exchanges are audited: what an interval needs does not grow with the batch."""
_95 = 1.96


@task
def moderate_new() -> int:
    """Run the detectors, or the cascade, over exchanges they have not seen; return the number of exchanges looked at."""
    settings = load_settings()
    # Import the detectors only if there is something to detect.
    from alignment.moderation import versions
    from alignment.moderation.triage import triage_version

    model = embedder()
    known = [f"{name}@{version}" for name, version in versions(embedder=model).items()]
    clears = settings.moderation.cascade and not _why_not(settings)
    version = triage_version(embedder=model) if clears else ""
    ids = [row["id"] for row in query(settings.home, sql("flows", "unmoderated"), {"versions": known, "cascade": version})]
    if settings.moderation.cascade and (why := _why_not(settings)) and len(ids) >= settings.moderation.cascade_from:
        say(f"warning: the cascade is off, everything is scored in full: {why}")
    minutes = settings.moderation.budget_minutes
    deadline = monotonic() + 60 * minutes if minutes else float("inf")
    if clears and len(ids) >= settings.moderation.cascade_from:
        done = _cascade(settings, ids, version, deadline)
    else:
        by_risk = [name for name, _ in sorted(_risks(settings, ids), key=_riskiest)] if minutes else ids
        done = _in_full(settings, "moderate", by_risk, deadline)
    if done < len(ids):
        say(
            f"warning: {len(ids) - done} exchanges were not looked at within [moderation] budget_minutes = {minutes:g}; the next ingest "
            "takes them up, and nothing is trained on them before"
        )
    return done


def _why_not(settings: Settings) -> str:
    """Return why nothing may be cleared; empty if the first stage foretells these detectors' flags."""
    from alignment.moderation import DETECTORS

    own = settings.moderation.model_dump()
    lower = [one for one in DETECTORS if own.get(one.name, one.threshold) < one.threshold]
    return "; ".join(
        f"[moderation] {one.name} = {own[one.name]} flags more than its first stage was fitted for (at least {one.threshold})"
        for one in lower
    )


def _riskiest(risk: tuple[str, float]) -> tuple[float, str]:
    return -risk[1], risk[0]


def _risks(settings: Settings, ids: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield each exchange's id and risk."""
    from alignment.moderation.triage import risks

    if not ids:
        return
    with progress("first stage") as advance:
        for start in range(0, len(ids), _READ_TOGETHER):
            chunk = _read(settings, ids[start : start + _READ_TOGETHER])
            yield from zip((one.id for one in chunk), risks(chunk, embedder=embedder()).tolist(), strict=True)
            advance(start + len(chunk), len(ids))


def _read(settings: Settings, ids: Sequence[str]) -> list[Interaction]:
    return [interaction(row) for row in query(settings.home, sql("flows", "exchanges"), {"ids": list(ids)})]


def _in_full(settings: Settings, title: str, ids: Sequence[str], deadline: float) -> int:
    """Score exchanges by all detectors, in order, until the deadline (of `time.monotonic`); return how many were scored."""
    from alignment.moderation import moderate

    if not ids:
        return 0
    done = 0
    with progress(title) as advance:
        while done < len(ids) and monotonic() < deadline:
            chunk = _read(settings, ids[done : done + _SCORED_TOGETHER])
            found = moderate(chunk, embedder=embedder(), thresholds=settings.moderation.model_dump())
            moment = now()
            with session(settings.home, write=True) as connection:
                rows = [{**one._asdict(), "detected_at": moment} for one in found]
                append(connection, "detections", rows, key=("interaction_id", "detector", "version"))
            done += len(chunk)
            advance(done, len(ids))
    return done


def _cascade(settings: Settings, ids: Sequence[str], version: str, deadline: float) -> int:
    """Clear what the first stage finds harmless, score the rest in full, and audit; return how many exchanges were looked at."""
    from alignment.moderation.triage import is_audited, threshold

    least, run = threshold(), content_id("cascade", version, ids[0], ids[-1], len(ids), now())
    risk = dict(_risks(settings, ids))
    passed = [name for name, _ in sorted(((name, value) for name, value in risk.items() if value >= least), key=_riskiest)]
    cleared = [name for name in ids if risk[name] < least]
    number = max(len(cleared), 1)
    share = min(max(settings.moderation.audit, AUDIT_LEAST / number), AUDIT_MOST / number)
    sample = [name for name in cleared if is_audited(name, share)]
    # The audit comes first: whatever the time limit leaves, it says what the clearings are worth.
    done = _in_full(settings, "audit", sample, deadline)
    audit = _audit(settings, passed, cleared, sample if done == len(sample) else [])
    if audit.held:
        _save_clearings(settings, [(name, risk[name]) for name in cleared], run, version)
    done += _in_full(settings, "moderate", passed, deadline)
    audit = audit._replace(flagged=_flagged(settings, passed))
    with session(settings.home, write=True) as connection:
        append(connection, "cascade_audits", [{"id": run, "version": version, **audit._asdict(), "recorded_at": now()}])
    say(told(audit))
    if audit.held:
        return done + len(cleared) - len(sample)
    audited = set(sample)
    rest = sorted((name for name in cleared if name not in audited), key=lambda name: _riskiest((name, risk[name])))
    return done + _in_full(settings, "moderate what was cleared", rest, deadline)


def _audit(settings: Settings, passed: Collection[str], cleared: Collection[str], sample: Sequence[str]) -> Audit:
    """Return the audit of a run. An audit that could not be finished holds nothing."""
    missed = _flagged(settings, sample)
    low, high = wilson(missed, len(sample), _95)
    if len(sample) == len(cleared) and cleared:
        low = high = missed / len(cleared)
    allowed = settings.moderation.max_missed
    return Audit(len(passed) + len(cleared), len(passed), 0, len(cleared), len(sample), missed, low, high, allowed, high <= allowed)


def _flagged(settings: Settings, ids: Sequence[str]) -> int:
    """Return how many exchanges some bundled detector flags, other than for personal data."""
    [row] = query(settings.home, sql("flows", "flagged_among"), {"ids": list(ids)})
    return int(row["n"])


def _save_clearings(settings: Settings, cleared: Sequence[tuple[str, float]], run: str, version: str) -> None:
    """Store what was cleared, with its risk, and whether it holds masked personal data, which decides about the second look for it."""
    from alignment.moderation.detectors import flag_personal_data

    for start in range(0, len(cleared), _SAVED_TOGETHER):
        part = cleared[start : start + _SAVED_TOGETHER]
        moment = now()
        rows = pa.table(
            {
                "id": [content_id("clearing", run, name) for name, _ in part],
                "interaction_id": [name for name, _ in part],
                "run": [run] * len(part),
                "version": [version] * len(part),
                "score": [round(value, 6) for _, value in part],
                "cleared_at": [moment.replace(tzinfo=None)] * len(part),
            }
        )
        personal: list[dict[str, Any]] = []
        for at in range(0, len(part), _READ_TOGETHER):
            found = flag_personal_data(_read(settings, [name for name, _ in part[at : at + _READ_TOGETHER]]))
            personal += [{**one._asdict(), "detected_at": moment} for one in found]
        with session(settings.home, write=True) as connection:
            append(connection, "detections", personal, key=("interaction_id", "detector", "version"))
            append_arrow(connection, "clearings", rows)


def moderation_counts(settings: Settings) -> dict[str, Any]:
    """Return what is scored, cleared and waiting, and the cascade's last audit; see `alignment.moderation.audit.counted`."""
    [row] = query(settings.home, sql("alignment.store", "moderation_state"))
    return counted(row)


def score_candidates(settings: Settings, harmless: Collection[str]) -> int:
    """Score in full those cleared exchanges that a night would consider as harmless prompts; return how many.

    `harmless` are the ids of the scored exchanges that it may choose as harmless. Nothing is taught that the full path has not seen.
    """
    found = query(settings.home, sql("flows", "cleared_pool"), {"max_chars": settings.candidates.max_prompt_chars})
    cleared = {row["id"] for row in found}
    if not cleared:
        return 0
    wanted = [name for name in considered_first([*harmless, *cleared], settings.candidates) if name in cleared]
    return _in_full(settings, "score what was cleared", wanted, float("inf"))
