"""`align up`, `align serve` and `align dashboard`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from alignment.acting import account
from alignment.config import Settings
from alignment.errors import AlignError, StoreError
from flows.cli.base import Misuse, app, command, start
from flows.secret import without_own_secret


@command(app, "serve")
def serve_command() -> None:
    """Run nights on a schedule, with every stage as a deployment; starts a Prefect server if none is configured."""
    settings = start(quiet=False, writes=True)
    from flows.serve import serve

    serve(settings)


@command(app, "up")
def up_command() -> None:
    """Run schedule, Prefect server, dashboard and gateway together, with one log. If one ends, all end, with status 1.

    Ports and addresses are those in [serve], [dashboard] and [gateway]. For a machine that restarts them one by one, see infra/.
    """
    settings = start(quiet=False, writes=True)
    from flows.up import up

    raise typer.Exit(up(settings))


@command(app, "dashboard")
def dashboard_command(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="instead of [serve] dashboard_port")] = None,
    link: Annotated[bool, typer.Option("--link", help="only print a one-time sign-in link to a running dashboard")] = False,
    name: Annotated[
        str | None,
        typer.Option("--for", metavar="NAME", help="with --link: whom it signs in, as named in [dashboard]; this account if not given"),
    ] = None,
) -> None:
    """Show the overview, the gate, the review queue and drift in a browser. Open the printed link to sign in.

    The link works once, within the hour. Your acts are recorded under the name of your account, which may approve and review unless
    [dashboard] in align.toml says who may. With an [auth] section (OpenID Connect) in secrets.toml people sign in with their organisation.
    """
    settings = start()
    listening = port or settings.serve.dashboard_port
    if name is not None and not link:
        raise Misuse("--for goes with --link: 'align dashboard --link --for NAME'")
    if link:
        print(_sign_in_link(settings, name, listening))
        return
    from alignment.store import migrate, store_path

    if store_path(settings.home).exists():
        # The pages report a damaged store.
        with suppress(StoreError):
            migrate(settings.home)
    found = find_spec("dashboard")
    if found is None or found.origin is None:
        raise AlignError("the dashboard is not installed; run 'pip install -c constraints.txt -e .' in the project's folder")
    environment = _dashboard_environment(settings)
    os.chdir(Path(found.origin).parent.parent)
    sys.stdout.flush()
    # In place of this process: as its child, the server would outlive a SIGTERM and keep the port.
    os.execve(sys.executable, [sys.executable, "-m", "dashboard.server", str(listening)], environment)  # noqa: S606


def _sign_in_link(settings: Settings, name: str | None, port: int) -> str:
    from alignment.store.sign_in import issue_token

    whom = account() if name is None else name.strip()
    if not whom or not whom.isprintable() or len(whom) > 100:
        raise Misuse(f"--for {name!r} is no name; give up to 100 printable characters, such as ada@example.com")
    token = issue_token(settings.home, whom, now=datetime.now(UTC).replace(tzinfo=None))
    return f"http://{settings.dashboard.hosts[0] if settings.dashboard.hosts else '127.0.0.1'}:{port}/?token={token}"


def _dashboard_environment(settings: Settings) -> dict[str, str]:
    """Return an environment that reads the same settings from another working folder, and names this one for the nights of its pages."""
    from alignment.config import config_file

    found = config_file()
    told = {"ALIGN_HOME": str(settings.home), "ALIGN_STARTED_IN": str(Path.cwd())}
    return without_own_secret(os.environ, settings.home) | told | ({"ALIGN_CONFIG": str(found.absolute())} if found else {})
