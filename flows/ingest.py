"""Ingest: turn new lines of the log files into checked, redacted, moderated exchanges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
from prefect import flow, task

from alignment.acting import acting_name
from alignment.config import Settings, load_settings
from alignment.errors import AlignError, CheckFailed, ConfigError, InputError
from alignment.ingest import Batch, LogFile, LogSource, Parsed, log_sources, make_source, unread
from alignment.ingest.aside import DAMAGED, UNREADABLE, UNUSABLE, SetAside, broken, set_aside, without_set_aside
from alignment.ingest.landing import is_small
from alignment.ingest.replay import replay
from alignment.store import append, audit, migrate, query, session, sql
from alignment.text import cap, printable
from flows.checks import check_ingest
from flows.guards import ask_guards, configured
from flows.night import embedder, interaction, now, only_night
from flows.read_files import FileRead, FilesRead, check_block, nothing_in, read_context, read_file, read_small_files
from flows.redact import redact_deeply
from flows.show import progress, say

_SCORED_TOGETHER, _TOLD = 512, 10
_ONE_USERS_SHARE = 0.5
"""Warn if one user id is on more than this share of a source's new exchanges."""
_FEW = 8
"""Fewer small files than this are read and reported one by one."""


@task
def moderate_new() -> int:
    """Run the detectors over exchanges they have not seen; return the number of exchanges."""
    settings = load_settings()
    # Import the detectors only if there is something to detect.
    from alignment.moderation import moderate, versions

    model = embedder()
    known = [f"{name}@{version}" for name, version in versions(embedder=model).items()]
    ids = [row["id"] for row in query(settings.home, sql("flows", "unmoderated"), {"versions": known})]
    if not ids:
        return 0
    with progress("moderate") as advance:
        for start in range(0, len(ids), _SCORED_TOGETHER):
            rows = query(settings.home, sql("flows", "exchanges"), {"ids": ids[start : start + _SCORED_TOGETHER]})
            chunk = [interaction(row) for row in rows]
            found = moderate(chunk, embedder=model, thresholds=settings.moderation.model_dump())
            moment = now()
            with session(settings.home, write=True) as connection:
                append(
                    connection,
                    "detections",
                    [{**one._asdict(), "detected_at": moment} for one in found],
                    key=("interaction_id", "detector", "version"),
                )
            advance(start + len(chunk), len(ids))
    return len(ids)


def chosen_sources(settings: Settings, logs: list[str] | None, preset: str | None, source: str | None) -> list[LogSource]:
    """Return the configured sources, the one named `source`, or one made of `logs`.

    Raises:
        ConfigError: no source has that name.
    """
    if logs:
        fields, records = ({}, "") if preset else (settings.ingest.fields, settings.ingest.records)
        return [make_source("logs", logs, preset or settings.ingest.preset, fields, records)]
    sources = log_sources(settings)
    if source is None:
        return sources
    chosen = [one for one in sources if one.name == source]
    if not chosen:
        raise ConfigError(f"no source {source!r}; known are {', '.join(one.name for one in sources)}. Correct --source or [ingest.sources]")
    return chosen


@flow(name="ingest")
def ingest(
    logs: list[str] | None = None,
    preset: str | None = None,
    source: str | None = None,
    since: datetime | None = None,
    dry_run: bool = False,
    accept: bool = False,
    compare: bool = True,
) -> dict[str, Any]:
    """Read what is new in the log files (`logs`, or those of the sources) and moderate it; return counts.

    `since` skips files not changed after it; `dry_run` stores nothing. `accept` turns failed checks into warnings and also reads files
    that were set aside, without their unusable lines. `compare=False` skips the comparison with earlier deliveries. An unusable file is set
    aside and the flow goes on. A source with nothing usable does not block the others; it fails the flow after all else is moderated and
    checked. Guards are asked about what they have not scored, also of earlier runs.
    """
    settings = load_settings()
    # A guard without its key stops the ingest before anything is read.
    configured(settings)
    with only_night(settings):
        migrate(settings.home)
        started = now()
        sources = chosen_sources(settings, logs, preset, source)
        if accept and not dry_run:
            audit.append(settings.home, "checks_accepted", ", ".join(sorted(one.name for one in sources)), actor=acting_name())
        found = _read_sources(settings, sources, since=since, dry_run=dry_run, accept=accept)
        moderated, guarded = 0, {}
        if not dry_run:
            moderated = moderate_new() if found.total.stored or _backlog(settings) else 0
            guarded = ask_guards() if settings.moderation.guards else {}
            redact_deeply()
        if not dry_run:
            _tell_commonest(settings, [one.name for one in sources], started)
        if compare and not dry_run:
            try:
                keys = {name: seen for name, seen in found.keys.items() if seen}
                check_ingest(settings, since=started, sources=list(found.keys), keys=keys, accept=accept)
            except CheckFailed as error:
                found.problems.append(error)
        if found.problems:
            raise _together(found.problems)
        return {**found.total._asdict(), "moderated": moderated, **guarded}


class _Read(NamedTuple):
    """The result for all files, the keys of each source's lines, and what kept a source or file out."""

    total: Batch
    keys: dict[str, frozenset[str]]
    problems: list[InputError]


