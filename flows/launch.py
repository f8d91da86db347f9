"""Start a night in the background: through the deployment of a running `align serve`, else as a process of its own.

The process outlives whoever started it. A second start is refused while a night runs, is being started, or waits in Prefect.

Effects: starts a process whose output goes to `nightly.log` in the state folder, or creates a run on the Prefect server.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import httpx2

from alignment.config import Settings
from alignment.errors import AlignError, EndpointError, NightRunning
from alignment.text import cap, printable
from flows.night import LOCK, refuse_second_night
from flows.secret import running_server

LOG = "nightly.log"
_LAUNCH, _BEGIN_SECONDS = ".launch.lock", 60.0
# How long a run that has begun may take until it holds the night's lock.
_RUN_SECONDS = 120.0


class Launched(NamedTuple):
    """A night that was started: the process's number or the Prefect run's id, and how to follow it."""

    how: Literal["process", "run"]
    id: str
    follow: str


def launch_night(settings: Settings, *, force: bool = False) -> Launched:
    """Start a night and return once it holds the night's lock, or once Prefect has its run.

    A process that has neither taken the lock nor ended after 60 s is left to go on, and returned as started.

    Raises:
        NightRunning: a night runs, is being started, or waits in Prefect.
        EndpointError: `align serve` runs, but its Prefect server refused the run.
        AlignError: the process ended at once, with its own message.
    """
    with _only_launch(settings.home):
        refuse_second_night(settings.home)
        return _by_serve(settings, force=force) or _by_process(settings.home, force=force)


@contextmanager
def _only_launch(home: Path) -> Iterator[None]:
    handle = os.open(home / _LAUNCH, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NightRunning(f"a night is being started in {str(home)!r} right now; 'align status' shows how far it is") from None
        yield
    finally:
        os.close(handle)


def _by_serve(settings: Settings, *, force: bool) -> Launched | None:
    """Create a run of the deployment that `align serve` serves; None if nobody serves it."""
    if not os.environ.get("PREFECT_API_URL") and not running_server(settings.home):
        return None
    # Takes seconds to import. Prefect's client speaks through httpx, our own requests through httpx2.
    import httpx
    from prefect.client.schemas.objects import DeploymentStatus
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    from flows.prefect_client import connected

    try:
        with connected(settings.home) as client:
            if client is None:
                return None
            deployment = client.read_deployment_by_name("nightly/nightly")
            # On a server of many, whoever deployed it may be gone; then nobody would ever run it.
            if not running_server(settings.home) and deployment.status != DeploymentStatus.READY:
                return None
            _refuse_waiting(client, deployment.id)
            run = client.create_flow_run_from_deployment(deployment.id, parameters={"force": force})
    except ObjectNotFound:
        if running_server(settings.home):
            raise EndpointError("'align serve' is starting and has not deployed the night yet; try again in some seconds") from None
        return None
    except (PrefectHTTPStatusError, OSError, httpx.TransportError, httpx2.TransportError) as error:
        raise EndpointError(
            f"Prefect did not take the night ({cap(printable(str(error)), 200)}); look at its pages, or stop 'align serve' and try again"
        ) from error
    return Launched("run", str(run.id), "Prefect's pages show it, and the dashboard's page Nights")


def _refuse_waiting(client: object, deployment: object) -> None:
    """Refuse a second run while one is due, or has begun and does not hold the lock yet: it would wait, and find nothing new."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterDeploymentId,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    now, ours = datetime.now(UTC), FlowRunFilterDeploymentId(any_=[deployment])
    due = FlowRunFilter(
        deployment_id=ours,
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=now),
    )
    # Only a young one: one whose process was killed stays RUNNING, and must not refuse nights for ever.
    begun = FlowRunFilter(
        deployment_id=ours,
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
        start_time=FlowRunFilterStartTime(after_=now - timedelta(seconds=_RUN_SECONDS)),
    )
    for run in client.read_flow_runs(flow_run_filter=due):  # type: ignore[attr-defined]
        raise NightRunning(f"a night is due in Prefect already (run {run.id}); it begins soon, or its pages say why not")
    for run in client.read_flow_runs(flow_run_filter=begun):  # type: ignore[attr-defined]
        raise NightRunning(f"a night has just begun in Prefect (run {run.id}); 'align status' shows how far it is")


def _by_process(home: Path, *, force: bool) -> Launched:
    log = home / LOG
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.cli", "nightly", *(["--force"] if force else [])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "ALIGN_HOME": str(home)},
            # Its own session: it goes on when the terminal closes, or the dashboard ends.
            start_new_session=True,
        )
    deadline = time.monotonic() + _BEGIN_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        if _holder(home) == child.pid:
            break
        time.sleep(0.05)
    if child.returncode:
        raise AlignError(f"the night did not start: {last_words(log)}")
    return Launched("process", str(child.pid), f"{str(log)!r} has what it says, and the dashboard's page Nights how far it is")


def _holder(home: Path) -> int | None:
    """Return the number of the process that holds the night's lock, None if nobody does."""
    try:
        refuse_second_night(home)
    except NightRunning:
        text = (home / LOCK).read_text(encoding="ascii", errors="replace").strip()
        return int(text) if text.isdecimal() else None
    return None


def last_words(log: Path) -> str:
    """Return the error that a command ended with, else the last line of its output."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] or lines
    return cap(printable(said[-1].removeprefix("error: ")), 1000) if said else "it said nothing"
