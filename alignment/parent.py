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
    """Say whether the process `started_by`, which started this one, or `parent`, which started its launcher, is no more."""
    if os.getppid() != started_by:  # a dead one that nobody has waited for could still be sent signals
        return True
    if started_by == parent:
        return False
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's process has its number by now
        return True
    return False


def end_with(parent: int) -> None:
    """Send this process SIGTERM once `parent` is gone: at once where nothing handles it, and else as its handler says.

    Looked at twice a second rather than asked of the kernel (`PR_SET_PDEATHSIG`), which knows the thread that started a process, not
    the process, and is Linux's alone.
    """
    started_by = os.getppid()

    def look() -> None:
        while not gone(parent, started_by):
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="parent watch", daemon=True).start()
