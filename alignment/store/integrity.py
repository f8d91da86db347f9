"""Is the store intact, does it hold all rows of its evidence, and is the evidence as written?

Each answer is a list of findings in words, empty if all is well; damage never raises an exception here.

Effects: reads the store in short sessions, and the evidence.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from alignment.errors import StoreBusy, StoreCrashed, StoreError
from alignment.store.evidence import HOLD_SECONDS, STALE, has_id, leftover_parts, missing_rows, tables, unchanged
from alignment.store.isolated import apart
from alignment.store.journal import read_journal
from alignment.store.manifest import damaged_manifests, part_problem, read_manifest
from alignment.store.migrate import schema_version
from alignment.store.restore import SHARED_IDS
from alignment.store.session import EVIDENCE, query, session, sql

_SCAN_ROWS = 200_000


def store_findings(home: Path, *, quick: bool = False) -> list[str]:
    """Return what is wrong with the store; `quick` does not read every block of it.

    DuckDB stores a checksum with every block and verifies it on every read, so reading everything finds damage, with one exception: the
    checksum XORs the block's 8-byte words, and two equal words that change alike cancel out. The store is read in another process,
    because some damage ends the process.

    Raises:
        StoreBusy: it stayed locked, so that nothing is known about it.
    """
    try:
        return apart(_findings, home, quick=quick)
    except StoreCrashed as error:
        return [_told(error)]


def _findings(home: Path, *, quick: bool) -> list[str]:
    try:
        schema_version(home)
        with session(home) as connection:
            names = tables(connection)
    except StoreBusy:
        raise
    except (StoreError, duckdb.Error) as error:
        return [_told(error)]
    unreadable = {} if quick else _unreadable(home, names)
    findings = [f"table {name!r} cannot be read: {told}" for name, told in unreadable.items()]
    looks = [_repeated_ids, _broken_rules, _fewer_than_journal, *([] if quick else [_fewer_than_evidence])]
    for look in looks:
        try:
            findings += look(home, [name for name in names if name not in unreadable])
        except StoreBusy:
            raise
        except (StoreError, duckdb.Error) as error:
            findings.append(_told(error))
    return list(dict.fromkeys(findings))


def _told(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].removesuffix("; run 'align doctor'")


def _unreadable(home: Path, names: list[str]) -> dict[str, str]:
    """Return why tables cannot be read, by table. A session reads as much as fits into its time, and ends at the first error."""
    told = {}
    left = [(name, 0) for name in names]
    while left:
        name = left[0][0]
        try:
            with session(home) as connection:
                until = time.monotonic() + HOLD_SECONDS
                while left and time.monotonic() < until:
                    name, start = left[0]
                    row = connection.execute(f'SELECT coalesce(max(rowid) + 1, 0) FROM "{name}"').fetchone()  # noqa: S608
                    connection.execute(
                        f'SELECT bit_xor(hash(t)) FROM "{name}" AS t WHERE rowid >= ? AND rowid < ?',  # noqa: S608
                        [start, start + _SCAN_ROWS],
                    ).fetchall()
                    more = row is not None and start + _SCAN_ROWS < row[0]
                    left[:1] = [(name, start + _SCAN_ROWS)] if more else []
        except StoreBusy:
            raise
        except (StoreError, duckdb.Error) as error:
            told[name] = _told(error)
            left = [one for one in left if one[0] != name]
    return told


def _repeated_ids(home: Path, names: list[str]) -> Iterator[str]:
    left = [name for name in names if name not in SHARED_IDS]
    while left:
        repeated = {}
        with session(home) as connection:
            until = time.monotonic() + HOLD_SECONDS
            while left and time.monotonic() < until:
                if not has_id(connection, name := left.pop(0)):
                    continue
                row = connection.execute(
                    f'SELECT count(*) FROM (SELECT id FROM "{name}" GROUP BY id HAVING count(*) > 1)'  # noqa: S608
                ).fetchone()
                repeated[name] = int(row[0]) if row else 0
        yield from (f"{number} ids of {name!r} are there more than once" for name, number in repeated.items() if number)


def _broken_rules(home: Path, names: list[str]) -> Iterator[str]:
    needed = {"interactions", "source_files", "pairs", "pair_sets", "review_items", "verdicts"}
    if needed <= set(names):
        yield from (f"{row['broken']} {row['rule']}" for row in query(home, sql("alignment.store", "integrity")) if row["broken"])


def _fewer_than_evidence(home: Path, names: list[str]) -> Iterator[str]:
    try:
        manifest = read_manifest(home)
    except StoreError:
        return  # a finding about the evidence
    if manifest is None or any((home / EVIDENCE).glob(f"{STALE}*")):
        return
    known = {table: held for table, held in manifest.tables.items() if table in names}
    kept = unchanged(home, {table: held.parts for table, held in known.items()})
    for table, held in known.items():
        changed = tuple(part for part in held.parts if part not in kept[table])
        if changed and (missing := missing_rows(home, table, held._replace(parts=changed))):
            yield f"{missing} rows of {table!r} are in the evidence but not in the store"


def _fewer_than_journal(home: Path, names: list[str]) -> Iterator[str]:
    rows, _ = read_journal(home)
    for table, entries in rows.items():
        if table not in names:
            continue
        ids: list[Any] = [entry.get("id") for entry in entries]
        [held] = query(home, f'SELECT count(DISTINCT id) AS n FROM "{table}" WHERE list_contains(?, id)', [ids])  # noqa: S608
        if missing := len(set(ids)) - held["n"]:
            yield f"{missing} rows of {table!r} are in the journal but not in the store"


def evidence_findings(home: Path, *, quick: bool = False) -> list[str]:
    """Return what is wrong with the evidence; `quick` compares only sizes."""
    try:
        manifest = read_manifest(home)
    except StoreError as error:
        return [_told(error)]
    findings = [f"{name} is missing or damaged" for name in damaged_manifests(home)]
    if manifest:
        parts = (part for held in manifest.tables.values() for part in held.parts)
        findings += [problem for part in parts if (problem := part_problem(home, part, quick=quick))]
    _, unreadable = read_journal(home)
    if unreadable:
        findings.append(f"{unreadable} lines of the journal cannot be read")
    return findings


def evidence_leftovers(home: Path) -> list[Path]:
    """Return files left by a killed export; the next export removes them."""
    try:
        return [*leftover_parts(home), *(home / EVIDENCE).glob(f"{STALE}*")]
    except StoreError:
        return []
