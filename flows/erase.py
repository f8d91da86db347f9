"""Erase a person's data from the state folder, under the night's lock."""

from __future__ import annotations

from typing import Any

from alignment.config import Settings
from alignment.errors import InputError, StoreError
from alignment.ids import subject_key
from alignment.ingest.redact import redact, redact_id, redaction_key
from alignment.lineage import ErasePlan, Subject, apply_erasure, plan_erasure, trained_on_erased
from alignment.release import current, list_releases
from alignment.store import migrate, rewriting, store_path
from alignment.store.snapshot import whole_folder
from flows.backup import last_backup
from flows.night import night_lock, now


def subject(settings: Settings, user_id: str) -> Subject:
    """Return the forms in which the store may name a user: the id as logged, and as ingestion masks it."""
    key = redaction_key(settings.home)
    masked = redact_id(user_id, key)
    # Earlier versions masked ids the way they mask texts.
    return Subject(tuple(dict.fromkeys((user_id, masked, redact(user_id, key)[0]))), subject_key(key, user_id), subject_key(key, masked))


def _plan(settings: Settings, user_id: str) -> ErasePlan:
    nights = {row["release_id"]: str(row.get("night_id", "")) for row in list_releases(settings.home)}
    return plan_erasure(settings.home, subject(settings, user_id), nights=nights)


def erase(settings: Settings, user_id: str, *, reason: str, actor: str, dry_run: bool = False) -> dict[str, Any]:
    """Remove a person's data from the whole state folder, or with `dry_run` only list it; return what and where.

    Raises:
        InputError: `user_id` is the value that logs write for no user.
        NightRunning: a night is running.
        StoreBusy: a backup is running.
        StoreError: there is no store, or unknown or damaged files were left; the message names each.
    """
    home = settings.home
    if user_id.strip().lower() in {name.strip().lower() for name in settings.ingest.nobody}:
        raise InputError(
            f"{user_id!r} is no person: the logs write it for nobody ([ingest] nobody), and so nothing is stored under it; give a "
            "user's id, or take it out of that list if it is one"
        )
    if not store_path(home).exists():
        raise StoreError(f"there is no store in {str(home)!r}: nothing to erase; ALIGN_HOME names the state folder")
    if dry_run:
        migrate(home)
        return report(settings, _plan(settings, user_id), done=False)
    with night_lock(home), whole_folder(home):
        migrate(home)
        plan = _plan(settings, user_id)
        with rewriting(home):
            left = apply_erasure(home, plan, reason=reason, actor=actor, now=now())
    # Only now: the evidence must match the store whatever was left.
    if left:
        raise StoreError(
            f"all is erased but {', '.join(map(repr, left))}, which hold the person's data and are damaged or of no kind that this command "
            "knows; remove or edit them and run the same command again"
        )
    return report(settings, plan, done=True)


def report(settings: Settings, plan: ErasePlan, *, done: bool) -> dict[str, Any]:
    """Return a plan in words and numbers, without naming the person."""
    releases = sorted({release for release, _ in plan.releases})
    return {
        "done": done,
        "subject_key": plan.subject.subject_key,
        "erased_before": plan.recorded,
        "rows": dict(plan.rows),
        "mentions": dict(plan.mentions),
        "files": [change._asdict() for change in plan.files],
        "releases": releases,
        "in_production": current(settings.home) if current(settings.home) in releases else None,
        "log_files": list(plan.log_files),
        "exports": list(plan.exports),
        "backup": last_backup(settings.home),
    }


def training_of(settings: Settings) -> dict[str, str]:
    """Return the notes about the training of releases, by release; most have none."""
    if not store_path(settings.home).exists():
        return {}
    return {release: f"on data erased {since:%Y-%m-%d}" for release, since in trained_on_erased(settings.home).items()}
