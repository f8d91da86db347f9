"""The dashboard's server: `python -m dashboard.server PORT`, which `align dashboard` runs.

Effects: listens; prints a sign-in link if a person is at the terminal.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware
from streamlit import config

from alignment.acting import Identity, account, acting
from alignment.config import Settings, load_settings
from alignment.errors import AlignError
from alignment.store.sign_in import issue_token
from dashboard import oidc
from dashboard.guard import Guard

HERE = Path(__file__).resolve().parent
_ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Return the host names that browsers may use."""
    address = settings.dashboard.address
    own = () if address in _ANYWHERE else (f"[{address}]" if ":" in address else address,)
    return frozenset(name.lower() for name in ("127.0.0.1", "localhost", "[::1]", *own, *settings.dashboard.hosts))


def options(settings: Settings, port: int) -> dict[str, Any]:
    """Return Streamlit's own settings; its Host and Origin checks are a second lock behind the guard."""
    return {
        "server.port": port,
        "server.address": settings.dashboard.address or "127.0.0.1",
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.allowedHosts": sorted(allowed_hosts(settings)),
        "server.enableAgentApi": False,
        # Skip the home folder's file, which may be another app's.
        "secrets.files": [str(settings.home / "secrets.toml")],
        "logger.hideWelcomeMessage": True,
        "browser.gatherUsageStats": False,
        "global.developmentMode": False,
    }


def build(settings: Settings, port: int) -> st.App:
    """Return the app with the guard in front of everything that Streamlit serves."""
    for name, value in options(settings, port).items():
        config.set_option(name, value)
    sign_in = oidc.configured()
    guard = Middleware(Guard, home=settings.home, hosts=allowed_hosts(settings), port=lambda: port, oidc=sign_in)

    @asynccontextmanager
    async def said(_app: st.App) -> AsyncIterator[dict[str, Any]]:
        print(welcome(settings, port, sign_in), flush=True)
        yield {}

    return st.App(HERE / "app.py", middleware=[guard], lifespan=said)


def welcome(settings: Settings, port: int, sign_in: oidc.SignIn | None) -> str:
    """Return the address to open. A token is printed for a person only, never into a log."""
    address = f"http://127.0.0.1:{port}/"
    if sign_in is not None:
        return f"The dashboard runs at {address}; sign in there with your organisation's account. Ctrl-C stops it."
    if not sys.stdout.isatty():
        return f"The dashboard runs at {address}; 'align dashboard --link' prints a link to sign in with."
    try:
        with acting(Identity(account(), "account", "operator")):
            token = issue_token(settings.home, account(), now=datetime.now(UTC).replace(tzinfo=None))
    except AlignError as error:
        return f"The dashboard runs at {address}, but no link to sign in with could be made: {error}"
    return (
        f"\nOpen this link (it works once, within the hour, and signs you in as {account()}):\n\n    {address}?token={token}\n\n"
        "For another browser, or for somebody else: align dashboard --link [--for NAME]. Ctrl-C stops the dashboard."
    )


def _refuse_a_taken_port(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise AlignError(
                f"the dashboard cannot listen on {address}:{port} ({error.strerror}): if it runs already, "
                "'align dashboard --link' prints a link to it; else choose another port with --port"
            ) from error


def main(port: int) -> None:
    """Serve until stopped."""
    settings = load_settings()
    _refuse_a_taken_port(settings.dashboard.address or "127.0.0.1", port)
    build(settings, port).run(config=options(settings, port))


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except AlignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
