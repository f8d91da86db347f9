"""The exchange log: JSON Lines that tonight's run ingests. Personal data and secrets are masked before anything is written.

Lines are written by a thread, several at a time. `write` returns when its line is in the file, so that an exchange that was answered
survives the death of this process, and with `fsync = "each"` of the machine.

Effects: writes `<folder>/exchanges-*.jsonl`.
"""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import orjson

from alignment.ingest.redact import TooMuchWork, Work, placeholder, redact, redact_id

MOST_WAITING, _TOGETHER = 10_000, 256
_WORK = 2_000_000
_LEAST_FREE = 1 << 20
_IDS = frozenset(("user_id", "conversation_id"))


class LogLost(Exception):
    """An exchange could not be logged."""


class _Line(NamedTuple):
    record: Mapping[str, Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class ExchangeLog:
    """A folder of log files. `key` makes placeholders equal to those of the store; a file ends at `max_bytes` or with its hour."""

    def __init__(
        self, folder: Path, key: bytes, *, fsync: Literal["each", "second", "never"] = "second", max_bytes: int = 64 << 20
    ) -> None:
        self._folder, self._key, self._fsync, self._max_bytes = folder, key, fsync, max_bytes
        self._waiting: queue.Queue[_Line | None] = queue.Queue(MOST_WAITING)
        self._file: IO[bytes] | None = None
        self._hour, self._unsynced, self._synced = "", False, 0.0
        self.trouble = ""
        """Why the last write failed, or ''."""
        self._thread = threading.Thread(target=self._work, name="exchange-log", daemon=True)
        self._thread.start()

    async def write(self, record: Mapping[str, Any]) -> None:
        """Write one exchange.

        Raises:
            LogLost: it is not in the log.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        try:
            self._waiting.put_nowait(_Line(record, loop, done))
        except queue.Full:
            raise LogLost(f"{MOST_WAITING} exchanges wait to be written") from None
        # A client that leaves does not take its exchange with it.
        await asyncio.shield(done)

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._waiting.put(None)
        self._thread.join(timeout=30)

    def probe(self) -> str:
        """Return why the folder cannot be written, or ''."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as probe:
                probe.write(b"x" * 4096)
                probe.flush()
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            return f"the log folder cannot be written: {error.strerror}"
        # Enough for a probe may be too little for an exchange.
        return f"the log folder's disk has only {free:,} bytes left" if free < _LEAST_FREE else ""

    def _work(self) -> None:
        while True:
            try:
                first = self._waiting.get(timeout=1)
            except queue.Empty:
                self._sync()
                continue
            if first is None:
                break
            lines = [first]
            ends = False
            while len(lines) < _TOGETHER:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ends = True
                    break
                lines.append(more)
            self._write(lines)
            if ends:
                break
        if self._file:
            os.fsync(self._file.fileno())
            self._file.close()

    def _write(self, lines: list[_Line]) -> None:
        bodies: list[bytes] = []
        good: list[_Line] = []
        for line in lines:
            try:
                bodies.append(orjson.dumps(masked(line.record, self._key)) + b"\n")
                good.append(line)
            except Exception as error:
                # One line that cannot be written must not cost others theirs.
                line.loop.call_soon_threadsafe(_tell, line.done, LogLost(f"{type(error).__name__}: the line cannot be written"))
        failed: Exception | None = None
        try:
            self._append(b"".join(bodies))
            self.trouble = ""
        except Exception as error:
            failed = LogLost(f"{type(error).__name__}: {getattr(error, 'strerror', None) or 'the file cannot be written'}")
            self.trouble = str(failed)
        for line in good:
            line.loop.call_soon_threadsafe(_tell, line.done, failed)

    def _append(self, body: bytes) -> None:
        file = self._current()
        before = file.tell()
        try:
            left = memoryview(body)
            while left:
                left = left[file.write(left) :]
        except OSError:
            # Half a line would damage the next one.
            self._file = None
            try:
                os.ftruncate(file.fileno(), before)
            finally:
                file.close()
            raise
        self._unsynced = self._fsync != "never"
        if self._fsync == "each" or time.monotonic() - self._synced >= 1:
            self._sync()

    def _sync(self) -> None:
        if self._file and self._unsynced:
            os.fsync(self._file.fileno())
            self._unsynced, self._synced = False, time.monotonic()

    @staticmethod
    def _in_place(file: IO[bytes]) -> bool:
        try:
            return os.fstat(file.fileno()).st_ino == Path(file.name).stat().st_ino
        except OSError:
            return False

    def _current(self) -> IO[bytes]:
        hour = datetime.now(UTC).strftime("%Y%m%dT%H")
        if self._file and not self._in_place(self._file):
            # An erasure has put another file in its place: what is written to this one would be lost.
            self._file.close()
            self._file = None
        if self._file and (hour != self._hour or self._file.tell() >= self._max_bytes):
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._hour = hour
            name = f"exchanges-{hour}-{os.getpid()}-{time.time_ns()}.jsonl"
            # Unbuffered: a buffer that failed to flush would be written again when the file closes.
            self._file = (self._folder / name).open("ab", buffering=0)
        return self._file


def _tell(done: asyncio.Future[None], failed: Exception | None) -> None:
    if not done.done():
        done.set_exception(failed) if failed else done.set_result(None)


def masked(value: Any, key: bytes, name: str = "") -> Any:
    """Return a record with every text redacted; a text that costs too much to search is masked as a whole."""
    if isinstance(value, str):
        if name in _IDS:
            return redact_id(value, key)
        try:
            return redact(value, key, work=Work(_WORK))[0]
        except TooMuchWork:
            return placeholder("TEXT", value, key)
    if isinstance(value, Mapping):
        return {one: masked(held, key, one) for one, held in value.items()}
    return [masked(one, key) for one in value] if isinstance(value, list | tuple) else value
