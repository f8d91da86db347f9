"""The registry of releases: complete folders, one pointer that names the release in production, and a canary beside it."""

from alignment.release.pointer import Canary, current, current_canary, history, read_serving, serving
from alignment.release.registry import (
    BASE,
    folder_of,
    list_releases,
    promote,
    quarantine,
    register,
    rollback,
    verify,
)
from alignment.release.traffic import canary_events, changes, end_canary, settle, start_canary

__all__ = [
    "BASE",
    "Canary",
    "canary_events",
    "changes",
    "current",
    "current_canary",
    "end_canary",
    "folder_of",
    "history",
    "list_releases",
    "promote",
    "quarantine",
    "read_serving",
    "register",
    "rollback",
    "serving",
    "settle",
    "start_canary",
    "verify",
]
