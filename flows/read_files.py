"""Read log files in blocks, check them, and store them or keep them out; large files one at a time, small files together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

from alignment.config import Settings, load_settings
from alignment.errors import CheckFailed, InputError
from alignment.ids import content_id
from alignment.ingest import (
    Batch,
    Context,
    FileProgress,
    Known,
    LogFile,
    LogSource,
    Parsed,
    Part,
    Unmasked,
    blocks,
    known_files,
    mask,
    merge,
    parse,
    parser,
    read_records,
    resume,
    would_be,
)
from alignment.ingest.landing import Landed, land, some
from alignment.ingest.prefetch import ahead
from alignment.ingest.redact import redaction_key
from alignment.lineage import erased_keys
from alignment.store import query, sql
from data_checks import CheckReport, check, columns
from flows.night import now
from flows.show import say

ENOUGH_UNUSABLE = 20
"""Minimum of unusable lines before their share counts: one bad line in a file of three says nothing."""
_ANYBODYS = ("prompt_empty", "too_long", "too_long_to_mask", "edit_too_long")
"""Reasons that any user of the model can cause: counting their share would let one person keep everybody's lines out."""


class FileRead(NamedTuple):
    """The result for a file's records: its lines' keys, why records were skipped, and the number of unreadable thumbs signals."""

    batch: Batch = Batch()
    keys: frozenset[str] = frozenset()
    why_skipped: Counter[str] = Counter()  # noqa: RUF012 - never changed
    thumbs_unread: int = 0

    def plus(self, other: FileRead) -> FileRead:
        """Return the sums."""
        why_skipped, thumbs_unread = self.why_skipped + other.why_skipped, self.thumbs_unread + other.thumbs_unread
        return FileRead(self.batch.plus(other.batch), self.keys | other.keys, why_skipped, thumbs_unread)


class SoFar(NamedTuple):
    """A file's counts so far: records read, skipped, and unusable before this run; `reasons` count this run's unusable records."""

    read: int = 0
    skipped: int = 0
    unusable: int = 0
    reasons: Counter[str] = Counter()  # noqa: RUF012 - never changed

    @property
    def refused(self) -> Counter[str]:
        """Unusable records by reason, without lines of erased people (kept out on purpose) and failed checks (the checks judge those)."""
        found = {name: number for name, number in self.reasons.items() if name != "erased_subject" and not name.startswith("check:")}
        return Counter(found)

    @property
    def bad(self) -> int:
        """The number of unusable records; records that any user can cause count only if the file has nothing else."""
        everything = self.refused.total()
        return everything if everything == self.read else self.unusable + self.not_anybodys

    @property
    def not_anybodys(self) -> int:
        """The number of this run's unusable records that not just any user can cause."""
        return sum(number for name, number in self.refused.items() if name not in _ANYBODYS)


class FilesRead(NamedTuple):
    """The result for several files: record counts, files read, files to read alone, and unusable files with the reason."""

    total: FileRead
    read: list[LogFile]
    alone: list[LogFile]
    unusable: list[tuple[LogFile, InputError]]


def read_context(settings: Settings) -> Context:
    """Return the context in which lines are judged now."""
    moment = now()
    erased = tuple(sorted(erased_keys(settings.home)))
    return Context(settings.ingest, redaction_key(settings.home), moment, moment + settings.skew, erased)


def check_block(parsed: Parsed, batch: str, moment: datetime) -> CheckReport:
    """Run the suite 'interactions' on the usable rows of a block."""
    usable = parsed.rows.select(columns("interactions")).take(pa.array(parsed.usable))
    return check("interactions", usable.to_pandas(), batch=batch, now=moment) if len(usable) else CheckReport({}, [])


def _checked(source: LogSource, reading: FileProgress, context: Context) -> Iterator[tuple[Parsed, CheckReport]]:
    # A pipeline: DuckDB reads one block, this masks and checks another, and the caller stores a third. The lines of a fourth are split
    # ahead of time: splitting takes Python's lock again and again, and each time masking would keep DuckDB waiting for it.
    for block in ahead(_read(source, reading, context)):
        parsed = mask(block, context)
        [place] = [part.reading.place for part in parsed.parts]
        yield parsed, check_block(parsed, f"{reading.id}:{place.offset}", context.now)


def _read(source: LogSource, reading: FileProgress, context: Context) -> Iterator[Unmasked]:
    statement = source.statement()
    with closing(parser()) as connection:
        for block in ahead(blocks(reading, context.settings, now=context.now)):
            yield read_records(connection, statement, source.undated, [Part(reading, block)], context)
            reading = reading._replace(place=block.end)


