"""The `align` command. Each command imports the heavy libraries it needs."""

from __future__ import annotations

from flows.cli import (  # noqa: F401 - they register their commands
    audit,
    backup,
    bench,
    compare,
    constitution,
    data,
    doctor,
    eval,
    gate,
    gateway,
    ingest,
    init,
    notify,
    pairs,
    release,
    score,
    seeds,
    serve,
    stages,
    status,
)
from flows.cli.base import app


def main() -> None:
    """Entry point of `align`."""
    app()
