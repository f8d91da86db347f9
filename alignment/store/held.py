"""Exchanges that wait for a person: what was asked, why it is held, what was decided, what was delivered.

Each is a file, its decision a second one, and its delivery a third, each made whole and once: the first decision counts, whoever decides
at the same time. The texts are redacted. A gateway thus never waits for a night that holds the store.

Effects: reads and writes `<home>/gateway/held`; appends to the audit log.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from alignment.errors import InputError
from alignment.store import audit

Verdict = Literal["allow", "refuse"]
_NAME = re.compile(r"[0-9a-f]{32}\Z")
_VERDICT, _DELIVERED = ".verdict.json", ".delivered.json"


class Item(NamedTuple):
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
        """The model's answers."""
        return "\n".join(choice["text"] for choice in self.answer.get("choices", ()))


class Held:
    """The held exchanges of a state folder; threads and processes may share it."""

    def __init__(self, home: Path) -> None:
        self._home, self._folder = home, home / "gateway" / "held"

    def put(self, item: Item) -> None:
        """Hold an exchange.

        Raises:
            OSError: it could not be kept.
        """
        self._write(f"{item.id}.json", {name: getattr(item, name) for name in Item._fields[:8]})

    def get(self, name: str) -> Item | None:
        """Return an exchange, None if there is none of this id."""
        if not _NAME.match(name) or (found := self._read(f"{name}.json")) is None:
            return None
        return Item(**found, **(self._read(name + _VERDICT) or {}), delivered=self._read(name + _DELIVERED))

    def waiting(self) -> list[Item]:
        """Return what nobody has decided yet, oldest first."""
        names = {path.name for path in self._folder.glob("*.json")}
        open_ = [name.removesuffix(".json") for name in names if _NAME.match(name.removesuffix(".json"))]
        found = [self.get(name) for name in open_ if name + _VERDICT not in names]
        return sorted((item for item in found if item), key=lambda item: (item.created_at, item.id))

    def decide(self, name: str, verdict: Verdict, *, actor: str, why: str = "") -> Item:
        """Store a person's decision; the first one counts.

        Raises:
            InputError: there is no such exchange, nobody decides, or somebody has decided.
        """
        if not actor.strip():
            raise InputError("a decision needs to know who decides; sign in, or give --actor NAME")
        if self.get(name) is None:
            raise InputError(f"nothing is held under {name[:64]!r}; 'align gateway held' lists what waits")
        made = self._write(name + _VERDICT, {"verdict": verdict, "actor": actor, "why": why, "decided_at": now()})
        item = self.get(name)
        if item is None or not made:
            who = f"{item.actor} decided {name!r} at {item.decided_at}: {item.verdict}" if item else f"{name!r} was erased"
            raise InputError(who)
        audit.append(self._home, "held_decided", name, actor=actor, reason=why, details={"verdict": verdict})
        # An allowed prompt has no answer yet; the gateway logs it with one.
        if item.answer or verdict == "refuse":
            self._log(item)
        return item

    def _log(self, item: Item) -> None:
        """Log a decision, whether its client ever asks for it or not: tonight's labelers read it."""
        folder = self._home / "gateway" / "logs"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        body = "".join(json.dumps(decided(item, line), ensure_ascii=False) + "\n" for line in item.lines)
        handle = os.open(folder / f"decided-{item.decided_at[:13]}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, body.encode("utf-8", "surrogatepass"))
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


def decided(item: Item, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log line with the decision; about an answer it is a thumb, as if its user had given one."""
    found = {**line, "gateway": {**line["gateway"], "held": item.verdict, "decided_by": item.actor}}
    return found | ({"signals": {"thumbs": "up" if item.verdict == "allow" else "down"}} if item.answer else {})


def now() -> str:
    """Return the time as items carry it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
