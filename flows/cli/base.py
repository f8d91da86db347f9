"""Shared by the commands of `align`: error messages, settings, tables."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from datetime import datetime
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from alignment.acting import Identity, account, act_as, is_persons_account
from alignment.config import Settings, load_settings
from alignment.errors import AlignError, InputError, NoSpace, NotPermitted
from alignment.records import STAGES
from alignment.text import printable
from flows.environment import prepare

_FIRST = (
    *("init", "nightly", "dashboard", "status", "doctor", "serve", "up"),
    *STAGES,
    *("gateway", "release", "eval", "pairs", "seeds", "constitution"),
    *("trace", "audit", "erase", "backup", "restore"),
)


class InOrder(TyperGroup):
    """Commands in the order in which people meet them: for newcomers, the stages of the loop, the extras, then everything else."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in that order."""
        return sorted(super().list_commands(ctx), key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


app = typer.Typer(
    cls=InOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # By default `[serve]` would be parsed as a style and vanish.
    rich_markup_mode="markdown",
    help="Continuous alignment: from flagged production logs to a safer release, every night.",
)

Json = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Actor = Annotated[
    str,
    typer.Option(
        "--actor",
        metavar="NAME",
        show_default="this account",
        help="who answers for it; required for root and service accounts, and without a terminal",
    ),
]
_ROOM = 64 * 2**20
_STOPPED = "stopped; run the same command again to go on from here"
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
out = Console(highlight=False)


class Misuse(InputError):
    """An impossible command line, whatever is stored: exit status 2, like an unknown option."""


def one_of(option: str, value: str | None, known: Iterable[str]) -> None:
    """Raise Misuse if a value is given that is not in `known`."""
    if value is not None and value not in (names := list(known)):
        raise Misuse(f"{option} {value!r} is not known; known are {', '.join(names)}")


def _root_cause(error: BaseException) -> AlignError | None:
    from alignment.store.session import is_disk_full

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AlignError):
            return seen
        if is_disk_full(seen):
            return NoSpace(f"the disk is full ({seen}); free some space and run the same command again")
        if isinstance(seen, OSError) and seen.errno in _DENIED:
            return NotPermitted(
                f"cannot use {str(seen.filename or 'a file')!r}: {(seen.strerror or str(seen)).lower()}; let the account that runs align "
                "read and write it (chown, chmod), or name another one"
            )
        seen = seen.__cause__ or seen.__context__
    return None


def fails_clearly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an error of this project into one message and exit status 1, or 2 if the command line is wrong."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            # A fresh context: the actor of this command acts in no other.
            return copy_context().run(command, *args, **kwargs)
        except KeyboardInterrupt:
            print(_STOPPED, file=sys.stderr)
            raise typer.Exit(130) from None
        except Exception as error:
            known = _root_cause(error)
            if known is None:
                raise
            print(f"error: {known}", file=sys.stderr)
            raise typer.Exit(2 if isinstance(known, Misuse) else 1) from None

    return wrapped


def command(group: typer.Typer, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command that reports errors as messages."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        group.command(name)(fails_clearly(function))
        return function

    return register


def start(*, quiet: bool = True, writes: bool = False, runs_flows: bool = False) -> Settings:
    """Return the settings, ready to run; with `writes`, refuse a disk on which Prefect's own store would hang instead of failing.

    With `runs_flows`, also do as `start_flows`.
    """
    act_as(Identity(account(), "account", "operator"))
    settings = load_settings()
    prepare(settings.home, quiet=quiet)
    if writes and (free := shutil.disk_usage(settings.home).free) < _ROOM:
        raise NoSpace(
            f"only {free >> 20} MiB are free for {str(settings.home)!r}, {_ROOM >> 20} are needed to start; free some space and run the "
            "same command again"
        )
    if runs_flows:
        start_flows(settings)
    return settings


def start_flows(settings: Settings) -> None:
    """Start a Prefect server for this command if none is configured, and let SIGTERM end the command as Ctrl-C does."""
    from flows.serve import start_short_server

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    start_short_server(settings)


def _terminated(*_: object) -> None:
    print(_STOPPED, file=sys.stderr)
    raise SystemExit(128 + signal.SIGTERM)


def answering(actor: str, *, needed: bool = True) -> str:
    """Return who answers for a manual act, the named person or else the account, and make them its actor.

    Raises:
        Misuse: nobody was named, it is `needed`, and the account does not identify a person.
    """
    named = actor.strip()
    if len(named) > 200 or not named.isprintable():
        raise Misuse(f"--actor {named[:50]!r} is no name; give up to 200 printable characters")
    if not named and needed and not (is_persons_account() and sys.stdin.isatty()):
        why = "nobody sits at a terminal" if is_persons_account() else "it is no person's"
        raise Misuse(f"who answers for this? The account {account()!r} does not say ({why}); give --actor NAME")
    act_as(Identity(named, "flag", "operator") if named else Identity(account(), "account", "operator"))
    return named or account()


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str, ensure_ascii=False))


_WORD = 16
"""Words longer than this many characters may be broken."""


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    if not rows:
        print("nothing to show")
        return
    texts = [{name.replace("_", " "): printable(shown(value)).replace("[", r"\[") for name, value in row.items()} for row in rows]
    needed = [max(len(word) for text in (name, *(row[name] for row in texts)) for word in text.split() or [""]) for name in texts[0]]
    # A truncated id cannot be copied, and a broken word cannot be read. Long texts still wrap.
    if sum(min(width, _WORD) + 3 for width in needed) < out.width:
        table = Table()
        for name in rows[0]:
            table.add_column(name.replace("_", " "), no_wrap=name.endswith("_id"), overflow="fold")
        for row in texts:
            table.add_row(*row.values())
        out.print(table)
    else:
        _print_turned(texts)


def _print_turned(texts: list[dict[str, str]]) -> None:
    """Print a table that is too wide with columns as rows, with as many rows side by side as fit."""
    names = max(map(len, texts[0]))
    values = max(len(text) for row in texts for text in row.values())
    side_by_side = max(1, (out.width - names - 4) // (values + 3))
    for start in range(0, len(texts), side_by_side):
        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        part = texts[start : start + side_by_side]
        for _ in part:
            table.add_column(overflow="fold")
        for name in texts[0]:
            table.add_row(name, *(row[name] for row in part))
        out.print(table)


def shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return f"{value:.3f}" if isinstance(value, float) else str(value)
