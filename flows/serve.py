"""Nights on a schedule: a Prefect server unless one is configured, and one process that serves every deployment.

Effects: starts processes, listens on loopback.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from alignment.config import Settings
from alignment.errors import EndpointError
from flows.show import say

_READY_SECONDS = 90


@contextmanager
def server(settings: Settings) -> Iterator[str]:
    """Yield the API address: `PREFECT_API_URL` if it is set, else that of a server started here and stopped at the end.

    Raises:
        EndpointError: the server did not become ready, or the port is another's.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        yield configured
        return
    port = settings.serve.prefect_port
    url = f"http://127.0.0.1:{port}/api"
    log = settings.home / "prefect-server.log"
    settings.home.mkdir(parents=True, exist_ok=True)
    _refuse_a_stranger(port)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PREFECT_UI_API_URL": url},
        )
        try:
            _wait(process, url, log)
            os.environ["PREFECT_API_URL"] = url
            yield url
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            process.terminate()
            process.wait(timeout=20)


def _refuse_a_stranger(port: int) -> None:
    """Another folder's server would answer our question whether ours is ready, take our deployments and run nights in that folder."""
    with socket.socket() as client:
        client.settimeout(2)
        if client.connect_ex(("127.0.0.1", port)) == 0:
            raise EndpointError(
                f"something answers already on port {port} (the server of an 'align serve' that was killed?); stop it, set [serve] "
                f"prefect_port to a free port, or, if it is the Prefect server to use, set PREFECT_API_URL=http://127.0.0.1:{port}/api"
            )


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urlopen(f"{url}/health", timeout=2) as reply:  # noqa: S310 - loopback, http
                if reply.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.3)
    raise EndpointError(
        f"the Prefect server at {url!r} did not become ready; see {str(log)!r}, or name a running server in PREFECT_API_URL"
    )


def _stop(*_: object) -> None:
    raise SystemExit(0)


def serve(settings: Settings) -> None:
    """Serve `nightly` on its cron and each stage for runs by hand, until stopped."""
    # Without a handler SIGTERM would end this process at once and leave the server behind.
    signal.signal(signal.SIGTERM, _stop)
    # Imported here, because Prefect reads PREFECT_API_URL when a flow is made ready to serve.
    with server(settings) as url:
        from prefect import serve as serve_deployments
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

        from flows.approve import approve
        from flows.curate import curate
        from flows.ingest import ingest
        from flows.monitor import monitor
        from flows.nightly import nightly
        from flows.release import release
        from flows.train import train

        # A night that is due while one runs waits for it, and then finds what is new.
        one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
        stages: list[Any] = [each.to_deployment(each.name, concurrency_limit=one) for each in (ingest, curate, train, release, monitor)]
        # Approvals wait each for itself, and hold nothing up.
        stages.append(approve.to_deployment("approve"))
        night: Any = nightly.to_deployment("nightly", cron=settings.serve.cron, concurrency_limit=one)
        say(f"Prefect at {url.removesuffix('/api')}; the night runs at {settings.serve.cron!r} (UTC); stop with Ctrl-C")
        serve_deployments(night, *stages, pause_on_shutdown=False)
