"""Who the visitor is and what they may do. Nothing here is taken from a field that a visitor fills in.

The guard in front of every path (`dashboard.guard`) established the visitor's session. Without a session, for example if the page was
started by a command other than `align dashboard`, nobody is signed in and nothing is shown.
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
    """Return the role of `name`, None for no access. The holder of a link that this account gave out may at least look.

    If no approver is named, the owner of the state folder's account is the approver when signed in with its own link.
    """
    lists = {"approver": settings.dashboard.approvers, "reviewer": settings.dashboard.reviewers, "viewer": settings.dashboard.viewers}
    for role in reversed(RANKS):
        if any(_fits(name, entry) for entry in lists[role]):
            return role
    if not by_token:
        return None
    return "approver" if name == account() and not settings.dashboard.approvers else "viewer"


def _fits(name: str, entry: str) -> bool:
    """Return whether an entry matches `name`: the name, or `*@example.com` for all addresses of that domain.

    Within ASCII, case is ignored. Beyond ASCII, ignoring case would merge two people (`ß` and `ss`, the Kelvin sign and `k`), so such a
    name is compared as it is, and such an address matches nobody.
    """
    if not name.isascii():
        return "@" not in name and name == entry
    wanted, has = entry.lower() if entry.isascii() else entry, name.lower()
    return has == wanted or (wanted.startswith("*@") and has.count("@") == 1 and has.endswith(wanted[1:]))


def current() -> Identity | None:
    """Return who is signed in on this page; None for nobody, or for a visitor whose name is no longer on any list."""
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
    """Return whether the visitor has at least the rights of `role`: an approver may do all that a reviewer may."""
    who = current()
    return who is not None and RANKS.index(who.role) >= RANKS.index(role)


def draw() -> None:
    """Draw the visitor's name as signed in."""
    with st.container(gap=None):
        st.caption("You act as" if may("reviewer") else "View only, signed in as")
        components.show_text(actor())


@contextmanager
def acting_as(role: Role) -> Iterator[Identity]:
    """Run the block as the visitor, who must be `role` or more; every function that writes uses this.

    Raises:
        NotAllowed: nobody is signed in, or the visitor's role is too low.
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
