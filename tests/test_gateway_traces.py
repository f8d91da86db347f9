"""A running gateway sends traces to a collector, joined to its client's and its model server's, and no text with them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alignment.errors import ConfigError
from gateway.tracing import exporting
from tests.conftest import child_environment
from tests.gateway_server import Scripted, serving
from tests.test_gateway_faults import _until_ready

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    def __init__(self) -> None:
        self.spans: list[Any] = []

    async def take(self, request: Request) -> Response:
        body = ExportTraceServiceRequest.FromString(await request.body())
        self.spans += [span for one in body.resource_spans for scope in one.scope_spans for span in scope.spans]
        return Response(b"", media_type="application/x-protobuf")

    def starlette(self) -> Starlette:
        return Starlette(routes=[Route("/v1/traces", self.take, methods=["POST"])])


def test_a_request_is_one_trace_from_its_client_to_the_model_server(tmp_path: Path) -> None:
    collector, scripted, heads = Collector(), Scripted(), list[dict[str, str]]()
    answer = scripted.answer

    async def noted(request: Request) -> Response:
        heads.append(dict(request.headers))
        return await answer(request)

    scripted.answer = noted  # type: ignore[method-assign]
    rules = tmp_path / "policy.yaml"
    rules.write_text("version: 1\nrules: [{id: keys, stage: answer, check: secrets, action: redact}]\n")
    with serving(scripted.starlette()) as upstream, serving(collector.starlette()) as endpoint, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        more = {
            "ALIGN_HOME": str(tmp_path / "home"),
            "ALIGN_GATEWAY__UPSTREAM": f"{upstream}/v1",
            "ALIGN_GATEWAY__PORT": str(port),
            "ALIGN_GATEWAY__POLICY": str(rules),
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        }
        process = subprocess.Popen([sys.executable, "-m", "flows.cli", "gateway"], env=child_environment(**more), stderr=subprocess.DEVNULL)
        try:
            _until_ready(f"http://127.0.0.1:{port}")
            sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "v=a-secret-text", "baggage": "v=a-secret-text"}
            body = {"messages": [{"role": "user", "content": "say: a-secret-text"}], "user": "a-secret-user"}
            for _ in range(2):
                assert httpx2.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=sent, timeout=30).status_code == 200
                scripted.how = "down"
                assert httpx2.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=sent, timeout=30).status_code == 502
                scripted.how = "well"
        finally:
            process.send_signal(signal.SIGTERM)
            ended = process.wait(30)
    assert ended == 0
    ours = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    roots = [span for span in ours if span.parent_span_id.hex() == PARENT]
    assert sorted(span.name for span in ours) == [
        *["ask the model"] * 4, *["check answer"] * 2, *["check prompt"] * 4, *["gateway chat"] * 4
    ]  # fmt: skip
    assert {span.name for span in roots} == {"gateway chat"}
    told = [{one.key: one.value.int_value or one.value.string_value for one in span.attributes} for span in roots]
    assert sorted((one["http.response.status_code"], one["align.action"]) for one in told) == [
        *[(200, "allow")] * 2, *[(502, "upstream_error")] * 2
    ]  # fmt: skip
    # The model server joins, and what a client chose goes no further.
    assert {head["traceparent"].split("-")[1] for head in heads} == {TRACE} and PARENT not in str(heads)
    assert "a-secret" not in str(collector.spans) + "".join(str(head) for head in heads)


def test_an_endpoint_without_the_extra_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is set.*otel"), exporting():
        pass
