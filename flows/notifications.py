"""Tell people how a night ended, by whatever apprise can reach: one short message per night, without any text of users or models.

A message never fails a night, nor delays one beyond `[notify] timeout` and the start of the process that sends it. The addresses are
secrets: they are sent to that process, and are in no message, log or error.

Effects: starts a process that sends; prints one warning if a receiver did not take a message.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from alignment.config import Settings
from alignment.errors import AlignError, NightRunning
from alignment.sections import Event
from alignment.store import query, sql
from alignment.text import cap, printable
from flows.show import say

_PROGRAM = Path(__file__).with_name("send.py")
_NEEDED = re.compile(r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|(?:https?|all|no)_proxy", re.IGNORECASE)
"""Of the environment, what a process needs to reach a server."""
_START_SECONDS = 30.0
"""For the process to start and import apprise; a busy machine takes some seconds."""
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,29}(?=://)", re.IGNORECASE)
_MOST, _LONGEST = 20, 80
_KINDS: Mapping[str, str] = {"promoted": "success", "failed": "failure", "drift alarm": "warning", "budget spent": "warning"}
_PASSED = "pass"


class Notification(NamedTuple):
    """What happened in a night, why (names of metrics, settings and errors), and the command to run next."""

    night_id: str
    events: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    next: str = "align status"

    @property
    def title(self) -> str:
        """The message in one line."""
        return f"align: {', '.join(self.events)}"

    @property
    def body(self) -> str:
        """The whole message as plain text.

        >>> print(Notification("n1", ("blocked",), ("unsafe_answers: fail",)).body)
        night: n1
        blocked: unsafe_answers: fail
        next: align status
        """
        told = ", ".join(cap(printable(reason), _LONGEST) for reason in self.reasons[:_MOST])
        more = f" and {len(self.reasons) - _MOST} more" if len(self.reasons) > _MOST else ""
        return f"night: {self.night_id or 'none'}\n{', '.join(self.events)}{': ' * bool(told)}{told}{more}\nnext: {self.next}"


class Receipt(NamedTuple):
    """One receiver: the scheme of its address, which is no secret, and whether it took the message."""

    scheme: str
    ok: bool


def message_of(summary: Mapping[str, Any], limits: Sequence[str] = ()) -> Notification:
    """Return the message about a night that ended; without events if there is nothing to tell. `limits` are those it reached."""
    night, decision, waits = str(summary.get("night_id", "")), summary.get("decision"), summary.get("state") == "waits for approval"
    challenger = summary.get("challenger", "")
    events: list[Event] = []
    reasons: list[str] = []
    then = "align status"
    if waits:
        events.append("waits for approval")
        then = f"align gate --approve {night} --reason TEXT, or --refuse"
    elif decision == "promote" and summary.get("state") == "released":
        events.append("promoted")
    elif decision == "insufficient evidence":
        events.append("insufficient evidence")
    elif decision in ("block", "promote"):
        # What the gate would promote, and what a person had refused before.
        events.append("blocked")
    if events:
        then = then if waits else f"align release show {challenger}"
        reasons += [f"{one['name']}: {one['status']}" for one in summary.get("metrics", ()) if one["status"] != _PASSED]
    if alarms := summary.get("alarms"):
        events.append("drift alarm")
        reasons += alarms
    if limits:
        events.append("budget spent")
        reasons += limits
    return Notification(night, tuple(events), tuple(reasons), then)


def tell_end(settings: Settings, summary: Mapping[str, Any]) -> None:
    """Tell how a night ended, if anybody wants to know. Never raises."""
    if not settings.notify.urls or summary.get("nothing_new"):
        return
    limits: list[str] = []
    with suppress(AlignError, duckdb.Error):
        limits = [row["setting"] for row in query(settings.home, sql("flows", "night_limits"), {"night_id": summary["night_id"]})]
    with suppress(Exception):
        tell(settings, message_of(summary, limits))


@contextmanager
def tells_failure(settings: Settings) -> Iterator[dict[str, str]]:
    """Tell of the exception that ends the block, by its kind only; the block notes `night` and `stage` as it comes to them."""
    at: dict[str, str] = {}
    try:
        yield at
    except NightRunning:
        # A second start was refused; the night that runs has not failed.
        raise
    except Exception as error:
        known = type(error).__name__
        with suppress(Exception):
            reasons = (f"{known} in {at['stage']}" if "stage" in at else known,)
            tell(settings, Notification(at.get("night", ""), ("failed",), reasons, "align status, then align nightly to go on"))
        raise


def tell(settings: Settings, message: Notification) -> None:
    """Send the wanted events of a message; print one warning if a receiver did not take it."""
    events = tuple(event for event in message.events if event in settings.notify.events)
    if not settings.notify.urls or not events:
        return
    sent = send(settings, message._replace(events=events))
    if lost := [number for number, one in enumerate(sent, 1) if not one.ok]:
        named = ", ".join(f"{number} ({sent[number - 1].scheme})" for number in lost)
        say(
            f"warning: {', '.join(events)} was not told to receiver {named} of {len(sent)} in [notify] urls within "
            f"{settings.notify.timeout:g} s; try 'align notify'"
        )


def send(settings: Settings, message: Notification | None) -> list[Receipt]:
    """Send a message to every receiver; with None, only see whether the addresses are such. Return one row per receiver."""
    urls = [one.get_secret_value() for one in settings.notify.urls]
    kind = "info"
    if message is not None:
        kind = next((_KINDS[event] for event in message.events if event in _KINDS), "info")
    task = {
        "urls": urls,
        "title": message.title if message else "",
        "body": message.body if message else "",
        "kind": kind,
        "seconds": settings.notify.timeout,
    }
    # Neither our settings nor anybody's keys are for it.
    clean = {name: value for name, value in os.environ.items() if _NEEDED.fullmatch(name)}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_PROGRAM)],
            input=json.dumps(task).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clean,
            timeout=settings.notify.timeout + _START_SECONDS,
            check=False,
            # Ctrl-C is for the night; this ends by itself.
            start_new_session=True,
        ).stdout
    except subprocess.TimeoutExpired as late:
        done = late.stdout or b""
    took = _took(done)
    return [Receipt(_scheme(url), number in took) for number, url in enumerate(urls)]


def _took(output: bytes) -> set[int]:
    found = set()
    for line in output.splitlines():
        with suppress(ValueError, TypeError):
            number, ok = json.loads(line)
            if ok is True:
                found.add(number)
    return found


def _scheme(url: str) -> str:
    found = _SCHEME.match(url)
    return found[0].lower() if found else "no address"


def check_receivers(settings: Settings) -> str:
    """Return who is notified of what, in words.

    Raises:
        AlignError: an address is none that apprise knows.
    """
    chosen = settings.notify
    if not chosen.urls:
        return "nobody is notified; see [notify]"
    found = send(settings, None)
    if wrong := [str(number) for number, one in enumerate(found, 1) if not one.ok]:
        raise AlignError(
            f"[notify] urls: apprise does not know address {', '.join(wrong)} of {len(found)}; write it as apprise's pages show, such as "
            "slack://…, mailto://… or json://HOST/PATH"
        )
    return f"{', '.join(one.scheme for one in found)}, of {', '.join(chosen.events) or 'nothing'}; not asked, 'align notify' does"
