"""Measure the state of the registry after kills, and the time of a rollback.

Child processes promote, roll back, quarantine, and start and end canaries as fast as they can. Every second child is killed from outside
at a random instant. The others kill themselves just before or just after a random call that changes the disk (open, fsync, rename,
unlink), to hit the instants between these calls too; before an fsync, the end of the last write is cut off. After each kill the pointer
must name a verified release and, once settled, a release that is not quarantined, and `serving.json` must match.

Effects: forks processes and kills them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from alignment.ids import file_sha256
from alignment.release import (
    BASE,
    changes,
    current,
    current_canary,
    end_canary,
    history,
    list_releases,
    promote,
    quarantine,
    read_serving,
    register,
    rollback,
    serving,
    settle,
    start_canary,
    verify,
)
from alignment.release.approval import override
from alignment.release.disk import HISTORY, QUARANTINED, is_quarantined, read_rows, root

NAMES = tuple(letter * 16 for letter in "abc")
_CALLS = ("fsync", "replace", "unlink", "open")
_MOST_CALLS = 60


class Kills(NamedTuple):
    """Kills by method, what they interrupted, and the faults after them (all but `behind` must be 0).

    `behind` counts kills after which serving.json did not match yet; the next command rewrites it.
    """

    kills: int
    from_outside: int
    at_a_call: int
    steps: int
    announced_not_taken: int
    behind: int
    pointer_wrong: int
    release_wrong: int
    history_wrong: int
    serving_wrong: int


def make_registry(home: Path, *, size: int, overridden: bool = True) -> None:
    """Register three releases with adapters of `size` bytes each, with overrides that let them be served unless not `overridden`."""
    draw = random.Random(size)
    for name in NAMES:
        folder = home / f"adapter-{name}"
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(draw.randbytes(size))
        (folder / "adapter_config.json").write_text("{}")
        register(home, name, folder, card=f"# Release {name}", manifest={"created_at": name, "night_id": "n"})
        shutil.rmtree(folder)
        if overridden:
            override(home, name, actor="bench", reason="nobody decides on it", now=datetime(2026, 1, 1))  # noqa: DTZ001 - UTC without a zone


def _work(home: Path, seed: int) -> None:
    draw = random.Random(seed)
    while True:
        moment, step = datetime.now(UTC).replace(tzinfo=None), draw.random()
        sound = [name for name in NAMES if not is_quarantined(home, name)]
        if len(sound) < 2:
            for name in NAMES:  # nothing else removes a mark, and the work must go on
                (root(home) / name / QUARANTINED).unlink(missing_ok=True)
        elif step < 0.4 or current(home) == BASE:
            promote(home, draw.choice(sound), actor="bench", reason="r" * draw.randrange(400), now=moment)
        elif step < 0.5:
            quarantine(home, draw.choice(sound), actor="bench", reason="r", now=moment)
        elif step < 0.75:
            rollback(home, actor="bench", reason="r", now=moment)
        elif current_canary(home):
            end_canary(home, actor="bench", reason="r", now=moment)
        else:
            name = draw.choice([one for one in sound if one != current(home)])
            start_canary(home, name, share=0.1, actor="bench", reason="r", now=moment)


def _die_at(call: int, *, before: bool) -> None:
    """Make this process kill itself at its `call`-th change of the disk."""
    left, fsync = [call], os.fsync

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if not left[0] and before:
                if real is fsync:
                    _cut_short(arguments[0])
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **named)
            finally:  # also if the file did not exist
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        return change

    for name in _CALLS:
        setattr(os, name, wrapped(getattr(os, name)))


def _cut_short(handle: int) -> None:
    """Cut up to 16 bytes, fewer than any log line has, off the end of a file about to be synced: a torn write."""
    if stat.S_ISREG((found := os.fstat(handle)).st_mode):
        os.ftruncate(handle, max(found.st_size - random.randrange(1, 17), 0))


def _child(home: Path, seed: int, call: int | None) -> int:
    child = os.fork()
    if child:
        return child
    try:
        if call:
            _die_at(call, before=seed % 4 < 2)
        _work(home, seed)
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(1)


def kill(home: Path, kills: int, *, seed: int = 0) -> Kills:
    """Kill `kills` children at work on the registry in `home`, and check the registry after each."""
    draw = random.Random(seed)
    found = dict.fromkeys(Kills._fields, 0)
    for number in range(kills):
        call = draw.randrange(1, _MOST_CALLS) if number % 2 else None
        child = _child(home, seed * 10_000 + number, call)
        if call is None:
            time.sleep(draw.uniform(0.002, 0.06))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit("a child failed by itself")
        found["kills"] += 1
        found["at_a_call" if call else "from_outside"] += 1
        for name, wrong in _look(home).items():
            found[name] += wrong
    found["steps"] = len(changes(home))
    return Kills(**found)


def _look(home: Path) -> dict[str, bool]:
    """Return the faults of the registry just after a kill."""
    from alignment.errors import ReleaseError

    here, wrong = current(home), dict.fromkeys(("pointer_wrong", "release_wrong", "history_wrong", "serving_wrong"), False)
    try:
        wrong["pointer_wrong"] = here != BASE and not verify(home, here)
        wrong["release_wrong"] = [row["release_id"] for row in list_releases(home)] != sorted(NAMES, reverse=True)
        for name in NAMES:
            verify(home, name)
    except ReleaseError:
        wrong["release_wrong"] = True
        wrong["pointer_wrong"] = here not in (BASE, *NAMES)
    steps = history(home)
    chained = all(after["previous"] == before["release_id"] for before, after in zip(steps, steps[1:], strict=False))
    wrong["history_wrong"] = not chained or (steps[-1]["release_id"] if steps else BASE) != here
    announced = read_rows(root(home) / HISTORY)
    behind = read_serving(home) != serving(home)
    settle(home)
    wrong["pointer_wrong"] |= is_quarantined(home, current(home))
    wrong["serving_wrong"] = read_serving(home) != serving(home)
    return {**wrong, "behind": behind, "announced_not_taken": bool(announced) and announced[-1] not in steps}


class Rollback(NamedTuple):
    """Seconds of a rollback with its verification, and of the whole command; whether every file stayed the same."""

    rounds: int
    adapter_mb: float
    median_s: float
    slowest_s: float
    command_s: float
    identical: bool


def measure_rollback(home: Path, rounds: int, *, size: int) -> Rollback:
    """Roll back from a second release to a first, `rounds` times, with adapters of `size` bytes."""
    make_registry(home, size=size)
    first, second, _ = NAMES
    moment = datetime(2026, 1, 1)  # noqa: DTZ001 - the registry's times are UTC without a zone
    promote(home, first, actor="bench", reason="r", now=moment)
    before, seconds, identical = _files(home, first), [], True
    for _ in range(rounds):
        promote(home, second, actor="bench", reason="r", now=moment)
        started = time.perf_counter()
        rollback(home, actor="bench", reason="r", now=moment)
        seconds.append(time.perf_counter() - started)
        identical &= current(home) == first and _files(home, first) == before
    promote(home, second, actor="bench", reason="r", now=moment)
    command = [sys.executable, "-m", "flows.cli", "release", "rollback", "--reason", "bench", "--actor", "bench"]
    started = time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "ALIGN_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    whole = time.perf_counter() - started
    identical &= current(home) == first and _files(home, first) == before
    return Rollback(rounds, size / 1e6, statistics.median(seconds), max(seconds), whole, identical)


def _files(home: Path, name: str) -> dict[str, str]:
    folder = home / "releases" / name
    return {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
