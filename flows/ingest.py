"""Data in: what is new in the log files becomes checked, redacted, moderated exchanges."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
from prefect import flow, task

from alignment.acting import acting_name
from alignment.config import Settings, load_settings
from alignment.errors import AlignError, CheckFailed, ConfigError, InputError
from alignment.ingest import (
    Batch,
    Context,
    LogFile,
    LogSource,
    Parsed,
    Reading,
    blocks,
    log_sources,
    make_source,
    merge,
    parse,
    parser,
    refuse,
    resume,
    unread,
)
from alignment.ingest.ahead import ahead
from alignment.ingest.aside import DAMAGED, UNREADABLE, UNUSABLE, SetAside, broken, set_aside, without_set_aside
from alignment.ingest.redact import redaction_key
from alignment.ingest.replay import replay
from alignment.lineage import erased_keys
from alignment.store import append, audit, migrate, query, session, sql
from alignment.text import cap, printable
from data_checks import CheckReport, check, columns
from flows.checks import check_ingest
from flows.night import embedder, interaction, night_lock, now
from flows.redact import redact_deeply
from flows.show import progress, say

_SCORED_TOGETHER, _TOLD = 512, 10
_ONE_USERS_SHARE = 0.5
"""Of a source's new exchanges: one id on more of them is told."""
_NOTHING: Mapping[str, int] = MappingProxyType({})
_ENOUGH_UNUSABLE = 20
"""Unusable lines from which their share says something of a file: one in a file of three says nothing."""
_ANYBODYS = ("prompt_empty", "too_long", "too_long_to_mask", "edit_too_long")
"""What whoever talks to the model can make of a line: a share of such lines would let one person keep everybody's out."""


def read_context(settings: Settings) -> Context:
    """Return what lines are judged by now."""
    moment = now()
    erased = tuple(sorted(erased_keys(settings.home)))
    return Context(settings.ingest, redaction_key(settings.home), moment, moment + settings.skew, erased)


def _parsed(source: LogSource, reading: Reading, context: Context) -> Iterator[Parsed]:
    connection, statement = parser(), source.statement()
    try:
        for block in blocks(reading, context.settings, now=context.now):
            yield parse(connection, statement, source.undated, reading, block, context)
    finally:
        connection.close()


def _check(parsed: Parsed, batch: str, moment: datetime) -> CheckReport:
    usable = parsed.rows.select(columns("interactions")).take(pa.array(parsed.usable))
    return check("interactions", usable.to_pandas(), batch=batch, now=moment) if len(usable) else CheckReport({}, [])


class FileRead(NamedTuple):
    """What became of a file's records, the keys that its lines have, why records were skipped, and what signals nobody could read."""

    batch: Batch
    keys: frozenset[str]
    why_skipped: Counter[str] = Counter()  # noqa: RUF012 - never changed
    thumbs_unread: int = 0


@task
def read_file(source: LogSource, log_file: LogFile, dry_run: bool = False, accept: bool = False) -> FileRead:
    """Read what is new in one file, block by block: parse, check, merge.

    Raises:
        CheckFailed: too much of it is unusable, or a data check stops it; that block and what follows is not stored. With `accept`, what
            is unusable is quarantined and the rest is stored.
        InputError: it cannot be read.
    """
    settings = load_settings()
    context = read_context(settings)
    reading = resume(settings.home, source.name, log_file)
    total, keys, reasons, started = Batch(), frozenset[str](), Counter[str](), time.perf_counter()
    why_skipped, thumbs_unread = Counter[str](), 0
    [before] = query(settings.home, sql("ingest_before"), {"id": reading.id, "anybodys": list(_ANYBODYS)})
    for parsed in ahead(_parsed(source, reading, context)):
        keys |= parsed.keys
        why_skipped, thumbs_unread = why_skipped + parsed.why_skipped, thumbs_unread + parsed.thumbs_unread
        report = _check(parsed, f"{reading.id}:{reading.place.offset}", context.now)
        reasons.update(parsed.quarantine["reason"].to_pylist() + list(report.rejected.values()))
        read = before["read"] + total.read + parsed.read
        problem = _problem(settings, log_file, read, before["unusable"], reasons, report)
        skipped = before["skipped"] + total.skipped + parsed.skipped
        if accept and problem and not report.stops:
            problem = ""
        if skipped == read > 0 and not problem:
            problem = _nothing_in(log_file, read) if read >= settings.checks.min_rows else ""
        if dry_run:
            total = total.plus(_would_be(parsed, report))
            if problem:
                say(f"would stop: {problem}")
                break
        else:
            block = (settings.home, source.name, reading, parsed)
            found: dict[str, Any] = {"rejected": report.rejected, "results": report.results, "context": context}
            if problem:
                refuse(*block, **found)
                raise CheckFailed(problem)
            for warning in report.warnings:
                say(f"warning: {warning}")
            seconds, started = time.perf_counter() - started, time.perf_counter()
            total = total.plus(merge(*block, **found, seconds=seconds))
        reading = reading._replace(place=parsed.block.end)
    if dry_run and reasons:
        say(f"{log_file.name}: {_commonest(reasons)}")
    return FileRead(total, keys, why_skipped, thumbs_unread)


