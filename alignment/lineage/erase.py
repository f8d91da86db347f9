"""Erase a person's data from a state folder: a frozen plan, and one function that carries it out.

Files come first. The store comes last, in one step that also records the erasure: as long as the store knows whose rows are whose, a
killed erasure can be planned again.

Effects: `apply_erasure` changes the state folder; the caller holds the night's lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from alignment.acting import acting_name
from alignment.errors import InputError
from alignment.ids import content_id, short
from alignment.lineage.files import FileChange, Marks, apply_change, find_changes
from alignment.lineage.rows import copy_without, look_up
from alignment.lineage.scrub import Scrubber, Subject
from alignment.store import append, audit, query, rewrite, session, sql

EVENT = "trained_on_erased"


@dataclass(frozen=True)
class ErasePlan:
    """What an erasure would do: by table, the rows to erase and the rows that name the person; file changes; affected releases.

    `log_files` are the delivered logs that the rows came from or whose names hold the id; `exports` are the folders to which the person's
    pairs were written. Both are outside and stay untouched. `recorded` says whether the store already has an erasure of this person.
    """

    subject: Subject = field(repr=False)
    rows: Mapping[str, int]
    mentions: Mapping[str, int]
    files: tuple[FileChange, ...]
    releases: tuple[tuple[str, str], ...]
    log_files: tuple[str, ...]
    exports: tuple[str, ...]
    recorded: bool
    marks: Marks = field(repr=False)

    @property
    def counts(self) -> dict[str, Any]:
        """The counts kept of the erasure, with the names of its releases."""
        return {
            "rows": dict(self.rows),
            "mentions": dict(self.mentions),
            "files": len(self.files),
            "releases": sorted({release for release, _ in self.releases}),
        }


def plan_erasure(home: Path, subject: Subject, *, nights: Mapping[str, str]) -> ErasePlan:
    """Plan the erasure of `subject`; `nights` maps the releases on disk to the nights that made them. Changes nothing.

    Raises:
        InputError: the id is empty, as in exchanges of no particular person.
    """
    if not all(form.strip() for form in subject.forms):
        raise InputError("the subject is empty; give the user_id as the logs wrote it: 'align erase --subject ID --reason TEXT'")
    with session(home) as connection:
        found = look_up(connection, subject)
        made = {
            (release, night)
            for release, night in nights.items()
            if connection.execute(sql("alignment.lineage", "erase_training_set"), {"night": night}).fetchone()
        }
    marks = Marks(found.ids, Scrubber(subject.forms), Scrubber(subject.forms, found.texts), had_pairs="pairs" in found.rows)
    return ErasePlan(
        subject,
        found.rows,
        found.mentions,
        tuple(find_changes(home, marks)),
        tuple(sorted({*found.releases, *made})),
        found.log_files,
        found.exports,
        bool({subject.subject_key, subject.masked_key} & erased_keys(home)),
        marks,
    )


def apply_erasure(home: Path, plan: ErasePlan, *, reason: str, actor: str, now: datetime) -> list[str]:
    """Carry out a plan and record it. An erasure without rows to erase, such as the rest of a killed one, is recorded only if the
    person has no recorded erasure yet.

    Return the files that still hold the person's data because they are of an unknown kind or damaged.

    Raises:
        StoreBusy: another process kept the store or the orchestrator's database locked; finished steps stay done, run it again.
        NoSpace: there is no room for a second copy of the store.
    """
    masked = plan.marks.own.text(reason)
    audit.append(home, "erased", short(plan.subject.subject_key), actor=actor, reason=masked, details={"rows": sum(plan.rows.values())})
    left = [change.path for change in plan.files if not apply_change(home, change, plan.marks)]
    audit.withhold(home, names_a_person=lambda text: plan.marks.own.text(text) != text, actor=actor)
    record = _record(plan, reason=masked, actor=actor, now=now)
    if plan.rows or plan.mentions:

        def fill(connection: duckdb.DuckDBPyConnection) -> None:
            copy_without(connection, plan.subject)
            _append(connection, record)

        rewrite(home, fill)
    elif not plan.recorded:
        with session(home, write=True) as connection:
            _append(connection, record, schema="")
    return left


class _Record(NamedTuple):
    erasure: dict[str, Any]
    events: list[dict[str, Any]]


def _record(plan: ErasePlan, *, reason: str, actor: str, now: datetime) -> _Record:
    subject = plan.subject
    erasure = {
        "id": content_id("erasure", subject.subject_key, now),
        "subject_key": subject.subject_key,
        "masked_key": subject.masked_key,
        "reason": reason,
        "actor": actor,
        "counts": plan.counts,
        "erased_at": now,
    }
    events = [
        {
            "id": content_id(release, EVENT, night, erasure["id"]),
            "release_id": release,
            "event": EVENT,
            "actor": actor,
            "reason": f"erasure {short(str(erasure['id']))}: {reason}",
            "night_id": night,
            "recorded_at": now,
        }
        for release, night in plan.releases
    ]
    return _Record(erasure, events)


def _append(connection: duckdb.DuckDBPyConnection, record: _Record, *, schema: str = "new.main.") -> None:
    append(connection, f"{schema}erasures", [record.erasure])
    append(connection, f"{schema}release_events", record.events)


def record_export(home: Path, out: Path, *, night_id: str | None, now: datetime) -> None:
    """Record where pairs were exported, of all nights or of one, so that an erasure can name the place."""
    path = str(out.resolve())
    audit.append(home, "pairs_exported", night_id or "all nights", actor=acting_name(), details={"folder": path})
    with session(home, write=True) as connection:
        append(connection, "pair_exports", [{"id": content_id(path, now), "path": path, "night_id": night_id, "exported_at": now}])


def erased_keys(home: Path) -> frozenset[str]:
    """Return the keyed hashes (see `alignment.ids.subject_key`) of all erased people's ids, as given and as masked."""
    return frozenset(str(row["subject_key"]) for row in query(home, "SELECT subject_key FROM erased_keys"))


def trained_on_erased(home: Path) -> dict[str, datetime]:
    """Return the releases trained on pairs of people erased since, with the time of the last such erasure."""
    rows = query(home, "SELECT release_id, max(recorded_at) AS since FROM release_events WHERE event = ? GROUP BY release_id", [EVENT])
    return {str(row["release_id"]): row["since"] for row in rows}
