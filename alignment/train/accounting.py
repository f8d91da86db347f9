"""What all processes of a run have spent together: a run that was killed and went on reports its whole work.

Effects: reads and writes `spent.json` in the run's folder.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path


class Spent:
    """Seconds, and reference log-probs computed. A kill loses what was spent since it was last kept."""

    def __init__(self, folder: Path) -> None:
        self.path, self._since = folder / "spent.json", time.perf_counter()
        self.seconds, self.reference_computed = 0.0, 0
        with suppress(OSError, ValueError, KeyError):  # the first process, or cut by a full disk
            before = json.loads(self.path.read_text(encoding="utf-8"))
            self.seconds, self.reference_computed = before["seconds"], before["reference_computed"]

    def keep(self, *, computed: int = 0) -> None:
        """Add the time since the last call, and log-probs that are in the cache by now."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        self.reference_computed += computed
        self.path.write_text(json.dumps({"seconds": self.seconds, "reference_computed": self.reference_computed}), encoding="utf-8")
