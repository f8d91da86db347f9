"""A process that does not outlive the one that started it.

Effects: `end_with` starts a thread that sends this process SIGTERM.
"""

from __future__ import annotations

import os
import signal
import threading
import time

LOOK_SECONDS = 0.5


def gone(parent: int, started_by: int) -> bool:
    """Return whether `started_by`, which started this process, or `parent`, which started that launcher, has ended."""
    if os.getppid() != started_by:  # a dead process that nobody has waited for could still be sent signals
        return True
    if started_by == parent:
        return False
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # the number now belongs to somebody else's process
        return True
    return False


def end_with(parent: int) -> None:
    """Send this process SIGTERM once `parent` has ended: its handler decides, and without a handler the process ends at once.

    A thread polls twice a second. The kernel's `PR_SET_PDEATHSIG` watches the thread that started a process rather than the process,
    and exists only on Linux.
    """
    started_by = os.getppid()

    def look() -> None:
        while not gone(parent, started_by):
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="parent watch", daemon=True).start()