def _would_be(parsed: Parsed, report: CheckReport) -> Batch:
    quarantined = len(parsed.quarantine) + len(report.rejected)
    return Batch(parsed.read, parsed.read - quarantined - parsed.skipped, 0, quarantined, parsed.redacted, parsed.skipped)


def _problem(settings: Settings, log_file: LogFile, read: int, unusable: int, reasons: Counter[str], report: CheckReport) -> str:
    """Say why a block must not be stored, or nothing. `read` and `unusable` count what was read of the file before as well."""
    # Lines of people who were erased are kept out on purpose, and rows that fail a check are judged by the checks.
    counted = {reason: number for reason, number in reasons.items() if reason != "erased_subject" and not reason.startswith("check:")}
    everything = sum(counted.values())
    bad = everything if everything == read else unusable + sum(n for reason, n in counted.items() if reason not in _ANYBODYS)
    if bad > settings.ingest.max_quarantined * read and bad >= _ENOUGH_UNUSABLE:
        return (
            f"{bad} of {read} lines of {log_file.path!r} are unusable, more than the allowed {settings.ingest.max_quarantined:.0%}; "
            f"{_commonest(reasons)}. Look at them with 'align ingest --quarantine', then repair the file, correct the source's preset, "
            "let the file in with 'align ingest --accept', or raise [ingest] max_quarantined"
        )
    if report.stops:
        return f"the data check 'interactions' stops the log file {log_file.path!r}: {'; '.join(report.stops)}. Repair it and run again"
    return ""


def _nothing_in(log_file: LogFile, read: int) -> str:
    return (
        f"none of {read} records of {log_file.path!r} is an exchange as its preset knows them; correct the source's preset in align.toml, "
        "or take the file out of [ingest] logs"
    )


def _commonest(reasons: Counter[str]) -> str:
    return "the commonest reasons: " + ", ".join(f"{name} ({number})" for name, number in reasons.most_common(3))


