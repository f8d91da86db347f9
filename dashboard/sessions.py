"""Sign-in sessions, kept in this process's memory, so that a restart signs everybody out.

A session is looked up by the SHA-256 of a random cookie; the cookie itself is stored nowhere.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from typing import NamedTuple

from alignment.acting import How

LIFE_SECONDS = 12 * 3600
_MOST = 10_000


class Session(NamedTuple):
    """A visitor whose name was established at sign-in; permissions are checked at each act."""

    name: str
    how: How
    until: float


_SESSIONS: dict[str, Session] = {}
_LOCK = threading.Lock()


def begin(name: str, how: How, *, seconds: float = LIFE_SECONDS) -> str:
    """Begin a session; return its cookie."""
    cookie = secrets.token_urlsafe(32)
    with _LOCK:
        now = time.monotonic()
        for key in [key for key, held in _SESSIONS.items() if held.until <= now]:
            del _SESSIONS[key]
        while len(_SESSIONS) >= _MOST:
            del _SESSIONS[next(iter(_SESSIONS))]
        _SESSIONS[_key(cookie)] = Session(name, how, now + seconds)
    return cookie


def find(cookie: str | None) -> Session | None:
    """Return the session of a cookie, None if it does not exist or has ended."""
    held = _SESSIONS.get(_key(cookie)) if cookie else None
    return held if held is not None and time.monotonic() < held.until else None


def end(cookie: str | None) -> Session | None:
    """End a session; return it."""
    with _LOCK:
        return _SESSIONS.pop(_key(cookie), None) if cookie else None


def cookie_name(port: int) -> str:
    """Return the cookie's name, which contains the port: browsers share cookies between the ports of a host."""
    return f"align_session_{port}"


def _key(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
