"""A client of the Prefect server that this state folder's runs report to, for commands and pages beside it.

Effects: HTTP requests to that server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from alignment import http
from flows.secret import prefect_secret, running_server


@contextmanager
def connected(home: Path) -> Iterator[SyncPrefectClient | None]:
    """Yield a client of the configured server, else of the one that `align serve` runs; None if neither answers.

    Raises:
        OSError, httpx2.TransportError: the server went away while it was asked.
    """
    own = running_server(home)
    url = os.environ.get("PREFECT_API_URL") or own
    if not url or http.ask("GET", f"{url}/health", seconds=2).status != 200:
        yield None
        return
    told: dict[Any, Any] = {PREFECT_API_URL: url}
    if url == own:
        told[PREFECT_API_AUTH_STRING] = prefect_secret(home)
    with temporary_settings(told), get_client(sync_client=True) as client:
        yield client
