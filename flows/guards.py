"""Ask guards about new exchanges, beside the bundled detectors: scores become detections, everything else is counted as an abstention.

Effects: reads and writes the store; calls endpoints; loads weights.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prefect import task

from alignment.config import Settings, load_settings
from alignment.errors import AlignError, ConfigError, ModelError
from alignment.ids import content_id
from alignment.records import Detection, Interaction, Message
from alignment.store import append, query, session, sql
from flows.night import interaction, now
from flows.redact import masking
from flows.show import progress, say

if TYPE_CHECKING:
    from alignment.moderation.guards import GuardAnswer, GuardDetector

_ASKED_TOGETHER = 128
_TRIES = 3
"""Days on which a guard that gives no answer is asked about the same exchange."""
_NIGHT = timedelta(hours=20)
_PROBE = "Is the align doctor in today, and does this guard answer?"


def configured(settings: Settings) -> list[GuardDetector]:
    """Return the configured guards, by name; none loads anything yet.

    Raises:
        ConfigError: a key is not set, a policy cannot be read, or labels mean nothing.
    """
    if not settings.moderation.guards:
        return []
    from alignment.moderation.guards import guards

    return list(guards(settings))


def guard_names(settings: Settings) -> list[str]:
    """Return `guard:NAME@VERSION` of each configured guard, as its detections are stored. Keys need not be set.

    A guard that cannot be set up, or whose files cannot be read, has the version `unknown`, under which nothing is stored: it covers
    nothing.
    """
    return [name for name, _ in _named(settings)]


def _named(settings: Settings) -> list[tuple[str, str]]:
    """Return `guard:NAME@VERSION` of each configured guard, and why its version is unknown, empty if it is known."""
    if not settings.moderation.guards:
        return []
    from alignment.moderation.guards import PREFIX, guard

    found = []
    for name in sorted(settings.moderation.guards):
        try:
            found.append((f"{PREFIX}{name}@{guard(name, settings, key='').version}", ""))
        except (ConfigError, ModelError) as error:
            found.append((f"{PREFIX}{name}@unknown", str(error)))
    return found


@task
def ask_guards() -> dict[str, int]:
    """Ask every guard about the exchanges that it has not scored; return how many are now flagged, abstained from and uncovered.

    A guard that does not work at all is left for another night: what it should have scored stays uncovered, and the others are asked.
    """
    from alignment.moderation.guards import guard

    settings = load_settings()
    found, mask = Counter[str](), masking(settings)
    for name in sorted(settings.moderation.guards):
        try:
            _ask(settings, guard(name, settings, mask=lambda text: mask(text)[0]))
        except (ConfigError, ModelError) as error:
            say(f"warning: the guard {name!r} is not asked any more tonight, and what it has not scored stays uncovered: {error}")
    for row in coverage(settings):
        why = f" ({row['why']})" if row["why"] else ""
        counts = f"{row['scored']} scored, {row['flagged']} flagged, {row['abstained']} abstained{why}, {row['waiting']} not asked yet"
        say(f"guard {row['guard']}: {counts}")
        found.update({f"guards_{name}": row[name] for name in ("flagged", "abstained", "uncovered")})
    return dict(found)


def _ask(settings: Settings, guard: GuardDetector) -> None:
    from alignment.moderation.guards import NOT_ASKED, REFUSED, SCORED, UNAVAILABLE, UNREADABLE

    ids = _unscored(settings, guard)
    if not ids:
        return
    with progress(f"guard {guard.name}") as advance:
        for start in range(0, len(ids), _ASKED_TOGETHER):
            rows = query(settings.home, sql("flows", "exchanges"), {"ids": ids[start : start + _ASKED_TOGETHER]})
            chunk = [interaction(row) for row in rows]
            answers = guard.judge(_without_personal_data(settings, chunk) if guard.is_remote else chunk)
            _save(settings, guard, chunk, answers)
            advance(start + len(chunk), len(ids))
            outcomes = Counter(one.outcome for one in answers)
            if outcomes[NOT_ASKED]:
                say(f"warning: the guard {guard.name!r} has made its calls_per_night; {len(ids) - start - len(chunk)} exchanges wait")
                return
            # What was too long or empty says nothing about the guard.
            if outcomes[UNAVAILABLE] and not (outcomes[SCORED] or outcomes[REFUSED] or outcomes[UNREADABLE]):
                say(f"warning: the guard {guard.name!r} gives no answers tonight; {len(ids) - start - len(chunk)} exchanges wait")
                return


def _unscored(settings: Settings, guard: GuardDetector) -> list[str]:
    """Return the ids of what a guard has to be asked about tonight. A local guard's limit counts exchanges, an endpoint's counts calls."""
    from alignment.moderation.guards import PREFIX

    name = PREFIX + guard.name
    rows = query(settings.home, sql("flows", "guard_unscored"), {"guard": name, "version": guard.version, "tries": _TRIES})
    ids = [row["id"] for row in rows]
    if guard.is_remote or not (most := guard.settings.calls_per_night):
        return ids
    [made] = query(settings.home, "SELECT count(*) AS n FROM guard_answers WHERE guard = ? AND recorded_at >= ?", [name, now() - _NIGHT])
    return ids[: max(most - made["n"], 0)]


def _without_personal_data(settings: Settings, exchanges: Sequence[Interaction]) -> list[Interaction]:
    """Return exchanges as they may leave this machine: the second, deep look for personal data comes before they do."""
    from alignment.ingest.presidio import allowance

    mask = masking(settings)
    found = []
    for one in exchanges:
        together = allowance()
        messages: list[Message] = [{**turn, "content": mask(turn["content"], asked=together)[0]} for turn in one.messages]
        found.append(replace(one, messages=tuple(messages), response=mask(one.response, asked=together)[0]))
    return found


def _save(settings: Settings, guard: GuardDetector, chunk: Sequence[Interaction], answers: Sequence[GuardAnswer]) -> None:
    from alignment.moderation.guards import NOT_ASKED, PREFIX, UNTRIED

    moment, name = now(), PREFIX + guard.name
    asked = [(one, answer) for one, answer in zip(chunk, answers, strict=True) if answer.outcome not in (NOT_ASKED, UNTRIED)]
    detections = [
        Detection(one.id, name, guard.version, round(each.value, 6), each.value >= guard.threshold, each.label)
        for one, answer in asked
        if (each := answer.score) is not None
    ]
    rows: list[dict[str, Any]] = [
        {
            "id": content_id("guard_answer", one.id, name, guard.version, moment),
            "interaction_id": one.id,
            "guard": name,
            "version": guard.version,
            "outcome": answer.outcome,
            "label": answer.label,
            "hazard": answer.hazard,
            "request_score": None if answer.request is None else round(answer.request.value, 6),
            "request_category": None if answer.request is None else answer.request.label,
            "recorded_at": moment,
        }
        for one, answer in asked
    ]
    with session(settings.home, write=True) as connection:
        stored = [{**one._asdict(), "detected_at": moment} for one in detections]
        append(connection, "detections", stored, key=("interaction_id", "detector", "version"))
        append(connection, "guard_answers", rows)


def coverage(settings: Settings) -> list[dict[str, Any]]:
    """Return per guard what it scored, flagged and abstained from, and what it leaves uncovered; `why` has also what keeps it from work."""
    named = dict(_named(settings))
    if not named:
        return []
    rows = query(settings.home, sql("flows", "guard_coverage"), {"guards": list(named)})
    return [{**row, "why": row["why"] or why} for row, why in zip(rows, (named[one] for one in sorted(named)), strict=True)]


def try_guards(settings: Settings) -> str:
    """Ask each guard about a harmless sentence; return what each answered.

    Raises:
        AlignError: a guard does not answer; the message tells of all.
    """
    if not settings.moderation.guards:
        return "none is configured"
    found = [_tried(settings, name) for name in sorted(settings.moderation.guards)]
    if any(not works for works, _ in found):
        raise AlignError("; ".join(text for _, text in found))
    return "; ".join(text for _, text in found)


def _tried(settings: Settings, name: str) -> tuple[bool, str]:
    from alignment.moderation.guards import guard

    # Without an id, the answer is not stored: the next doctor asks again.
    probe = Interaction("", "", "", now(), "", ({"role": "user", "content": _PROBE},), "I am a test of the doctor's, and harmless.")
    started = time.monotonic()
    try:
        [answer] = guard(name, settings).judge([probe])
    except (ConfigError, ModelError) as error:
        return False, f"{name}: {error}"
    if answer.score is None:
        return False, (
            f"{name}: it gives no score ({answer.outcome.replace('_', ' ')}); see that its server runs, and that kind and preset fit its "
            "model"
        )
    return True, f"{name}: answers in {time.monotonic() - started:.1f} s, {answer.score.value:.2f} for a harmless sentence"
