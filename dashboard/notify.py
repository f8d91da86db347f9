"""Telling the hooks of what a button changed, without waiting for them: `align release push` in a process of its own.

The pages import no flow, and a server that is slow or a model that is merged stays out of their process. What fails is stored with the
other runs of hooks, and is due until it succeeds.

Effects: starts a process; writes its output to `hooks.log` in the state folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from alignment.config import Settings


def tell_hooks(settings: Settings) -> bool:
    """Start `align release push` if there is anybody to tell, or a Prefect run may wait for this; say whether it was started."""
    chosen = settings.release
    if not (chosen.vllm_url or chosen.merged_weights or chosen.webhook_url or settings.gate.approval == "required"):
        return False
    threading.Thread(target=_push, args=(settings,), name="align release push").start()
    return True


def _push(settings: Settings) -> None:
    with (settings.home / "hooks.log").open("ab") as log:
        subprocess.run(
            [sys.executable, "-m", "flows.cli", "release", "push"],
            env={**os.environ, "ALIGN_HOME": str(settings.home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
