"""Data in: unread log files become checked, redacted, moderated exchanges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, task

from alignment.config import Settings, load_settings, log_patterns
from alignment.errors import AlignError, CheckFailed, InputError
from alignment.ingest import Batch, LogFile, find_files, merge, stage, unread
from alignment.store import append, migrate, query, session, sql
from data_checks import check
from flows.night import embedder, interaction, night_lock, now
from flows.show import progress, say

_SCORED_TOGETHER = 512


@task
def read_file(log_file: LogFile) -> Batch:
    """Stage, check and merge one file."""
    settings = load_settings()
    moment = now()
    staged = stage(settings.home, log_file, settings.ingest, now=moment, latest=moment + settings.skew)
    if staged.unusable > settings.ingest.max_quarantined * staged.read:
        raise CheckFailed(
            f"{staged.unusable} of {staged.read} lines of {str(log_file.path)!r} are unusable, more than the allowed "
            f"{settings.ingest.max_quarantined:.0%}; {_commonest(staged.quarantine)}. Repair the file, or raise [ingest] max_quarantined"
        )
    report = check("interactions", pd.read_parquet(staged.interactions), batch=log_file.id, now=moment)
    with session(settings.home, write=True) as connection:
        append(connection, "check_results", report.results)
    report.raise_on_stop(f"the log file {str(log_file.path)!r}")
    for warning in report.warnings:
        say(f"warning: {warning}")
    return merge(settings.home, staged, rejected=report.rejected, now=moment)


def _commonest(quarantine: Path) -> str:
    counts = pd.read_parquet(quarantine).reason.value_counts()
    return "the commonest reasons: " + ", ".join(f"{name} ({number})" for name, number in counts.head(3).items())


@task
def moderate_new() -> int:
    """Run the detectors over what they have not seen; return how many exchanges that was."""
    settings = load_settings()
    # The flow pays for the detectors' imports only when there is something to detect.
    from alignment.moderation import moderate, versions

    model = embedder()
    known = [f"{name}@{version}" for name, version in versions(embedder=model).items()]
    rows = query(settings.home, sql("unmoderated"), {"versions": known})
    if not rows:
        return 0
    records = [interaction(row) for row in rows]
    with progress("moderate") as advance:
        for start in range(0, len(records), _SCORED_TOGETHER):
            chunk = records[start : start + _SCORED_TOGETHER]
            found = moderate(chunk, embedder=model, thresholds=settings.moderation.model_dump())
            moment = now()
            with session(settings.home, write=True) as connection:
                append(
                    connection,
                    "detections",
                    [{**one._asdict(), "detected_at": moment} for one in found],
                    key=("interaction_id", "detector", "version"),
                )
            advance(start + len(chunk), len(records))
    return len(records)


@flow(name="ingest")
def ingest(logs: list[str] | None = None) -> dict[str, Any]:
    """Read every unread log file (`logs`, or those of the settings) and moderate what is new; return counts.

    A file that cannot be used does not keep the others out; it fails the flow after them.
    """
    settings = load_settings()
    with night_lock(settings.home):
        migrate(settings.home)
        patterns = logs or log_patterns(settings)
        totals = dict.fromkeys(Batch._fields, 0)
        problems: list[AlignError] = []
        for log_file in unread(settings.home, find_files(patterns)):
            try:
                batch = read_file(log_file)
            except InputError as error:
                problems.append(error)
                continue
            say(f"{log_file.path.name}: read {batch.read}, stored {batch.stored}, quarantined {batch.quarantined}")
            totals = {name: totals[name] + value for name, value in batch._asdict().items()}
        if problems:
            raise type(problems[0])("\n".join(str(error) for error in problems))
        moderated = moderate_new() if totals["stored"] or _backlog(settings) else 0
        return {**totals, "moderated": moderated}


def _backlog(settings: Settings) -> bool:
    """Say whether an earlier run was killed between reading and moderating."""
    rows = query(settings.home, "SELECT 1 FROM interactions ANTI JOIN detections ON interaction_id = id LIMIT 1")
    return bool(rows)
