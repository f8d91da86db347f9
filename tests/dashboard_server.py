"""The dashboard behind its guard, as `align dashboard` starts it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from alignment.acting import account
from alignment.store.sign_in import issue_token
from tests.conftest import child_environment


class Served:
    """A server that runs: its port, its state folder, and where it writes what it says."""

    def __init__(self, port: int, home: Path, said: Path) -> None:
        self.port, self.home, self.said = port, home, said
        self.address = f"http://127.0.0.1:{port}"

    def link(self, name: str = "", *, path: str = "/") -> str:
        """Return an address that signs in once."""
        token = issue_token(self.home, name or account(), now=datetime.now(UTC).replace(tzinfo=None))
        return f"{self.address}{path}?token={token}"


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError as refused:
        refused.close()
    except OSError:
        return False
    return True


@contextmanager
def served(home: Path, **environment: str) -> Iterator[Served]:
    """Serve the dashboard of a state folder on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = home.parent / f"said-{port}"
    with said.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "dashboard", "--port", str(port)],
            env=child_environment(ALIGN_HOME=str(home), **environment),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 90
        while not _answers(f"http://127.0.0.1:{port}/"):
            assert server.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        yield Served(port, home, said)
    finally:
        server.terminate()
        server.wait(30)
        assert not _answers(f"http://127.0.0.1:{port}/"), "a server outlived the command that started it"
