"""`align notify`: send one test message."""

from __future__ import annotations

import typer

from alignment.errors import ConfigError
from flows.cli.base import Json, app, command, print_rows, start


@command(app, "notify")
def notify_command(as_json: Json = False) -> None:
    """Send one test message to every receiver in [notify] urls. Exit status 1 if one does not take it."""
    settings = start()
    from flows.notifications import Notification, send

    if not settings.notify.urls:
        raise ConfigError(
            "[notify] urls names nobody; set ALIGN_NOTIFY__URLS='[\"json://HOST/PATH\"]' in the environment, or urls in align.toml"
        )
    sent = send(settings, Notification("a test", ("test",), (), "nothing to do"))
    print_rows([{"receiver": number, **one._asdict()} for number, one in enumerate(sent, 1)], as_json=as_json)
    if not all(one.ok for one in sent):
        raise typer.Exit(1)
