"""Numbered migrations: each `.sql` file of the folder runs once, in order, in one transaction.

Effects: creates or changes the store.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import duckdb

from alignment.errors import StoreError
from alignment.store.session import session, store_path


class Migration(NamedTuple):
    """One numbered step of the schema."""

    version: int
    name: str
    text: str


def migrations() -> list[Migration]:
    """Return all migrations this code knows, in order."""
    folder = files("alignment.store") / "migrations"
    found = [
        Migration(int(entry.name.split("_")[0]), entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted(found)


def _applied(connection: duckdb.DuckDBPyConnection) -> int:
    exists = connection.execute("SELECT count(*) FROM information_schema.tables WHERE table_name = 'schema_migrations'").fetchone()
    if not exists or not exists[0]:
        return 0
    row = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()
    return int(row[0]) if row else 0


def schema_version(home: Path) -> int:
    """Return the schema version of the store of `home`.

    Raises:
        StoreError: there is no store, it cannot be read, or newer code wrote it.
    """
    version = applied_version(home)
    refuse_newer(version, f"the store in {str(home)!r}")
    return version


def applied_version(home: Path) -> int:
    """Return the schema version of the store of `home`, whether or not this code knows it."""
    with session(home) as connection:
        return _applied(connection)


def refuse_newer(version: int, what: str) -> None:
    """Raise StoreError if the schema of `what` is newer than this code."""
    if version > (known := migrations()[-1].version):
        raise StoreError(f"{what} has schema {version}, this code knows {known}; install the newer version of this project")


def migrate(home: Path, *, upto: int | None = None) -> int:
    """Migrate the store of `home` to this code's schema, or to version `upto`; return the version reached.

    Costs one read when there is nothing to do.

    Raises:
        StoreError: the store was written by newer code.
    """
    known = [one for one in migrations() if upto is None or one.version <= upto]
    home.mkdir(parents=True, exist_ok=True)
    if store_path(home).exists() and (version := schema_version(home)) >= known[-1].version:
        return version
    with session(home, write=True) as connection:
        done = _applied(connection)
        for migration in known:
            if migration.version > done:
                connection.execute(migration.text)
                connection.execute(
                    "INSERT INTO schema_migrations (version, name, applied_at) VALUES (?, ?, now()::TIMESTAMP)",
                    [migration.version, migration.name],
                )
                # One transaction each: DuckDB refuses to alter a table whose rows the same transaction has changed.
                connection.commit()
                connection.begin()
    return known[-1].version
