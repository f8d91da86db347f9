"""Tell the hooks what a button changed, without waiting for them: run `align release push` in its own process.

The pages import no flow, and neither a slow server nor merging a model runs in their process. Failures are stored with the other hook
runs, and are due until they succeed.

Effects: starts a process; writes its output to `hooks.log` in the state folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from alignment.config import Settings
from alignment.release.hooks import configured


def tell_hooks(settings: Settings) -> bool:
    """Start `align release push` if a hook is configured, or a Prefect run may wait for this; return whether it was started."""
    if not (configured(settings) or settings.gate.approval == "required"):
        return False
    threading.Thread(target=_push, args=(settings,), name="align release push").start()
    return True


def _push(settings: Settings) -> None:
    with (settings.home / "hooks.log").open("ab") as log:
        subprocess.run(
            [sys.executable, "-P", "-m", "flows.cli", "release", "push"],
            cwd=os.environ.get("ALIGN_STARTED_IN"),
            env={**os.environ, "ALIGN_HOME": str(settings.home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
