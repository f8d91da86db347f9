"""The total cost of a run over all its processes: a killed and resumed run reports all of its work.

Effects: reads and writes `spent.json` in the run's folder.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path


class Spent:
    """Seconds and computed reference log-probs. A kill loses what was spent since the last `keep`."""

    def __init__(self, folder: Path) -> None:
        self.path, self._since = folder / "spent.json", time.perf_counter()
        self.seconds, self.reference_computed = 0.0, 0
        with suppress(OSError, ValueError, KeyError):  # no file yet, or cut by a full disk
            before = json.loads(self.path.read_text(encoding="utf-8"))
            self.seconds, self.reference_computed = before["seconds"], before["reference_computed"]

    def keep(self, *, computed: int = 0) -> None:
        """Add the time since the last call, and the log-probs that the cache now holds."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        self.reference_computed += computed
        self.path.write_text(json.dumps({"seconds": self.seconds, "reference_computed": self.reference_computed}), encoding="utf-8")
