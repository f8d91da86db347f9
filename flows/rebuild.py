"""`align doctor --rebuild`: build a new store from the evidence, the old store's readable rows and the remaining logs.

The new store is built in `<home>/.rebuild` and renamed into place; the old store is kept beside it. To resume a killed rebuild, run the
same command again: before the swap it starts over, after the swap it continues with the logs.

Effects: replaces the store and, if it was damaged, the evidence; reads logs.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from alignment.acting import acting_name
from alignment.config import Settings
from alignment.errors import AlignError
from alignment.store import audit, export, query, store_path
from alignment.store.evidence import tables
from alignment.store.integrity import evidence_findings, store_findings
from alignment.store.manifest import sync_path
from alignment.store.restore import Restored, load_journal, restore
from alignment.store.session import EVIDENCE, REBUILD, exclusive, session, wal_path
from alignment.store.snapshot import whole_folder
from flows.night import night_lock, now
from flows.show import say

_REPORT = "restored.json"


class Rebuilt(NamedTuple):
    """One row per table (where its rows came from), and the losses in words; no rows if there was nothing to do."""

    rows: list[dict[str, Any]]
    lost: list[str]


def rebuild(settings: Settings) -> Rebuilt:
    """Repair the store, or the evidence of an intact store; nothing is deleted.

    Raises:
        NightRunning: a night is running.
        StoreBusy: a backup is running.
        StoreError: store or evidence were written by newer code.
    """
    home = settings.home
    with night_lock(home), whole_folder(home):
        audit.append(home, "rebuild_started", "store", actor=acting_name())
        before = _unfinished(home)
        broken = store_findings(home)
        if before is None and not broken:
            return Rebuilt([], _renew_evidence(home))
        found = before
        # The output of an earlier rebuild may have been damaged since.
        if found is None or broken:
            for finding in broken:
                say(finding)
            found = _restored(home, before)
            _exchange(home)
        lost = _finish(settings, found)
        rows = _rows(home, found)
        shutil.rmtree(home / REBUILD)
        return Rebuilt(rows, lost + [f"{row['lost']} rows of {row['table']!r} are lost" for row in rows if row["lost"]])


def _unfinished(home: Path) -> Restored | None:
    """Return what a killed rebuild restored, if its store is already in place or there is no store."""
    folder = home / REBUILD
    try:
        found = Restored(**json.loads((folder / _REPORT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if store_path(folder).exists():
        if store_path(home).exists():
            return None
        _exchange(home)
    return found


def _restored(home: Path, before: Restored | None) -> Restored:
    """Restore from scratch; erasures that the unfinished rebuild `before` missed stay listed as missed."""
    folder = home / REBUILD
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        found = restore(home, folder)
    except AlignError:
        shutil.rmtree(folder)
        raise
    if before:
        found.erasures_unknown |= before.erasures_unknown
        found.expected["erasures"] = max(one.expected.get("erasures", 0) for one in (before, found))
    with (folder / _REPORT).open("w", encoding="utf-8") as out:
        json.dump(asdict(found), out)
        out.flush()
        os.fsync(out.fileno())
    return found


def _aside(path: Path, stamp: str) -> None:
    if path.exists():
        kept = path.with_name(f"{path.name}.damaged-{stamp}")
        os.replace(path, kept)
        say(f"kept: {kept}")


def _stamp() -> str:
    return now().strftime("%Y%m%dT%H%M%S%f")


def _exchange(home: Path) -> None:
    stamp = _stamp()
    with exclusive(home):
        _aside(store_path(home), stamp)
        # The old write-ahead log must not be replayed into the new store.
        _aside(wal_path(home), stamp)
        os.replace(store_path(home / REBUILD), store_path(home))
        sync_path(home)


def _finish(settings: Settings, found: Restored) -> list[str]:
    # Verdicts that arrived while the new store was built.
    again = Restored()
    load_journal(settings.home, settings.home, again)
    found.journal = {name: found.journal.get(name, 0) + again.journal.get(name, 0) for name in {*found.journal, *again.journal}}
    lost = list(found.problems)
    if found.store_unread and found.exported_at:
        say(f"nothing could be read from the old store; the evidence is as of {found.exported_at}, the journal and the logs are newer")
    if found.evidence_damaged:
        _aside(settings.home / EVIDENCE, _stamp())
    lost += _read_logs(settings.home, found)
    export(settings.home)
    return lost


def _read_logs(home: Path, found: Restored) -> list[str]:
    """Read the logs, unless that could bring back erased people; return in words what was not read."""
    [held] = query(home, "SELECT count(*) AS n FROM erasures")
    if found.erasures_unknown or held["n"] < found.expected.get("erasures", 0):
        return [
            "the logs were not read: the record of who was erased may be lost, and they would come back with them; erase them again with "
            "'align erase --subject ID --reason TEXT', then run 'align ingest'"
        ]
    from flows.ingest import ingest

    try:
        ingest(compare=False)  # these exchanges were compared when they were new
    except AlignError as error:
        return [f"the logs could not all be read: {error}"]
    return []


def _renew_evidence(home: Path) -> list[str]:
    broken = evidence_findings(home)
    if broken:
        _aside(home / EVIDENCE, _stamp())
        export(home)
        say("the store is whole; the evidence was damaged and is written afresh")
    return []


def _rows(home: Path, found: Restored) -> list[dict[str, Any]]:
    with session(home) as connection:
        counted = {name: _count(connection, name) for name in tables(connection)}
    rows = []
    for name, now_there in counted.items():
        from_evidence, from_journal, from_store = (part.get(name, 0) for part in (found.evidence, found.journal, found.store))
        rows.append(
            {
                "table": name,
                "evidence": from_evidence,
                "journal": from_journal,
                "old store": from_store,
                "logs": max(0, now_there - from_evidence - from_journal - from_store),
                "rows now": now_there,
                "lost": max(0, found.expected.get(name, 0) - now_there),
            }
        )
    return rows


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    row = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608 - a name from the schema
    return int(row[0]) if row else 0