@task
def read_file(source: LogSource, log_file: LogFile, dry_run: bool = False, accept: bool = False) -> FileRead:
    """Read what is new in one file, block by block: parse, check, merge.

    Raises:
        CheckFailed: too many lines are unusable, or a data check stops the file; that block and the rest are not stored. With `accept`,
            unusable lines are quarantined and the rest is stored.
        InputError: the file cannot be read.
    """
    settings = load_settings()
    context = read_context(settings)
    reading = resume(known_files(settings.home, source.name), source.name, log_file)
    [so_far] = _so_far(settings, [reading])
    total, started = FileRead(), time.perf_counter()
    for parsed, report in ahead(_checked(source, reading, context)):
        [so_far] = _with(parsed, report, [so_far])
        problem = _problem(settings, log_file, so_far, report, accept)
        if dry_run:
            total = total.plus(_of(parsed, would_be(parsed, report.rejected)))
            if problem:
                say(f"would stop: {problem}")
                break
            continue
        seconds, started = time.perf_counter() - started, time.perf_counter()
        [batch] = _stored(settings, source, parsed, report, context, {0} if problem else set(), seconds)
        if problem:
            raise CheckFailed(problem)
        total = total.plus(_of(parsed, [batch]))
    if dry_run and so_far.reasons:
        say(f"{log_file.name}: {_commonest(so_far.reasons)}")
    return total


def _stored(
    settings: Settings, source: LogSource, parsed: Parsed, report: CheckReport, context: Context, refused: set[int], seconds: float
) -> list[Batch]:
    if not refused:
        for warning in report.warnings:
            say(f"warning: {warning}")
    return merge(
        settings.home,
        source.name,
        parsed,
        rejected=report.rejected,
        results=report.results,
        context=context,
        seconds=seconds,
        refused=refused,
    )


@task
def read_small_files(source: LogSource, log_files: Sequence[LogFile], dry_run: bool = False, accept: bool = False) -> FilesRead:
    """Read what is new in many small files, in batches as large as fit; each file passes or fails on its own.

    Copies are read after their originals, so that no line is counted twice.
    """
    settings = load_settings()
    context = read_context(settings)
    found = FilesRead(FileRead(), [], [], [])
    wanted = list(log_files)
    for again in (False, True):
        later: list[LogFile] = []
        for landed, parsed in ahead(_landed(settings, source, wanted, context)):
            found.unusable.extend(landed.failed)
            found.alone.extend([*landed.alone, *(landed.later if again else ())])
            later += landed.later
            if parsed:
                found = _take(settings, source, found, parsed, context, dry_run=dry_run, accept=accept)
            else:
                found.alone.extend(part.reading.log_file for part in landed.parts)
        wanted = later
    batch = found.total.batch
    if batch.read and batch.skipped == batch.read:
        say(f"warning: none of {batch.read} records in small files of {source.name!r} is an exchange as its preset knows them")
    return found


def _landed(settings: Settings, source: LogSource, wanted: Sequence[LogFile], context: Context) -> Iterator[tuple[Landed, Parsed | None]]:
    """Yield files landed together, with their parsed lines; None if they cannot be parsed together."""
    statement, known, seen = source.statement(), known_files(settings.home, source.name), Known()
    left = list(wanted)
    with closing(parser()) as connection:
        while left:
            number = some(left)
            landed = land(known, seen, source.name, left[:number], context.settings, context.now)
            left = [*landed.rest, *left[number:]]
            try:
                yield landed, parse(connection, statement, source.undated, landed.parts, context) if landed.parts else None
            except InputError:
                yield landed, None


def _take(
    settings: Settings, source: LogSource, found: FilesRead, parsed: Parsed, context: Context, *, dry_run: bool, accept: bool
) -> FilesRead:
    """Check and store the blocks of small files; keep out files in which everything is unusable."""
    started, files = time.perf_counter(), [part.reading.log_file for part in parsed.parts]
    batch = content_id([(part.reading.id, part.reading.place.offset) for part in parsed.parts])
    report = check_block(parsed, batch, context.now)
    if report.stops:
        # Checking each file by itself shows which one is at fault.
        found.alone.extend(files)
        return found
    so_far = _with(parsed, report, _so_far(settings, [part.reading for part in parsed.parts]))
    # If the source gave exchanges before, other records (metrics, health checks) are normal traffic.
    gives = found.total.batch.stored > 0 or _ever_stored(settings, source)
    nothing = "" if accept else _nothing_usable(settings, source, so_far, gives)
    problems = {
        number: problem
        for number, (one, log_file) in enumerate(zip(so_far, files, strict=True))
        if (problem := (nothing if one.refused or not gives else "") or _problem(settings, log_file, one, report, accept))
    }
    if dry_run:
        for problem in sorted(set(problems.values())):
            say(f"would stop: {problem}")
        return found._replace(total=found.total.plus(_of(parsed, would_be(parsed, report.rejected, problems), problems)))
    batches = _stored(settings, source, parsed, report, context, set(problems), time.perf_counter() - started)
    found.unusable.extend((files[number], CheckFailed(problem)) for number, problem in problems.items())
    found.read.extend(log_file for number, log_file in enumerate(files) if number not in problems)
    return found._replace(total=found.total.plus(_of(parsed, batches, problems)))


