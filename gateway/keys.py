"""Clients' keys: only their hashes are kept, each with a name and a limit of requests per minute.

Effects: reads and writes `<home>/gateway/keys.json`.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from alignment.errors import ConfigError, InputError
from alignment.release.disk import write_durably


class Key(NamedTuple):
    """A client: its name, the SHA-256 of its key, and its requests per minute (0: no limit)."""

    name: str
    sha256: str
    per_minute: int = 0


class Keys:
    """The keys in force; a change of the file takes effect at once."""

    def __init__(self, home: Path) -> None:
        self._path = home / "gateway" / "keys.json"
        self._seen: tuple[int, int] | None = None
        self._keys: tuple[Key, ...] = ()

    @property
    def known(self) -> tuple[Key, ...]:
        """All keys.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, ()
            return ()
        mark = (status.st_mtime_ns, status.st_ino)
        if mark != self._seen:
            try:
                rows = json.loads(self._path.read_text(encoding="utf-8"))
                self._keys = tuple(Key(str(row["name"]), str(row["sha256"]), int(row["per_minute"])) for row in rows)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{str(self._path)!r} is damaged ({error}); remove it and add the keys again") from error
            self._seen = mark
        return self._keys

    def find(self, presented: str) -> Key | None:
        """Return the client that a key belongs to."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()
        found = [key for key in self.known if hmac.compare_digest(key.sha256, digest)]
        return found[0] if found else None

    def add(self, name: str, *, per_minute: int = 0) -> str:
        """Make a key and return it; it cannot be shown again.

        Raises:
            InputError: the name is taken.
        """
        made = f"align-{secrets.token_urlsafe(32)}"
        with self._changing():
            if any(key.name == name for key in self.known):
                raise InputError(f"there is a key for {name!r} already; remove it first, or choose another name")
            self._save((*self.known, Key(name, hashlib.sha256(made.encode()).hexdigest(), per_minute)))
        return made

    def remove(self, name: str) -> None:
        """Remove a key.

        Raises:
            InputError: there is none of this name.
        """
        with self._changing():
            kept = tuple(key for key in self.known if key.name != name)
            if len(kept) == len(self.known):
                raise InputError(f"no key for {name!r}; known: {', '.join(key.name for key in self.known) or 'none'}")
            self._save(kept)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._path.with_name(".keys.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _save(self, keys: tuple[Key, ...]) -> None:
        write_durably(self._path, json.dumps([key._asdict() for key in keys], indent=1))
