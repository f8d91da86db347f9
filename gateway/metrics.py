"""What the gateway counts, for Prometheus. No label comes from a request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counters and times of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = self.registry
        self._requests = Counter("align_gateway_requests_total", "answered requests", ["interface", "status", "action"], registry=made)
        self._fired = Counter("align_gateway_rules_fired_total", "rules that fired", ["rule", "mode"], registry=made)
        self._failed = Counter("align_gateway_check_failures_total", "checks without a result", ["check", "failed_open"], registry=made)
        self._checks = Histogram("align_gateway_check_seconds", "time to a check's result", ["check"], buckets=_SECONDS, registry=made)
        self._upstream = Histogram("align_gateway_upstream_seconds", "time to the upstream's whole answer", registry=made)
        self._logs = Counter("align_gateway_log_failures_total", "exchanges that could not be logged", registry=made)
        self.open = Gauge("align_gateway_open_requests", "requests being answered", registry=made)
        self.held = Gauge("align_gateway_held", "requests that wait for a person", registry=made)

    def answered(self, interface: str, status: int, action: str) -> None:
        """Count an answered request."""
        self._requests.labels(interface, str(status), action).inc()

    def fired(self, rule: str, mode: str) -> None:
        """Count a rule that fired."""
        self._fired.labels(rule, mode).inc()

    def check_failed(self, check: str, *, open_: bool) -> None:
        """Count a check without a result."""
        self._failed.labels(check, str(open_).lower()).inc()

    def log_failed(self) -> None:
        """Count an exchange that could not be logged."""
        self._logs.inc()

    def upstream_took(self, seconds: float) -> None:
        """Count the time of an upstream's answer."""
        self._upstream.observe(seconds)

    @contextmanager
    def timed(self, check: str) -> Iterator[None]:
        """Measure a check."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._checks.labels(check).observe(time.perf_counter() - begun)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
