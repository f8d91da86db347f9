"""Who the visitor is and what they may do. Nothing here comes from a field that somebody fills in.

The visitor's session was established by the guard in front of every path (`dashboard.guard`); without one, as when the page is started
by another command than `align dashboard`, nobody is signed in and nothing is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from alignment.acting import Identity, Role, account, acting
from alignment.config import Settings, load_settings
from alignment.errors import NotAllowed
from dashboard import components, sessions

RANKS: tuple[Role, ...] = ("viewer", "reviewer", "approver")


def role_of(settings: Settings, name: str, *, by_token: bool) -> Role | None:
    """Return what `name` may do, None for nothing. Who has a link that this account gave out may at least look.

    Where no approver is named, the account that owns the state folder is the one, if it signs in with its own link.
    """
    lists = {"approver": settings.dashboard.approvers, "reviewer": settings.dashboard.reviewers, "viewer": settings.dashboard.viewers}
    for role in reversed(RANKS):
        if any(_fits(name, entry) for entry in lists[role]):
            return role
    if not by_token:
        return None
    return "approver" if name == account() and not settings.dashboard.approvers else "viewer"


def _fits(name: str, entry: str) -> bool:
    """Say whether an entry means `name`: the name, or `*@example.com` for all addresses of that domain.

    Capitals do not count within ASCII. Beyond it they would make one of two people (`ß` and `ss`, the sign of Kelvin and `k`), so that
    such a name is compared as it is, and such an address is nobody's.
    """
    if not name.isascii():
        return "@" not in name and name == entry
    wanted, has = entry.lower() if entry.isascii() else entry, name.lower()
    return has == wanted or (wanted.startswith("*@") and has.count("@") == 1 and has.endswith(wanted[1:]))


def current() -> Identity | None:
    """Return who is signed in on this page; None for nobody, or for one whose name is on no list by now."""
    cookie = st.context.cookies.get(sessions.cookie_name(int(st.get_option("server.port"))))
    held = sessions.find(cookie if isinstance(cookie, str) else None)
    if held is None:
        return None
    role = role_of(load_settings(), held.name, by_token=held.how == "token")
    return Identity(held.name, held.how, role) if role else None


def actor() -> str:
    """Return the name of the visitor.

    Raises:
        NotAllowed: nobody is signed in.
    """
    who = current()
    if who is None:
        raise NotAllowed("nobody is signed in here, or the session has ended; run 'align dashboard --link' and open what it prints")
    return who.name


def may(role: Role) -> bool:
    """Say whether the visitor may do what `role` may: an approver may all that a reviewer may."""
    who = current()
    return who is not None and RANKS.index(who.role) >= RANKS.index(role)


def draw() -> None:
    """Draw who acts, as they signed in."""
    with st.container(gap=None):
        st.caption("You act as" if may("reviewer") else "You may look, and decide nothing, as")
        components.show_text(actor())


@contextmanager
def acting_as(role: Role) -> Iterator[Identity]:
    """Let the block act for the visitor, who must be `role` or more; each function that writes passes here.

    Raises:
        NotAllowed: nobody is signed in, or the visitor may only do less.
    """
    name = actor()
    who = current()
    if who is None or not may(role):
        raise NotAllowed(
            f"{name!r} is signed in as {who.role if who else 'nobody'}, and this is for a {role}; "
            f"a name is made one by [dashboard] {role}s in align.toml"
        )
    with acting(who):
        yield who
