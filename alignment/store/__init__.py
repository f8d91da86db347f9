"""The only place that opens the store: a DuckDB file behind a turnstile of two lock files, and the evidence that outlives it."""

from alignment.store.compact import rewrite
from alignment.store.evidence import export, rewriting
from alignment.store.journal import append_durably
from alignment.store.migrate import migrate
from alignment.store.session import append, query, session, sql, store_path
from alignment.store.teacher_calls import TeacherCalls

__all__ = [
    "TeacherCalls",
    "append",
    "append_durably",
    "export",
    "migrate",
    "query",
    "rewrite",
    "rewriting",
    "session",
    "sql",
    "store_path",
]
