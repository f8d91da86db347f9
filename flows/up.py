"""Everything in one terminal: schedule with its Prefect server, dashboard and gateway, as child processes with one log.

The policy is simple: one that ends, ends all; whoever started this (systemd, a container) may start it again.

Effects: starts processes; prints their lines, each behind its name.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, NamedTuple

from alignment.config import Settings
from alignment.errors import AlignError, EndpointError
from alignment.text import cap, printable
from flows.show import say
from flows.stopping import MOST_SECONDS

_LONGEST, _LOOK_SECONDS = 2000, 0.25
_END_SECONDS = MOST_SECONDS + 20
"""For a training process to save its checkpoint, and for the rest to end after it."""
_ORPHAN_SECONDS, _SUBREAPER = 20.0, 36
"""For a part's own processes, such as the Prefect server, to notice that the part has ended; the number of a Linux prctl."""


class Port(NamedTuple):
    """Where a part listens."""

    part: str
    setting: str
    host: str
    number: int

    @property
    def answers(self) -> bool:
        """Whether something accepts connections there."""
        with socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET) as client:
            client.settimeout(1)
            return client.connect_ex((self.host, self.number)) == 0


def ports(settings: Settings) -> list[Port]:
    """Return the ports that the parts take; a Prefect server that PREFECT_API_URL names is not ours.

    Raises:
        AlignError: two parts have the same one.
    """

    def local(address: str) -> str:
        return "127.0.0.1" if address in ("", "0.0.0.0") else "::1" if address == "::" else address  # noqa: S104 - compared, not bound

    found = [] if os.environ.get("PREFECT_API_URL") else [Port("serve", "[serve] prefect_port", "127.0.0.1", settings.serve.prefect_port)]
    found += [
        Port("dashboard", "[serve] dashboard_port", local(settings.dashboard.address), settings.serve.dashboard_port),
        Port("gateway", "[gateway] port", local(settings.gateway.address), settings.gateway.port),
    ]
    for number, one in enumerate(found):
        if twin := next((other for other in found[:number] if other.number == one.number), None):
            raise AlignError(f"{twin.setting} and {one.setting} are both {one.number}; give each its own")
    return found


class _Part:
    """A running `align NAME` in a process group of its own: Ctrl-C reaches only us, and we tell all its processes."""

    def __init__(self, name: str, environment: Mapping[str, str], lines: queue.Queue[str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout, lines), name=f"log of {name}", daemon=True)
        self._reader.start()

    def _read(self, output: IO[bytes], lines: queue.Queue[str]) -> None:
        while line := output.readline(_LONGEST):
            lines.put(f"{self.name:<9} | {cap(printable(line.decode('utf-8', 'replace').rstrip()), _LONGEST)}")

    def tell(self, number: int) -> None:
        """Send a signal to all processes of the part."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Read what it said last."""
        self._reader.join(timeout=2)


def up(settings: Settings) -> int:
    """Run all parts until SIGTERM, Ctrl-C, or the end of one of them; return the exit status.

    Raises:
        AlignError: two parts have the same port.
        EndpointError: a port is taken.
    """
    wanted = ports(settings)
    if taken := next((port for port in wanted if port.answers), None):
        raise EndpointError(
            f"something answers already on port {taken.number}, which {taken.part} needs; stop it, or set {taken.setting} to a free port"
        )
    with suppress(OSError, AttributeError):
        # What a part leaves behind becomes our child, so that we can wait for its end.
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: asked.append(got))
    lines: queue.Queue[str] = queue.Queue()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    parts: list[_Part] = []
    try:
        for name in ("serve", "dashboard", "gateway"):
            parts.append(_Part(name, environment, lines))
        ended = _watch(parts, wanted, lines, asked)
    finally:
        _stop(parts, lines, asked)
    if ended is not None:
        say(f"{ended.name} ended with status {ended.process.returncode}, so the rest was stopped; its last lines say why")
        return 1
    say("all parts have ended")
    return 128 + signal.SIGINT if asked[0] == signal.SIGINT else 0


def _watch(parts: list[_Part], wanted: list[Port], lines: queue.Queue[str], asked: list[int]) -> _Part | None:
    """Print what the parts say until a signal comes or one ends; return the one that did."""
    waiting = list(wanted)
    while not asked:
        _print(lines, seconds=_LOOK_SECONDS)
        if ended := next((part for part in parts if part.process.poll() is not None), None):
            return ended
        if waiting:
            waiting = [port for port in waiting if not port.answers]
            if not waiting:
                say("all answer: " + ", ".join(f"{port.part} on port {port.number}" for port in wanted) + "; stop with Ctrl-C")
    return None


def _stop(parts: list[_Part], lines: queue.Queue[str], asked: list[int]) -> None:
    """Tell all parts to end, and print what they say meanwhile; a second signal, or time, kills what is left."""
    heard = len(asked)
    for part in parts:
        part.tell(signal.SIGTERM)
    deadline = time.monotonic() + _END_SECONDS
    while any(part.process.poll() is None for part in parts) and time.monotonic() < deadline and len(asked) <= max(heard, 1):
        _print(lines, seconds=_LOOK_SECONDS)
    for part in parts:
        # Also after its first process has ended: others of its group may be left.
        part.tell(signal.SIGKILL)
        part.process.wait()
        part.close()
    _print(lines, seconds=0)
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while _children_left():
        if time.monotonic() > deadline:
            say("warning: a process of a part has not ended yet; see 'ps'")
            break
        time.sleep(0.1)


def _children_left() -> bool:
    """Return whether a process that became our child is still running."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _print(lines: queue.Queue[str], *, seconds: float) -> None:
    """Print what has been said, waiting for the first line for so many seconds."""
    # Whoever read our output may be gone; the parts must still be ended.
    with suppress(queue.Empty, BrokenPipeError):
        text = lines.get(timeout=seconds) if seconds else lines.get_nowait()
        while True:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            text = lines.get_nowait()
