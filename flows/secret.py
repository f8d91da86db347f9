"""The secret of a state folder, which its Prefect servers require and its commands send, and which server belongs to the folder.

Effects: may write `<home>/prefect.secret`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from alignment.errors import ConfigError

FILE, LOCK = "prefect.secret", ".serve.lock"
SERVER, CLIENT = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"


def secret_path(home: Path) -> Path:
    """Return the path of a state folder's secret."""
    return home / FILE


def prefect_secret(home: Path) -> str:
    """Return the secret of the state folder `home`, created on the first call and readable by its owner only.

    Raises:
        ConfigError: the file is a link, empty or another user's, or others could have read it.
    """
    path = secret_path(home)
    if not os.path.lexists(path):
        # Linked into place once complete: no second process can read it half-written, and a kill cannot leave it empty.
        handle, scratch = tempfile.mkstemp(prefix=".secret-", dir=home)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as out:
                out.write(f"align:{secrets.token_urlsafe(32)}")
            with contextlib.suppress(FileExistsError):
                os.link(scratch, path)
        finally:
            Path(scratch).unlink()
    return _read(path)


def _read(path: Path) -> str:
    again = f"stop 'align serve', remove {str(path)!r}, and start again: a new secret is made"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"the secret of Prefect cannot be read from {str(path)!r}: {error.strerror}; {again}") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigError(
                f"the secret of Prefect in {str(path)!r} may be known to others (mode {found.st_mode & 0o777:o}, owner {found.st_uid}), "
                f"and must be a file of this account's with mode 600; {again}"
            )
        secret = os.read(handle, 1000).decode("ascii", "replace").strip()
    finally:
        os.close(handle)
    if not secret.startswith("align:") or len(secret) < 40 or not secret.isprintable():
        raise ConfigError(f"what {str(path)!r} holds is no secret of Prefect; {again}")
    return secret


def running_server(home: Path) -> str | None:
    """Return the API address of the server that `align serve` runs for a state folder now; another process on its port does not count."""
    try:
        handle = os.open(home / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(handle, 200).decode("ascii", "replace") or None
    finally:
        os.close(handle)
    return None


def without_own_secret(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the environment without the state folder's secret, which commands read themselves. The key of a server of the user's stays.

    Raises:
        ConfigError: see `prefect_secret`.
    """
    own = prefect_secret(home) if os.path.lexists(secret_path(home)) else None
    return {name: value for name, value in environment.items() if name not in (SERVER, CLIENT) or value != own}


def without_secret(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that does not talk to Prefect."""
    return {name: value for name, value in environment.items() if name not in (SERVER, CLIENT)}