@task
def moderate_new() -> int:
    """Run the detectors over what they have not seen; return how many exchanges that was."""
    settings = load_settings()
    # The flow pays for the detectors' imports only when there is something to detect.
    from alignment.moderation import moderate, versions

    model = embedder()
    known = [f"{name}@{version}" for name, version in versions(embedder=model).items()]
    ids = [row["id"] for row in query(settings.home, sql("unmoderated"), {"versions": known})]
    if not ids:
        return 0
    with progress("moderate") as advance:
        for start in range(0, len(ids), _SCORED_TOGETHER):
            rows = query(settings.home, sql("exchanges"), {"ids": ids[start : start + _SCORED_TOGETHER]})
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

    `since` leaves out files that did not change after it; `dry_run` stores nothing; `accept` lets what a check stops pass with a warning;
    with it, files that were set aside are read, without what is unusable in them. Without `compare` nothing is compared with earlier
    deliveries. A file that cannot be used is set aside and the flow goes on; a source of which nothing can be used keeps nothing else
    out and fails the flow after all else is moderated and checked.
    """
    settings = load_settings()
    with night_lock(settings.home):
        migrate(settings.home)
        started = now()
        sources = chosen_sources(settings, logs, preset, source)
        if accept and not dry_run:
            audit.append(settings.home, "checks_accepted", ", ".join(sorted(one.name for one in sources)), actor=acting_name())
        found = _read_sources(settings, sources, since=since, dry_run=dry_run, accept=accept)
        moderated = 0
        if not dry_run:
            moderated = moderate_new() if found.total.stored or _backlog(settings) else 0
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
        return {**found.total._asdict(), "moderated": moderated}


class _Read(NamedTuple):
    """What became of all files, the keys that the lines of each source have, and what kept a source or file out."""

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
        unusable: list[SetAside] = []
        read: list[LogFile] = []
        for log_file in wanted:
            if since and log_file.mtime_ns and log_file.mtime_ns < since.timestamp() * 1e9:
                continue
            try:
                batch, seen, why_skipped, thumbs_unread = read_file(one, log_file, dry_run, accept)
            except InputError as error:
                unusable.append(SetAside(log_file, _kind(log_file, error), str(error)))
                continue
            read.append(log_file)
            _tell(log_file, batch, why_skipped, thumbs_unread)
            found.keys[one.name] |= seen
            found = found._replace(total=found.total.plus(batch))
        _tell_set_aside(one, unusable, still)
        if not dry_run:
            set_aside(settings.home, one, settings.ingest, unusable, now())
            if problem := broken(settings.home, one, here, read):
                found.problems.append(CheckFailed(problem))
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


def _tell(log_file: LogFile, batch: Batch, why_skipped: Mapping[str, int] = _NOTHING, thumbs_unread: int = 0) -> None:
    if thumbs_unread:
        say(
            f"warning: {thumbs_unread} values for thumbs in {log_file.name} are neither up nor down and were left out; map them: "
            "[ingest.sources.NAME.fields] thumbs = \"CASE … WHEN … THEN 'up' … END\""
        )
    if batch.read:
        more = [f"{name} {number}" for name in ("duplicate", "skipped") if (number := getattr(batch, name))]
        counts = [f"read {batch.read}", f"stored {batch.stored}", f"quarantined {batch.quarantined}", *more]
        why = ", ".join(f"{name} {number}" for name, number in sorted(why_skipped.items()))
        say(f"{log_file.name}: {', '.join(counts)}{f' ({why})' if why else ''}")
        if batch.skipped == batch.read:
            say(f"warning: {_nothing_in(log_file, batch.read)}")
    elif not log_file.size:
        say(f"warning: the log file {log_file.path} is empty")


def _tell_commonest(settings: Settings, sources: list[str], since: datetime) -> None:
    """Say of an id that stands on very many exchanges that it may be no person's. Caps go on holding for it: whoever floods a model with
    requests must not be taken for nobody."""
    rows = query(
        settings.home,
        sql("ingest_commonest_user"),
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
    """Say whether an earlier run was killed between reading and moderating."""
    rows = query(settings.home, "SELECT 1 FROM interactions ANTI JOIN seeds USING (id) ANTI JOIN detections ON interaction_id = id LIMIT 1")
    return bool(rows)


@flow(name="replay")
def replay_quarantine(reason: str | None = None, source: str | None = None) -> dict[str, int]:
    """Read quarantined records again, after a setting or a mapping was corrected; return what became of them."""
    settings = load_settings()
    with night_lock(settings.home):
        migrate(settings.home)
        context = read_context(settings)

        def rejects(parsed: Parsed, batch: str) -> Mapping[int, str]:
            return _check(parsed, f"{batch}:replay", context.now).rejected

        sources = {one.name: one for one in log_sources(settings)}
        outcomes = replay(settings.home, sources, rejects, context, reason=reason, source=source)
        if outcomes["stored"]:
            moderate_new()
            redact_deeply()
        return dict(outcomes)
