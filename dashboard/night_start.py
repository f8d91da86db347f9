"""Start a night from a page, and what is known of it before the store has its first row.

The pages import no flow: `align nightly --background` starts it in its own process, or through a running `align serve`.

Effects: starts a process; appends to the audit log; reads the night's lock file and log.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import NamedTuple

from alignment.errors import AlignError, NightRunning
from alignment.store import audit
from alignment.text import cap, printable
from dashboard import data, night_data

LOG = "nightly.log"
_SECONDS, _TAIL = 120, 4000


class Started(NamedTuple):
    """A night that a page started: `how` is a `process` of its own or a `run` of `align serve`, `id` its number there."""

    how: str
    id: str
    at: datetime


def start_night(*, actor: str, force: bool) -> Started:
    """Start a night and return once it runs, or once Prefect has its run.

    Raises:
        NightRunning: a night, or a stage by hand, is running.
        AlignError: it could not be started; the message is the command's own.
    """
    settings = data.settings()
    if night_data.working():
        raise NightRunning("a night is running, or a stage of one; the page shows how far it is")
    # Like every act, it is on record before its effect: it may yet be refused.
    audit.append(settings.home, "night_requested", "nightly", actor=actor, details={"force": force})
    at = datetime.now(UTC).replace(tzinfo=None)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "flows.cli", "nightly", "--background", "--json", *(["--force"] if force else [])],
            env={**os.environ, "ALIGN_HOME": str(settings.home)},
            # The dashboard runs in the folder of the install; relative paths in the settings start where it was started.
            cwd=os.environ.get("ALIGN_STARTED_IN"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AlignError(f"the night had not begun after {_SECONDS} s; 'align status' shows whether it has by now") from error
    except OSError as error:
        raise AlignError(f"the night was not started: {error.strerror}: {error.filename!r}") from error
    finally:
        data.forget()
    if done.returncode:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1].removeprefix("error: ")
        raise AlignError(cap(printable(said), 1000))
    try:
        told = json.loads(done.stdout)
        return Started(str(told["how"]), str(told["id"]), at)
    except (ValueError, TypeError, KeyError) as error:
        said = cap(printable(data.redacted(done.stdout)), 200)
        raise AlignError(f"the command answered {said!r} and not which night it started; 'align status' shows whether one runs") from error


def last_lines(*, since: datetime) -> str:
    """Return the end of what the night says that was started in the background, redacted; empty if that was before `since`."""
    path = data.settings().home / LOG
    try:
        with path.open("rb") as log:
            # A process takes a moment from its start to the night's lock.
            if os.fstat(log.fileno()).st_mtime < since.replace(tzinfo=UTC).timestamp() - _SECONDS:
                return ""
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
            text = log.read(_TAIL).decode("utf-8", "replace")
    except OSError:
        return ""
    return data.redacted(text).strip()
