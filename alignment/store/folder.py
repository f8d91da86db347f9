"""Keep the state folder private to its owner: it holds what people wrote, and the keys that mask them.

Effects: sets the process's umask, which its children inherit; makes the folder, or narrows its mode.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from alignment.errors import ConfigError, NotPermitted

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_KEYS = ("redaction.key", "judge.key")


def keep_to_owner(home: Path) -> str:
    """Make `home`, and all files this process writes from now on, readable by the owner only; return what was changed, if anything.

    Raises:
        ConfigError: the folder is not ours: it belongs to the system, to everybody, or to another account.
        NotPermitted: it cannot be made or written to, or this is root and it belongs to another account.
    """
    os.umask(0o077)
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        here = home.stat()
        _refuse_shared(home, here)
        told = ""
        if here.st_mode & _OTHERS:
            home.chmod(0o700)
            told = f"the state folder {str(home)!r} was open to other accounts (mode {stat.S_IMODE(here.st_mode):o}); it is 700 now"
        for name in _KEYS:
            key = home / name
            if key.is_file() and not key.is_symlink() and key.stat().st_mode & _OTHERS:
                key.chmod(0o600)
    except FileExistsError:
        raise ConfigError(f"the state folder {str(home)!r} is a file; set ALIGN_HOME to a folder") from None
    except OSError as error:
        raise not_permitted(error, home) from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise NotPermitted(f"the state folder {str(home)!r} cannot be written to by this account; {_REMEDY}")
    return told


_REMEDY = "let the account that runs align own it (chown), or set ALIGN_HOME to another folder"


def _refuse_shared(home: Path, here: os.stat_result) -> None:
    if here.st_mode & stat.S_ISVTX or str(home) in (home.anchor, os.environ.get("HOME", "").rstrip("/")):
        raise ConfigError(
            f"the state folder {str(home)!r} is a folder for other things too; set ALIGN_HOME to one of its own, such as ./var"
        )
    if os.geteuid() == 0 and here.st_uid != 0:
        # The service could not read what root writes, such as the name of the served release.
        name, named_by = _owner(here.st_uid)
        raise NotPermitted(f"the state folder {str(home)!r} belongs to {name}; run 'sudo -u {named_by} align …'")
    if here.st_uid != os.geteuid():
        raise ConfigError(f"the state folder {str(home)!r} belongs to another account (uid {here.st_uid}); {_REMEDY}")


def _owner(uid: int) -> tuple[str, str]:
    """Return an account's name, and the name that sudo takes for it."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}", rf"\#{uid}"
    return name, name


def not_permitted(error: OSError, where: Path) -> NotPermitted:
    """Convert a file system error to one that a person understands."""
    path = error.filename or str(where)
    return NotPermitted(f"cannot use {str(path)!r}: {(error.strerror or str(error)).lower()}; {_REMEDY}")
