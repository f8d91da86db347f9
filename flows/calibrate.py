"""Measure labelers and detectors once per version; those that are too weak abstain.

Effects: reads and writes the store; loads the embedder.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from alignment.config import Settings
from alignment.errors import TeacherUnavailable
from alignment.ids import content_id
from alignment.labels.calibration import Reliability, calibrate, calibrate_detector, load_items, set_version, too_weak
from alignment.labels.constitution import Constitution
from alignment.labels.labeler import Labeler
from alignment.labels.rule import Absent
from alignment.records import Interaction
from alignment.store import append, query, session
from flows.night import embedder, now

UNMEASURED = frozenset({"signals"})
"""Labelers that no written set can measure; they get a weak assumed weight."""
DETECTORS = ("harmful_request", "harmful_answer", "refusal")


def known_reliability(settings: Settings, name: str, version: str, of: str) -> Reliability | None:
    """Return the reliability of this version measured on the calibration set `of`, if stored."""
    columns = ", ".join({"version": "labeler_version AS version"}.get(field, field) for field in Reliability._fields)
    rows = query(
        settings.home,
        f"SELECT {columns} FROM calibrations WHERE labeler = ? AND labeler_version = ? AND set_version = ? LIMIT 1",  # noqa: S608
        [name, version, of],
    )
    return Reliability(**rows[0]) if rows else None


def measured(settings: Settings, labeler: Labeler, constitution: Constitution) -> Reliability:
    """Return a labeler's reliability; measure and store it if this version was not measured before.

    A judge that reads the principles is measured again when the constitution is edited.
    """
    items = load_items()
    version = set_version(items, labeler, constitution)
    found = known_reliability(settings, labeler.name, labeler.version, version)
    if found is None:
        found = calibrate(labeler, items, constitution, now=now())
        _save(settings, found, "labeler", version)
    return found


def measure_detectors(settings: Settings) -> None:
    """Measure each detector at its threshold, once per version."""
    from alignment.moderation import versions

    said, items = versions(embedder=embedder()), load_items()
    tested = set_version(items)
    for name in DETECTORS:
        version = f"{said[name]}@{getattr(settings.moderation, name, 0.5)}"
        if known_reliability(settings, name, version, tested) is None:
            _save(settings, calibrate_detector(name, version, partial(_flags, settings, name), items, now=now()), "detector", tested)


def _flags(settings: Settings, name: str, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
    from alignment.moderation import moderate

    moment = datetime(2026, 1, 1)  # noqa: DTZ001 - no detector reads it
    exchanges = [
        Interaction(str(n), "", "", moment, "", ({"role": "user", "content": prompt},), answer)
        for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    found = moderate(exchanges, embedder=embedder(), thresholds=settings.moderation.model_dump())
    return [one.flagged for one in found if one.detector == name]


def _save(settings: Settings, found: Reliability, kind: str, version: str) -> None:
    row = {name: value for name, value in found._asdict().items() if name != "version"}
    row |= {"id": content_id(found.labeler, found.version, version), "kind": kind, "labeler_version": found.version, "set_version": version}
    with session(settings.home, write=True) as connection:
        append(connection, "calibrations", [row])


def fitness(settings: Settings, labeler: Labeler, constitution: Constitution) -> tuple[Reliability | None, str]:
    """Return a labeler's reliability (None if it is assumed) and why it abstains, empty if it may vote. An absent labeler is not called.

    A labeler that could not be reached tonight is measured another night.
    """
    if isinstance(labeler, Absent):
        return None, labeler.reason
    if labeler.name in UNMEASURED:
        return None, ""
    try:
        found = measured(settings, labeler, constitution)
    except TeacherUnavailable as error:
        return None, str(error)
    return found, too_weak(found, settings.labels)
