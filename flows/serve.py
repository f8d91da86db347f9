"""Run nights on a schedule: a Prefect server unless one is configured, and one process that serves every deployment.

Effects: starts processes, listens on loopback.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2

from alignment import http
from alignment.config import Settings
from alignment.errors import EndpointError
from flows.secret import CLIENT, LOCK, SERVER, prefect_secret, secret_path
from flows.show import say
from flows.stopping import ends_in_time

_READY_SECONDS, _END_SECONDS = 180, 10
# The user cannot turn these off: our servers require the secret.
_LOCKED = {
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
}


@contextmanager
def server(settings: Settings) -> Iterator[str]:
    """Yield the API address: `PREFECT_API_URL` if set, else that of a server started here and stopped at the end.

    Raises:
        ConfigError: see `prefect_secret`.
        EndpointError: the server did not become ready, another process has the port, or this state folder is already served.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        yield configured
        return
    port = settings.serve.prefect_port
    settings.home.mkdir(parents=True, exist_ok=True)
    with _only_server(settings.home) as lock:
        _refuse_a_stranger(port)
        process, url = _launch(settings.home, port, "prefect-server.log")
        try:
            # Only the holder of this lock is a server to which commands may send the secret.
            os.pwrite(lock, url.encode("ascii"), 0)
            yield url
        finally:
            _forget(process)


def start_short_server(settings: Settings) -> None:
    """Start the server of one command, unless one is configured; it ends with this process, however that ends.

    Prefect would start its own in this process's group: a signal to the group ends it first, and the client then asks it for minutes.

    Raises:
        ConfigError: see `prefect_secret`.
        EndpointError: the server did not become ready.
    """
    # Prefect reads its settings on import, and would not see the address afterwards.
    if os.environ.get("PREFECT_API_URL") or "prefect" in sys.modules:
        return
    process, _ = _launch(settings.home, 0, "prefect-command.log", "--short")
    atexit.register(_forget, process)


@contextmanager
def _only_server(home: Path) -> Iterator[int]:
    lock = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            at = os.read(lock, 200).decode("ascii", "replace")
            raise EndpointError(f"{str(home)!r} is served already{f' at {at}' if at else ''}; stop that 'align serve' first") from None
        os.ftruncate(lock, 0)
        yield lock
    finally:
        os.close(lock)


def _refuse_a_stranger(port: int) -> None:
    """Refuse a port in use: another folder's server would pass our readiness check, take our deployments and run nights in that folder."""
    with socket.socket() as client:
        client.settimeout(2)
        if client.connect_ex(("127.0.0.1", port)) == 0:
            raise EndpointError(
                f"something answers already on port {port} (the server of an 'align serve' that was killed?); stop it, set [serve] "
                f"prefect_port to a free port, or, if it is the Prefect server to use, set PREFECT_API_URL=http://127.0.0.1:{port}/api"
            )


def _launch(home: Path, port: int, log_name: str, *options: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server, make this process and its children use it, import the flows meanwhile, and wait until it is ready."""
    secret, log = prefect_secret(home), home / log_name
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ALIGN_") and name != "PREFECT_API_URL"}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.prefect_server", "--port", str(port), "--parent", str(os.getpid()), *options],
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env={**clean, **_LOCKED, SERVER: secret, CLIENT: secret},
            # In its own process group it outlives a signal to this group, so that runs can report how they ended.
            start_new_session=True,
        )
    try:
        bound = process.stdout.readline().strip() if process.stdout else ""
        url = f"http://127.0.0.1:{bound or port}/api"
        if bound:
            os.environ |= {"PREFECT_API_URL": url, CLIENT: secret, "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true"}
            # Importing the flows takes about as long as the server takes to start.
            import_module("flows.nightly")
        # A server that failed to bind its port has exited, and whatever answers there is not it.
        _wait(process, url, log, seconds=_READY_SECONDS if bound else 0)
    except BaseException:
        _forget(process)
        raise
    return process, url


def _forget(process: subprocess.Popen[str]) -> None:
    for name in ("PREFECT_API_URL", CLIENT, "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"):
        os.environ.pop(name, None)
    # Not SIGTERM: it accepts SIGTERM from us only once we are gone.
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_END_SECONDS)
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def _wait(process: subprocess.Popen[str], url: str, log: Path, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(TimeoutError, httpx2.TransportError):
            if http.ask("GET", f"{url}/health", seconds=2).status == 200:
                return
        time.sleep(0.1)
    raise EndpointError(
        f"the Prefect server at {url!r} did not become ready; see {str(log)!r}, or name a running server in PREFECT_API_URL"
    )


def _stop(*_: object) -> None:
    raise SystemExit(0)


def serve(settings: Settings) -> None:
    """Serve `nightly` on its cron and each stage for runs by hand, until stopped."""
    # Without a handler, SIGTERM would end this process at once and leave the server behind.
    signal.signal(signal.SIGTERM, _stop)
    own = not os.environ.get("PREFECT_API_URL")
    # Imported here because Prefect reads PREFECT_API_URL when a flow is prepared for serving.
    with server(settings) as url:
        from flows.runner import crash_leftovers, remove_former, run_deployments, runs_left, stop_runs

        say(f"Prefect at {url.removesuffix('/api')}; the night runs at {settings.serve.cron!r} (UTC); stop with Ctrl-C")
        if own:
            say(f"its pages ask for a password: paste what {str(secret_path(settings.home))!r} holds")
            crash_leftovers()
            remove_former()
        with ends_in_time(stop_runs, busy=runs_left):
            run_deployments(_deployments(settings))


def _deployments(settings: Settings) -> list[tuple[Any, dict[str, Any]]]:
    """Return each flow to serve with the options of its deployment."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    from flows.approve import approve
    from flows.nightly import nightly
    from flows.stages import FLOWS

    # A night that comes due while another runs waits for it, and then finds what is new.
    one = {"concurrency_limit": ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)}
    stages = [(each, one) for each in FLOWS.values()]
    # Each approval waits on its own, and blocks nothing.
    return [(nightly, {**one, "cron": settings.serve.cron}), *stages, (approve, {})]
