"""Which release answers whom. A promotion, a rollback or a canary takes effect with the next request.

Effects: reads `<home>/releases`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from alignment.ids import unit_interval
from alignment.release import BASE, read_serving, serving

_LOOK = 0.25


class Releases:
    """The registry's word on what is served, looked at four times a second at most."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._seen: dict[str, Any] = {"champion": BASE, "canary": None, "share": 0.0}
        self._looked = float("-inf")

    def pick(self, who: str) -> str:
        """Return the release that answers `who`: the canary for its share of people, and always the same for the same person."""
        now = self.now()
        canary = now["canary"]
        return str(canary if canary and unit_interval("canary", canary, who) < now["share"] else now["champion"])

    def now(self) -> dict[str, Any]:
        """Return champion, canary and share."""
        if time.monotonic() - self._looked >= _LOOK:
            found = read_serving(self._home)
            self._seen = found if found and found.keys() >= self._seen.keys() else serving(self._home)
            self._looked = time.monotonic()
        return self._seen
