"""The one place that opens the store: a DuckDB file behind a turnstile of two lock files."""

from alignment.store.migrate import migrate
from alignment.store.session import append, query, rewrite, session, sql, store_path

__all__ = ["append", "migrate", "query", "rewrite", "session", "sql", "store_path"]
