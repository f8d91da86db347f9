"""The registry of releases: complete folders, one pointer to the release in production, and a canary beside it."""

from alignment.release.events import canary_events, changes
from alignment.release.pointer import Canary, current, current_canary, history, read_serving, serving
from alignment.release.registry import (
    BASE,
    champion,
    folder_of,
    list_releases,
    promote,
    quarantine,
    register,
    right_of,
    rollback,
    verify,
    withdraw,
)
from alignment.release.rights import Right, may_serve
from alignment.release.traffic import end_canary, settle, start_canary

__all__ = [
    "BASE",
    "Canary",
    "Right",
    "canary_events",
    "champion",
    "changes",
    "current",
    "current_canary",
    "end_canary",
    "folder_of",
    "history",
    "list_releases",
    "may_serve",
    "promote",
    "quarantine",
    "read_serving",
    "register",
    "right_of",
    "rollback",
    "serving",
    "settle",
    "start_canary",
    "verify",
    "withdraw",
]