def _ever_stored(settings: Settings, source: LogSource) -> bool:
    return bool(query(settings.home, "SELECT 1 FROM source_files WHERE source = ? AND rows_stored > 0 LIMIT 1", [source.name]))


def _nothing_usable(settings: Settings, source: LogSource, so_far: Sequence[SoFar], gives: bool) -> str:
    """Return a problem if 20 or more small files have no usable record, each file being too small to show it alone.

    For a source that `gives` exchanges, only unusable records count, not records that are no exchange.
    """
    read, bad, skipped = (sum(numbers) for numbers in zip(*((one.read, one.not_anybodys, one.skipped) for one in so_far), strict=True))
    reasons = sum((one.reasons for one in so_far), Counter[str]())
    files = sum(one.read > 0 for one in so_far)
    enough = bad >= ENOUGH_UNUSABLE or (skipped >= settings.checks.min_rows and not gives)
    if files < ENOUGH_UNUSABLE or read > bad + skipped or not enough:
        return ""
    why = f"{bad} are unusable, {skipped} no exchange as its preset knows them{f'; {_commonest(reasons)}' if reasons else ''}"
    return (
        f"none of {read} records in {files} small files of {source.name!r} can be used: {why}. Look at them with "
        "'align ingest --quarantine', then correct the source's preset, or let the files in with 'align ingest --accept'"
    )


def _so_far(settings: Settings, readings: Sequence[FileProgress]) -> list[SoFar]:
    ids = [one.id for one in readings if one.place.offset]
    rows = query(settings.home, sql("flows", "ingest_before"), {"ids": ids, "anybodys": list(_ANYBODYS)}) if ids else []
    known = {row["id"]: SoFar(row["read"], row["skipped"], row["unusable"]) for row in rows}
    return [known.get(one.id, SoFar()) for one in readings]


def _with(parsed: Parsed, report: CheckReport, before: Sequence[SoFar]) -> list[SoFar]:
    """Return the updated counts of each part's file after its block."""
    reasons = [Counter(one.reasons) for one in before]
    read, skipped = [one.read for one in before], [one.skipped for one in before]
    for part in parsed.of_part.tolist():
        read[part] += 1
    refused = parsed.rows.select(["part", "reason"]).filter(pc.is_valid(parsed.rows["reason"]))
    for part, reason in zip(refused["part"].to_pylist(), refused["reason"].to_pylist(), strict=True):
        if reason == "no_exchange":
            skipped[part] += 1
        else:
            reasons[part][reason] += 1
    of_usable = parsed.of_part[parsed.usable]
    for place, reason in report.rejected.items():
        reasons[of_usable[place]][reason] += 1
    return [SoFar(here, none, one.unusable, why) for here, none, one, why in zip(read, skipped, before, reasons, strict=True)]


def _of(parsed: Parsed, batches: Sequence[Batch], refused: Collection[int] = ()) -> FileRead:
    """Return the result for the parts that are not in `refused`."""
    total = Batch()
    for one in batches:
        total = total.plus(one)
    return FileRead(total, *parsed.told_without(refused))


def _problem(settings: Settings, log_file: LogFile, so_far: SoFar, report: CheckReport, accept: bool) -> str:
    """Return why a block must not be stored; empty if it may be."""
    read, bad = so_far.read, so_far.bad
    if bad > settings.ingest.max_quarantined * read and bad >= ENOUGH_UNUSABLE and not (accept and not report.stops):
        return (
            f"{bad} of {read} lines of {log_file.path!r} are unusable, more than the allowed {settings.ingest.max_quarantined:.0%}; "
            f"{_commonest(so_far.reasons)}. Look at them with 'align ingest --quarantine', then repair the file, correct the source's "
            "preset, let the file in with 'align ingest --accept', or raise [ingest] max_quarantined"
        )
    if report.stops:
        return f"the data check 'interactions' stops the log file {log_file.path!r}: {'; '.join(report.stops)}. Repair it and run again"
    if so_far.skipped == read >= max(1, settings.checks.min_rows):
        return nothing_in(log_file, read)
    return ""


def nothing_in(log_file: LogFile, read: int) -> str:
    """Return the message that a file holds no exchange."""
    return (
        f"none of {read} records of {log_file.path!r} is an exchange as its preset knows them; correct the source's preset in align.toml, "
        "or take the file out of [ingest] logs"
    )


def _commonest(reasons: Counter[str]) -> str:
    return "the commonest reasons: " + ", ".join(f"{name} ({number})" for name, number in reasons.most_common(3))
