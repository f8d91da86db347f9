"""`python -m alignment.train run.json`: train one run in its own process."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from pathlib import Path

from alignment.errors import AlignError
from alignment.parent import end_with
from alignment.train.events import keep_stdout, say, tell
from alignment.train.job import finished, read_job


def main() -> int:
    """Train the run named on the command line; return 0 once its result exists."""
    parser = argparse.ArgumentParser(prog="python -m alignment.train", description="Train one run to its adapter or model.")
    parser.add_argument("run", type=Path, help="the run.json that 'align train' wrote")
    parser.add_argument("--parent", type=int, help="stop at a checkpoint when this process is gone")
    arguments = parser.parse_args()
    keep_stdout()
    if arguments.parent is not None:
        end_with(arguments.parent)
    try:
        job = read_job(arguments.run)
        # A killed flow may leave an orphan that is still saving its checkpoint: wait for it. Only the first process waits.
        if os.environ.get("RANK", "0") == "0":
            lock = os.open(job.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
            _wait_for(lock)
        done = finished(job.folder)
        if "WORLD_SIZE" in os.environ:
            from alignment.train.processes import as_the_first

            # Otherwise one process may see a finished run while the others train without it.
            done = as_the_first(done)
        if not done:
            from alignment.train.run import train

            train(job, parent=arguments.parent)
        if "WORLD_SIZE" in os.environ:
            from alignment.train.processes import leave

            leave()
    except AlignError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        tell(failed=type(error).__name__, words=str(error))
        return 1
    return 0


def _wait_for(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for the earlier process of this run, which saves its checkpoint")
        fcntl.flock(lock, fcntl.LOCK_EX)


if __name__ == "__main__":
    sys.exit(main())
