"""Exchanges that wait for a person: what was asked, why it is held, what was decided, what was delivered.

Each is a file, its decision a second one, and its delivery a third, each made whole and once: the first decision counts, whoever decides
at the same time. The texts are redacted. A gateway thus never waits for a night that holds the store.

Effects: reads and writes `<home>/gateway/held`; appends to the audit log.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from alignment.errors import InputError
from alignment.store import audit

Verdict = Literal["allow", "refuse"]
_NAME = re.compile(r"[0-9a-f]{32}\Z")
_VERDICT, _LOGGED, _DELIVERED = ".verdict.json", ".logged.json", ".delivered.json"


class HeldExchange(NamedTuple):
    """A held exchange. `lines` are its log lines, `request` is what to go on with, `answer` the model's answers (empty: none yet).

    `client` is the name of the key that may ask for the outcome; `delivered` is the status and body that it got.
    """

    id: str
    created_at: str
    client: str
    stage: str
    reason: str
    lines: list[dict[str, Any]]
    request: dict[str, Any]
    answer: dict[str, Any]
    verdict: Verdict | None = None
    actor: str = ""
    why: str = ""
    decided_at: str = ""
    delivered: dict[str, Any] | None = None

    @property
    def conversation(self) -> list[dict[str, str]]:
        """What was asked."""
        turns = self.lines[0].get("messages", []) if self.lines else []
        return [{"role": str(turn.get("role", "")), "content": str(turn.get("content", ""))} for turn in turns]

    @property
    def said(self) -> str:
        """All that the model's answers say, calls of tools included."""
        choices = self.answer.get("choices", ())
        parts = [(choice["text"], *(f"{name} {arguments}" for _, name, arguments in choice["tools"])) for choice in choices]
        return "\n".join(text for part in parts for text in part if text)


class HeldExchanges:
    """The held exchanges of a state folder; threads and processes may share it."""

    def __init__(self, home: Path) -> None:
        self._home, self._folder = home, home / "gateway" / "held"

    def put(self, item: HeldExchange) -> None:
        """Hold an exchange.

        Raises:
            OSError: it could not be kept.
        """
        self._write(f"{item.id}.json", {name: getattr(item, name) for name in HeldExchange._fields[:8]})

    def get(self, name: str) -> HeldExchange | None:
        """Return an exchange, None if there is none of this id."""
        if not _NAME.match(name) or (found := self._read(f"{name}.json")) is None:
            return None
        return HeldExchange(**found, **(self._read(name + _VERDICT) or {}), delivered=self._read(name + _DELIVERED))

    def waiting(self) -> list[HeldExchange]:
        """Return what nobody has decided yet, oldest first."""
        names = {path.name for path in self._folder.glob("*.json")}
        open_ = [name.removesuffix(".json") for name in names if _NAME.match(name.removesuffix(".json"))]
        found = [self.get(name) for name in open_ if name + _VERDICT not in names]
        return sorted((item for item in found if item), key=lambda item: (item.created_at, item.id))

    def decide(self, name: str, verdict: Verdict, *, actor: str, why: str = "") -> HeldExchange:
        """Store a person's decision; the first one counts.

        Raises:
            InputError: there is no such exchange, nobody decides, or somebody has decided.
        """
        if not actor.strip():
            raise InputError("a decision needs to know who decides; sign in, or give --actor NAME")
        if self.get(name) is None:
            raise InputError(f"nothing is held under {name[:64]!r}; 'align gateway held' lists what waits")
        with self._deciding():
            before = self.get(name)
            if before is None or before.verdict:
                told = f"{before.actor} decided {name!r} at {before.decided_at}: {before.verdict}" if before else f"{name!r} was erased"
                raise InputError(f"{told}; the first decision counts")
            audit.append(self._home, "held_decided", name, actor=actor, reason=why, details={"verdict": verdict})
            self._write(name + _VERDICT, {"verdict": verdict, "actor": actor, "why": why, "decided_at": now()})
            item = self.get(name)
            self._log_decided()
        if item is None:
            raise InputError(f"{name!r} was erased; decide the next one")
        return item

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _log_decided(self) -> None:
        """Log every decision that is not in the log yet, such as one whose process was killed: tonight's labelers read it."""
        for path in sorted(self._folder.glob(f"*{_VERDICT}")):
            name = path.name.removesuffix(_VERDICT)
            item = None if (self._folder / (name + _LOGGED)).exists() else self.get(name)
            if item is not None:
                # An allowed prompt has no answer yet; the gateway logs it with one.
                if item.answer or item.verdict == "refuse":
                    self._log(item)
                self._write(name + _LOGGED, {"at": now()})

    def _log(self, item: HeldExchange) -> None:
        folder = self._home / "gateway" / "logs"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        body = "".join(json.dumps(decided(item, line), ensure_ascii=False) + "\n" for line in item.lines)
        handle = os.open(folder / f"decided-{item.decided_at[:13]}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            left = memoryview(body.encode("utf-8", "surrogatepass"))
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    def deliver(self, name: str, body: Mapping[str, Any]) -> bool:
        """Keep what the client gets, so that it gets the same again; return whether this was the first time."""
        return self._write(name + _DELIVERED, body)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self._folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _write(self, name: str, value: Mapping[str, Any]) -> bool:
        """Write a whole file, durably, unless it exists; return whether it was written."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, scratch = tempfile.mkstemp(prefix=".", dir=self._folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(value, file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(scratch, self._folder / name)
                return True
            return False
        finally:
            Path(scratch).unlink()


def decided(item: HeldExchange, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log line with the decision; about an answer it is a thumb, as if its user had given one."""
    found = {**line, "gateway": {**line["gateway"], "held": item.verdict, "decided_by": item.actor}}
    return found | ({"signals": {"thumbs": "up" if item.verdict == "allow" else "down"}} if item.answer else {})


def now() -> str:
    """Return the time as items carry it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
