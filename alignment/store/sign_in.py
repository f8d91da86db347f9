"""One-time tokens to sign in to the dashboard: each opens one session, once, within the hour.

The folder stores only a token's SHA-256. Removing that file uses the token up, so that only one of two bearers gets in. Whoever can write
to the state folder can make a token: it shows that the account that owns the folder let its bearer in.

Effects: writes `<home>/sign_in`, readable by its owner only; appends to the audit log.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from datetime import datetime, timedelta
from pathlib import Path

from alignment.acting import acting_name
from alignment.errors import StoreError
from alignment.store import audit

FOLDER = "sign_in"
LIFE = timedelta(hours=1)


def issue_token(home: Path, name: str, *, now: datetime) -> str:
    """Return a token that signs `name` in once, after a row in the audit log; remove expired tokens.

    Raises:
        NoSpace, StoreError: the log or the folder cannot be written; no token was issued.
    """
    audit.append(home, "link_issued", "dashboard", actor=acting_name(), details={"for": name})
    token = secrets.token_urlsafe(32)
    folder = home / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.glob("*.json"):
            if _read(path, now) is None:
                path.unlink(missing_ok=True)
        scratch = folder / f".{_digest(token)}.part"
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump({"name": name, "until": (now + LIFE).isoformat()}, out)
        os.replace(scratch, folder / f"{_digest(token)}.json")
    except OSError as error:
        raise StoreError(f"cannot write {str(folder)!r}: {error.strerror}; correct its permissions and try again") from error
    return token


def redeem_token(home: Path, token: str, *, now: datetime) -> str | None:
    """Use a token up and return the name it signs in; None if it is unknown, used or expired."""
    wanted = _digest(token)
    found = None
    for path in (home / FOLDER).glob("*.json"):
        if hmac.compare_digest(path.stem, wanted):
            found = path
    if found is None:
        return None
    name = _read(found, now)
    try:
        found.unlink()
    except OSError:  # another bearer was faster
        return None
    return name


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path, now: datetime) -> str | None:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return str(said["name"]) if now < datetime.fromisoformat(said["until"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
