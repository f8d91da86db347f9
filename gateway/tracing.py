"""OpenTelemetry traces of requests: the request, its checks, and the model server's call. No span holds a text, a user or a key.

Without the extra `otel`, or without an endpoint in the environment, spans cost microseconds and go nowhere.

Effects: `exporting` sends spans to the endpoint that OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from alignment.errors import ConfigError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE = "align-gateway"
_CONTEXT = TraceContextTextMapPropagator()


@contextmanager
def exporting() -> Iterator[None]:
    """Send spans to the endpoint of the environment, if it names one; send what is left at the end.

    Raises:
        ConfigError: an endpoint is named, but the extra is not installed.
    """
    named = [name for name in ENDPOINTS if os.environ.get(name)]
    if not named:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(f"{named[0]} is set, but traces need the extra: pip install 'continuous-alignment[otel]', or unset it") from error
    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", SERVICE)}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


@contextmanager
def request_span(interface: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """Trace a request as a part of its client's trace, if its headers name one."""
    # Not its state, a text that a client chooses and no check reads; for the same reason there is no baggage.
    parent = _CONTEXT.extract({"traceparent": headers.get("traceparent", "")})
    with _tracer().start_as_current_span(
        f"gateway {interface}", parent, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span


@contextmanager
def step(name: str) -> Iterator[Span]:
    """Trace a part of the current request. An exception marks it as failed; its message, which may hold a text, is left out."""
    with _tracer().start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
        try:
            yield span
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def ended(span: Span, status: int, action: str, release: str = "") -> None:
    """Say how a request ended."""
    span.set_attributes({"http.response.status_code": status, "align.action": action, "align.release": release})
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def headers_of_call() -> dict[str, str]:
    """Return the headers that make the model server's spans a part of this trace, or of the client's if this one goes nowhere."""
    found: dict[str, str] = {}
    _CONTEXT.inject(found)
    return found


def _tracer() -> trace.Tracer:
    return trace.get_tracer("align.gateway")