def _read_sources(settings: Settings, sources: list[LogSource], *, since: datetime | None, dry_run: bool, accept: bool) -> _Read:
    found = _Read(Batch(), {}, [])
    for one in sources:
        try:
            here = one.find()
        except InputError as error:
            found.problems.append(error)
            continue
        found.keys.setdefault(one.name, frozenset())
        wanted: list[LogFile] = unread(settings.home, one.name, here)
        still: list[SetAside] = []
        if not accept:
            wanted, still = without_set_aside(settings.home, one, settings.ingest, wanted)
        if since:
            wanted = [log_file for log_file in wanted if not log_file.mtime_ns or log_file.mtime_ns >= since.timestamp() * 1e9]
        done = _read_files(one, wanted, dry_run=dry_run, accept=accept)
        found.keys[one.name] |= done.total.keys
        found = found._replace(total=found.total.plus(done.total.batch))
        unusable = [SetAside(log_file, _kind(log_file, error), str(error)) for log_file, error in done.unusable]
        _tell_set_aside(one, unusable, still)
        if not dry_run:
            set_aside(settings.home, one, settings.ingest, unusable, now())
            if problem := broken(settings.home, one, here, done.read):
                found.problems.append(CheckFailed(problem))
    return found


def _read_files(source: LogSource, wanted: Sequence[LogFile], *, dry_run: bool, accept: bool) -> FilesRead:
    """Read a source's files, several small ones together; report the result."""
    found = FilesRead(FileRead(), [], [], [])
    small = [one for one in wanted if is_small(one)]
    if len(small) >= _FEW:
        found = read_small_files(source, small, dry_run, accept)
        _tell_counts(f"{len(small) - len(found.alone)} small files of {source.name!r}", found.total)
        together = {one.path for one in small} - {one.path for one in found.alone}
        wanted = [one for one in wanted if one.path not in together]
    for log_file in wanted:
        try:
            one = read_file(source, log_file, dry_run, accept)
        except InputError as error:
            found.unusable.append((log_file, error))
            continue
        found.read.append(log_file)
        _tell(log_file, one)
        found = found._replace(total=found.total.plus(one))
    return found


def _kind(log_file: LogFile, error: InputError) -> str:
    if isinstance(error, CheckFailed):
        return UNUSABLE
    damaged = error.__cause__ is None or isinstance(error.__cause__, pa.ArrowException | duckdb.Error | EOFError)
    return DAMAGED if damaged and not log_file.refused else UNREADABLE


def _tell_set_aside(source: LogSource, unusable: list[SetAside], still: list[SetAside]) -> None:
    for one in unusable[:_TOLD]:
        say(f"warning: set aside: {one.reason}")
    if len(unusable) > _TOLD:
        say(f"warning: {len(unusable) - _TOLD} more files of {source.name!r} are set aside; see 'align status'")
    if still:
        say(f"warning: {len(still)} files of {source.name!r} stay set aside; see 'align status', or let them in: 'align ingest --accept'")


def _tell(log_file: LogFile, read: FileRead) -> None:
    _tell_counts(log_file.name, read)
    if read.batch.read and read.batch.skipped == read.batch.read:
        say(f"warning: {nothing_in(log_file, read.batch.read)}")
    if not read.batch.read and not log_file.size:
        say(f"warning: the log file {log_file.path} is empty")


def _tell_counts(name: str, read: FileRead) -> None:
    batch = read.batch
    if read.thumbs_unread:
        say(
            f"warning: {read.thumbs_unread} values for thumbs in {name} are neither up nor down and were left out; map them: "
            "[ingest.sources.NAME.fields] thumbs = \"CASE … WHEN … THEN 'up' … END\""
        )
    if batch.read:
        more = [f"{name} {number}" for name in ("duplicate", "skipped") if (number := getattr(batch, name))]
        counts = [f"read {batch.read}", f"stored {batch.stored}", f"quarantined {batch.quarantined}", *more]
        why = ", ".join(f"{name} {number}" for name, number in sorted(read.why_skipped.items()))
        say(f"{name}: {', '.join(counts)}{f' ({why})' if why else ''}")


def _tell_commonest(settings: Settings, sources: list[str], since: datetime) -> None:
    """Warn that an id on very many exchanges may not be a person's.

    Caps still apply to it: someone who floods a model with requests must not be treated as nobody.
    """
    rows = query(
        settings.home,
        sql("flows", "ingest_commonest_user"),
        {"since": since, "sources": sources, "share": _ONE_USERS_SHARE, "least": settings.checks.min_rows},
    )
    for row in rows[:_TOLD]:
        say(
            f"warning: one user id stands on {row['number']} of {row['total']} new exchanges of {row['source']!r} "
            f"({cap(printable(row['user_id']), 40)!r}). If it is no person but a service or a default, add it to [ingest] nobody: until "
            "then the caps for one user hold for all of them"
        )


def _together(problems: list[InputError]) -> AlignError:
    return type(problems[0])("\n".join(str(error) for error in problems))


def _backlog(settings: Settings) -> bool:
    """Return whether an earlier run was killed between reading and moderating."""
    return bool(query(settings.home, sql("flows", "backlog")))


@flow(name="replay")
def replay_quarantine(reason: str | None = None, source: str | None = None) -> dict[str, int]:
    """Read quarantined records again, after a setting or mapping was corrected; return counts by outcome."""
    settings = load_settings()
    with only_night(settings):
        migrate(settings.home)
        context = read_context(settings)

        def rejects(parsed: Parsed, batch: str) -> Mapping[int, str]:
            return check_block(parsed, f"{batch}:replay", context.now).rejected

        sources = {one.name: one for one in log_sources(settings)}
        outcomes = replay(settings.home, sources, rejects, context, reason=reason, source=source)
        if outcomes["stored"]:
            moderate_new()
            if settings.moderation.guards:
                ask_guards()
            redact_deeply()
        return dict(outcomes)
