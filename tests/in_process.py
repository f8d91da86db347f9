"""`align` inside the test's process: what a command does, without a Python, its imports and a Prefect server for each.

For tests of what a night leaves behind. Those of the command, its processes and its signals start it (`tests.test_flow.align`).

Effects: starts one Prefect server per process of tests, which ends with it; changes what a command changes, and puts it back.
"""

from __future__ import annotations

import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignment.train.job import TrainJob
from tests.remembering import remembering


def align(workplace: Path, home: str, *arguments: str, status: int = 0) -> tuple[str, str]:
    """Run a command in the folder `workplace` with the state folder `home` in it; return its output and its errors.

    Training takes place in this process, too. Fails if the command ends with another exit status.
    """
    url, secret = _prefect()
    with _put_back(), remembering(), pytest.MonkeyPatch.context() as patch:
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_LOGGING_LEVEL, temporary_settings

        from flows import cli, train

        for name in os.environ:
            if name.startswith(("ALIGN_", "PREFECT_")):
                patch.delenv(name)
        patch.setenv("ALIGN_HOME", str(workplace / home))
        # Which says that no server is to be started; Prefect reads its settings below.
        patch.setenv("PREFECT_API_URL", url)
        patch.chdir(workplace)
        patch.setattr(train, "_run", _train)
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: secret, PREFECT_LOGGING_LEVEL: "CRITICAL"}):
            done = CliRunner().invoke(cli.app, arguments)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.stderr[-4000:] + done.stdout[-2000:]
    return done.stdout, done.stderr


def _train(job: TrainJob) -> None:
    from alignment.train.run import train

    train(job)


@cache
def _prefect() -> tuple[str, str]:
    """Start the server of this process's flows; return its address and its secret."""
    from flows.secret import prefect_secret
    from flows.serve import _launch

    home = Path(tempfile.mkdtemp(prefix="prefect-"))
    with _put_back():
        # As `align` has it: the server reads its environment.
        os.environ |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        _, url = _launch(home, 0, "prefect.log", "--short")
    return url, prefect_secret(home)


@contextmanager
def _put_back() -> Iterator[None]:
    """Put back what a command sets for its own process: environment, umask, signals, and how warnings are taken."""
    environment, mask = dict(os.environ), os.umask(0o077)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.umask(mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
