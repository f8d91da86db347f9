"""Puts a gateway together from the settings, and serves it.

Effects: listens on one or two ports, reads the registry, writes logs, loads models.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import uvicorn
from prometheus_client import start_http_server

from alignment.config import Settings
from alignment.errors import ConfigError, EndpointError
from alignment.ingest import gateway_logs
from alignment.ingest.redact import redaction_key
from alignment.labels.check import load_constitution
from alignment.store.held import HeldExchanges
from gateway.app import App
from gateway.checks import Checks
from gateway.detectors import Detectors
from gateway.embedded import EmbeddedUpstream
from gateway.guard import Guard
from gateway.holding import Holding
from gateway.keys import Keys
from gateway.logs import ExchangeLog
from gateway.metrics import Metrics
from gateway.patience import PatientProtocol
from gateway.policy import Policy, load_policy
from gateway.releases import Releases
from gateway.service import Pipeline
from gateway.tracing import exporting
from gateway.upstream import HttpUpstream, Upstream

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Ended(BaseException):
    """SIGTERM arrived, and open requests were answered."""


def _end(*_: object) -> NoReturn:
    raise _Ended


def policy_of(settings: Settings) -> Policy:
    """Return the policy in force.

    Raises:
        ConfigError: see `load_policy`.
    """
    return load_policy(Path(settings.gateway.policy).expanduser() if settings.gateway.policy else None)


def guard_of(settings: Settings, metrics: Metrics) -> tuple[Guard, Detectors]:
    """Return the policy with its checks."""
    detectors = Detectors()
    constitution = load_constitution(settings.labels.constitution)
    return Guard(policy_of(settings), Checks(detectors), constitution, metrics, key=redaction_key(settings.home)), detectors


def build(settings: Settings, *, base: Callable[[], Path]) -> tuple[App, Metrics, ExchangeLog, Detectors]:
    """Return the application and what has to be closed after it. `base` returns the base model's folder, where it is needed.

    Raises:
        ConfigError: the policy or a setting is wrong, or a key is missing.
    """
    wanted = settings.gateway
    metrics = Metrics()
    guard, detectors = guard_of(settings, metrics)
    log = ExchangeLog(gateway_logs(settings.home), guard.key, fsync=wanted.log_fsync)
    upstream = _upstream(settings, base)
    held = HeldExchanges(settings.home)
    gateway = Pipeline(
        guard=guard,
        upstream=upstream,
        releases=Releases(settings.home),
        log=log,
        holding=Holding(held, guard.key),
        metrics=metrics,
        base_name=settings.release.base_name,
        keep_going=wanted.log_failure == "go_on",
    )
    metrics.held.set_function(lambda: len(held.waiting()))
    checks = {rule.check for rule in guard.policy.rules if rule.mode != "off"}
    app = App(
        gateway,
        Keys(settings.home),
        metrics,
        most_bytes=wanted.max_body_bytes,
        most_open=wanted.max_open,
        locked=wanted.address not in _LOOPBACK,
        warm=lambda: detectors.warm(checks),
    )
    return app, metrics, log, detectors


def _upstream(settings: Settings, base: Callable[[], Path]) -> Upstream:
    wanted = settings.gateway
    if not wanted.upstream:
        return EmbeddedUpstream(settings.home, base(), seconds=wanted.timeout)
    name = wanted.upstream_key_env
    if name and not os.environ.get(name):
        raise ConfigError(f"[gateway] upstream_key_env names {name!r}, which is not set; export it, or leave it empty")
    return HttpUpstream(
        wanted.upstream, key=os.environ.get(name, "") if name else "", seconds=wanted.timeout, base_name=settings.release.base_name
    )


def run(settings: Settings, *, base: Callable[[], Path], tell: Callable[[str], None]) -> None:
    """Serve until a signal ends it; open requests are answered first. `tell` gets the address.

    Raises:
        ConfigError: see `build`; or it would listen beyond this machine without keys.
        EndpointError: a port is taken.
    """
    wanted = settings.gateway
    if wanted.address not in _LOOPBACK and not Keys(settings.home).known:
        raise ConfigError(
            f"[gateway] address = {wanted.address!r} reaches beyond this machine, and no key is needed to ask; "
            "run 'align gateway key add NAME' first"
        )
    app, metrics, log, detectors = build(settings, base=base)
    if wanted.metrics_port:
        try:
            start_http_server(wanted.metrics_port, "127.0.0.1", registry=metrics.registry)
        except OSError as error:
            raise EndpointError(f"port {wanted.metrics_port} is taken ({error.strerror}); set [gateway] metrics_port") from error
    config = uvicorn.Config(
        app.starlette(),
        host=wanted.address,
        port=wanted.port,
        http=PatientProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(wanted.timeout),
        timeout_keep_alive=75,
        limit_concurrency=4 * wanted.max_open,
    )
    shown = f"[{wanted.address}]" if ":" in wanted.address else wanted.address
    tell(f"gateway: http://{shown}:{wanted.port}/v1 → {wanted.upstream or 'the release in production, in this process'}")
    # uvicorn sends itself the signal again at the end, which would kill the process before the log is closed.
    signal.signal(signal.SIGTERM, _end)
    try:
        with exporting():
            try:
                with suppress(_Ended):
                    uvicorn.Server(config).run()
            finally:
                # A second signal must not keep the log from being closed.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except SystemExit as error:
        raise EndpointError(f"port {wanted.port} cannot be listened on; set [gateway] port, or end what holds it") from error
    finally:
        log.close()
        detectors.stop()
