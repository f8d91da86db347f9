"""Who performs an action, and how the process knows it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

_FIRST_PERSON = 1000
"""UID_MIN of login.defs(5): accounts below it belong to the system."""
How = Literal["oidc", "token", "account", "flag", "service"]
Role = Literal["viewer", "reviewer", "approver", "operator", "service"]


class Identity(NamedTuple):
    """A name, how it was established, and what it may do.

    `oidc`: signed in with an identity provider; `token`: had the dashboard's link; `account`: the operating system's
    account; `flag`: a name given with `--actor` or in Prefect, believed and not proven; `service`: a flow.
    """

    name: str
    how: How
    role: Role


_ACTING: ContextVar[Identity | None] = ContextVar("acting", default=None)


@contextmanager
def acting(who: Identity) -> Iterator[None]:
    """Attribute every action within the block, and in the functions it calls, to `who`."""
    before = _ACTING.set(who)
    try:
        yield
    finally:
        _ACTING.reset(before)


def act_as(who: Identity) -> None:
    """Attribute all further actions in this context to `who`, as a command does."""
    _ACTING.set(who)


def acting_name() -> str:
    """Return the name of the acting identity, or of the account where none is set."""
    who = _ACTING.get()
    return who.name if who is not None else account()


def identity_of(name: str) -> Identity:
    """Return the acting identity if `name` is its name; treat any other name as a service.

    >>> with acting(Identity("ada", "oidc", "approver")):
    ...     identity_of("ada").how, identity_of("nightly gate").how
    ('oidc', 'service')
    """
    who = _ACTING.get()
    return who if who is not None and who.name == name else Identity(name, "service", "service")


def is_persons_account() -> bool:
    """Return whether this account may belong to one person: it is neither root's nor made by the system for a service."""
    try:
        shell = pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        return False
    return os.getuid() >= _FIRST_PERSON and not shell.endswith(("/nologin", "/false"))


def account() -> str:
    """Return the account this process runs under as the operating system knows it; no environment variable can change it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an account without a name, as in some containers
        return f"uid {os.getuid()}"
