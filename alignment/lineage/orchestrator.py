"""Scrub the orchestrator's own SQLite store: error messages, log lines and artifacts can quote a log.

Effects: changes the database and rewrites its file.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alignment.errors import StoreBusy
from alignment.lineage.scrub import Scrubber

_FREE_TEXT = {
    "flow_run_state": ("message", "data"),
    "task_run_state": ("message", "data"),
    "flow_run": ("parameters",),
    "flow_run_input": ("value",),
    "log": ("message",),
    "artifact": ("data", "description"),
    "artifact_collection": ("data", "description"),
    "events": ("payload",),
}
"""Prefect's columns of free text; its other columns hold names and states, which may coincide with a person's name."""
_WAIT_SECONDS = 30.0


def scrub(path: Path, scrubber: Scrubber) -> bool:
    """Remove a person from the texts in the SQLite file `path`, and earlier deleted data from its free pages.

    Return False if it is damaged or not an SQLite file; it is then unchanged.

    Raises:
        StoreBusy: another process kept it locked.
    """
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
            connection.create_function("without_person", 1, lambda value: scrubber.cell(value) if isinstance(value, str) else value)
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("BEGIN IMMEDIATE")
            for table, columns in _FREE_TEXT.items():
                present = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
                for column in present.intersection(columns):
                    connection.execute(
                        f'UPDATE "{table}" SET "{column}" = without_person("{column}") '  # noqa: S608 - names from code
                        f'WHERE "{column}" IS NOT without_person("{column}")'
                    )
            connection.execute("COMMIT")
            connection.execute("VACUUM")
            [busy, *_] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as error:
        raise StoreBusy(f"cannot rewrite {str(path)!r}: {error}; stop 'align serve' and run the same command again") from error
    except sqlite3.DatabaseError:
        return False
    if busy:
        raise StoreBusy(f"another process is reading {str(path)!r}; stop 'align serve' and run the same command again")
    return True
