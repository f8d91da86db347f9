"""Record how real libraries log model calls, for tests/writers: `python -m bench.writers SYSTEM FILE`.

The records are what the library itself serialises; where a client writes no log of its own, `request`, `response` and `timestamp`
around it are ours. The model runs on the loopback (`answers`). The libraries stay out of the project's environment; they need a virtual
environment with Python 3.11 or newer:

    python3 -m venv writers
    writers/bin/pip install openai anthropic 'litellm[proxy]' langfuse openinference-instrumentation-openai 'wrapt<2' \
        opentelemetry-instrumentation-genai-openai opentelemetry-instrumentation-genai-anthropic \
        opentelemetry-instrumentation-openai-v2==2.3b0 opentelemetry-exporter-otlp-json-file
    for system in $(writers/bin/python -m bench.writers); do
        writers/bin/python -m bench.writers $system tests/writers/$system.jsonl.gz; done

`openllmetry` was recorded in a separate environment:
`pip install openai opentelemetry-sdk opentelemetry-instrumentation-openai opentelemetry-exporter-otlp-json-file`.

tests/writers/versions.json lists the versions that wrote the recordings.

Effects: binds a port on the loopback, writes the file.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from bench.writers.answers import ARGUMENTS, CALLS, CREATED, FOUND, SYSTEM, TOOL, serving

MODEL, CLAUDE, USER, SESSION = "tea-1", "claude-tea-1", "ann", "s1"
_CALLED = {"id": "call_1", "type": "function", "function": {"name": TOOL["name"], "arguments": ARGUMENTS}}
Write = Callable[[str], None]


def chats(*left_out: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the calls of the chat completions API, without a user."""
    for name, call in CALLS.items():
        if name in left_out:
            continue
        messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": call.asked}]
        if name == "after_tool":
            messages += [{"role": "assistant", "content": None, "tool_calls": [_CALLED]}, _result("role", "tool", "content")]
        if name == "plain":
            messages[1] = {"role": "user", "content": [{"type": "text", "text": call.asked}]}
        tools = {"tools": [{"type": "function", "function": TOOL}]} if "tool" in name else {}
        yield name, {"model": MODEL, "messages": messages, "stream": name.endswith("stream"), **tools}


def _result(key: str, value: str, content: str) -> dict[str, Any]:
    return {key: value, ("tool_call_id" if key == "role" else "call_id"): "call_1", content: FOUND}


def responses() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the calls of the Responses API."""
    for name, call in CALLS.items():
        asked: Any = call.asked
        if name == "after_tool":
            called = {"type": "function_call", "call_id": "call_1", "name": TOOL["name"], "arguments": ARGUMENTS}
            asked = [{"role": "user", "content": call.asked}, called, _result("type", "function_call_output", "output")]
        if name == "stream":
            asked = [{"role": "user", "content": [{"type": "input_text", "text": call.asked}]}]
        tools = {"tools": [{"type": "function", **TOOL, "strict": False}]} if "tool" in name else {}
        yield name, {"model": MODEL, "instructions": SYSTEM, "input": asked, "stream": name.endswith("stream"), **tools}


def messages() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the calls of Anthropic's Messages API."""
    for name, call in CALLS.items():
        asked: list[dict[str, Any]] = [{"role": "user", "content": call.asked}]
        if name == "after_tool":
            used = {"type": "tool_use", "id": "toolu_1", "name": TOOL["name"], "input": json.loads(ARGUMENTS)}
            found = {"type": "tool_result", "tool_use_id": "toolu_1", "content": FOUND}
            asked += [{"role": "assistant", "content": [used]}, {"role": "user", "content": [found]}]
        tool = {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}
        tools = {"tools": [tool]} if "tool" in name else {}
        yield name, {"model": CLAUDE, "max_tokens": 64, "system": SYSTEM, "messages": asked, "stream": name.endswith("stream"), **tools}


def _beside(request: dict[str, Any], answer: Any, **more: Any) -> str:
    """Return a line of a service that logs its requests and, through the library's own serialiser, the responses."""
    raw = f"[{', '.join(one.model_dump_json() for one in answer)}]" if request["stream"] else answer.model_dump_json()
    return (
        f'{{"request": {json.dumps(request)}, "response": {raw}{"".join(f", {json.dumps(k)}: {json.dumps(v)}" for k, v in more.items())}}}'
    )


def openai_client(url: str) -> Any:
    """Return a client of the loopback."""
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def write_openai(url: str, write: Write) -> None:
    """Record Chat completions and Responses, with their requests."""
    client = openai_client(url)
    for api, calls in ((client.chat.completions, chats()), (client.responses, responses())):
        for _, request in calls:
            asked = {**request, "user": USER}
            try:
                write(_beside(asked, api.create(**asked)))
            except Exception as error:
                write(json.dumps({"request": asked, "response": getattr(error, "body", None)}))
    write(
        _beside(
            {"model": "embed", "input": "x", "stream": False}, client.embeddings.create(model="embed", input="x", encoding_format="float")
        )
    )


def write_anthropic(url: str, write: Write) -> None:
    """Record Messages with their requests; the API returns no time."""
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    for name, request in messages():
        asked = {**request, "metadata": {"user_id": USER}}
        try:
            write(_beside(asked, client.messages.create(**asked), timestamp=CREATED))
        except Exception as error:
            write(json.dumps({"request": asked, "response": getattr(error, "body", None), "timestamp": CREATED}))
        if name == "stream":
            with client.messages.stream(**{key: value for key, value in asked.items() if key != "stream"}) as stream:
                write(_beside({**asked, "stream": False}, stream.get_final_message(), timestamp=CREATED))


def write_litellm(url: str, write: Write) -> None:
    """Record the SDK callback's argument: the StandardLoggingPayload."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm
    from litellm.integrations.custom_logger import CustomLogger

    class Logger(CustomLogger):
        async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            write(json.dumps(kwargs["standard_logging_object"], default=str))

        async_log_failure_event = async_log_success_event

    litellm.callbacks = [Logger()]
    asyncio.run(_ask_litellm(litellm, url))


async def _ask_litellm(litellm: Any, url: str) -> None:
    common = {"api_key": "none", "max_retries": 0, "user": USER, "metadata": {"session_id": SESSION}}
    of_openai, of_anthropic = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1"}, {"model": f"anthropic/{CLAUDE}", "api_base": url}
    calls = [(litellm.acompletion, {**one, **of_openai}) for _, one in chats()]
    calls += [(litellm.acompletion, {**one, **of_anthropic}) for _, one in chats("refusal")]
    calls += [(litellm.aresponses, {**one, **of_openai}) for _, one in responses()]
    calls.append((litellm.aembedding, {**of_openai, "model": "openai/embed", "input": ["x"]}))
    for call, request in calls:
        with suppress(litellm.exceptions.BadRequestError):
            answer = await call(**request, **common)
            if request.get("stream"):
                async for _chunk in answer:
                    pass
        # A worker runs the callbacks, and would run them in any order.
        await asyncio.sleep(0.3)
    await asyncio.sleep(2)


def write_litellm_spend(url: str, write: Write) -> None:
    """Record rows of LiteLLM_SpendLogs as the proxy writes them for its requests, with prompts stored."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        # JSON is YAML.
        key = f"sk-{secrets.token_hex(32)}"
        json.dump(_proxy(url, key), config)
        config.flush()
        os.environ |= {"CONFIG_FILE_PATH": config.name, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        import litellm
        from fastapi.testclient import TestClient
        from litellm.integrations.custom_logger import CustomLogger
        from litellm.proxy import proxy_server
        from litellm.proxy.hooks.proxy_track_cost_callback import _ProxyDBLogger
        from litellm.proxy.spend_tracking.spend_tracking_utils import get_logging_payload

        def kept(kwargs: Any, answer: Any, begun: datetime, done: datetime) -> None:
            write(json.dumps(get_logging_payload(kwargs, answer, begun, done), default=str))

        class Writer:
            # Replaces the writer with a database.
            async def update_database(self, **call: Any) -> bool:
                kept(call["kwargs"], call["completion_response"], call["start_time"], call["end_time"])
                return True

        class Logger(CustomLogger):
            async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
                kept(kwargs, response_obj, start_time, end_time)

            async def async_post_call_failure_hook(self, *call: Any, **named: Any) -> None:
                await _ProxyDBLogger().async_post_call_failure_hook(*call, **named)

        with TestClient(proxy_server.app, headers={"Authorization": f"Bearer {key}"}) as client:
            proxy_server.proxy_logging_obj.db_spend_update_writer = Writer()
            litellm.callbacks.append(Logger())
            for path, calls in (("chat/completions", chats()), ("responses", responses()), ("messages", messages())):
                for _, request in calls:
                    user = {"metadata": {"user_id": USER}} if path == "messages" else {"user": USER}
                    client.post(f"/v1/{path}", json={**request, **user, "litellm_session_id": SESSION})
                    time.sleep(0.3)
            client.post("/v1/embeddings", json={"model": "embed", "input": ["x"], "user": USER})
            time.sleep(2)


def _proxy(url: str, key: str) -> dict[str, Any]:
    of = {MODEL: ("openai", f"{url}/v1"), CLAUDE: ("anthropic", url), "embed": ("openai", f"{url}/v1")}
    return {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"{provider}/{name}", "api_base": base, "api_key": "none", "max_retries": 0}}
            for name, (provider, base) in of.items()
        ],
        "general_settings": {"store_prompts_in_spend_logs": True, "master_key": key},
    }


class _Telemetry(NamedTuple):
    tracer: Any
    logger: Any
    flush: Callable[[], None]


def _telemetry(write: Write, form: str) -> _Telemetry:
    """Return the SDK's providers; `form` is `otlp` (its OTLP JSON file exporter) or `console` (its console exporters)."""
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, ConsoleLogRecordExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    resource = Resource.create({"service.name": "tea"})
    tracer, logger = TracerProvider(resource=resource), LoggerProvider(resource=resource)
    folder = Path(tempfile.mkdtemp())
    if form == "otlp":
        from opentelemetry.exporter.otlp.json.file import FileSpanExporter
        from opentelemetry.exporter.otlp.json.file._log_exporter import FileLogExporter

        spans, logs = FileSpanExporter(path=str(folder / "spans")), FileLogExporter(path=str(folder / "logs"))
    else:
        out = (folder / "console").open("w", encoding="utf-8")
        spans = ConsoleSpanExporter(out=out, formatter=lambda one: one.to_json(indent=None) + "\n")
        logs = ConsoleLogRecordExporter(out=out, formatter=lambda one: one.to_json(indent=None) + "\n")
    tracer.add_span_processor(BatchSpanProcessor(spans))
    logger.add_log_record_processor(BatchLogRecordProcessor(logs))

    def flush() -> None:
        tracer.shutdown()
        logger.shutdown()
        for file in sorted(folder.iterdir()):
            for line in file.read_text(encoding="utf-8").splitlines():
                write(line)

    return _Telemetry(tracer, logger, flush)


def _ask(url: str, *left_out: str) -> None:
    client = openai_client(url)
    for _, request in chats(*left_out):
        with suppress(Exception):
            answer = client.chat.completions.create(**request, user=USER)
            if request["stream"]:
                list(answer)
    for name, request in responses():
        if name in left_out:
            continue
        with suppress(Exception):
            answer = client.responses.create(**request)
            if request["stream"]:
                list(answer)
    client.embeddings.create(model="embed", input="x")


def _genai(url: str, write: Write, form: str, where: str) -> None:
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = where
    os.environ["OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"] = str("event" in where).lower()
    from opentelemetry.instrumentation.genai.anthropic import AnthropicInstrumentor
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    telemetry = _telemetry(write, form)
    for one in (OpenAIInstrumentor(), AnthropicInstrumentor()):
        one.instrument(tracer_provider=telemetry.tracer, logger_provider=telemetry.logger)
    _ask(url)
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    for _, request in messages():
        with suppress(Exception):
            answer = client.messages.create(**request)
            if request["stream"]:
                list(answer)
    telemetry.flush()


def write_otel(url: str, write: Write) -> None:
    """Record the official instrumentations of openai and anthropic, newest conventions, messages in spans, as OTLP JSON."""
    _genai(url, write, "otlp", "span_only")


def write_otel_console(url: str, write: Write) -> None:
    """Record the same from the console exporter."""
    _genai(url, write, "console", "span_only")


def write_otel_details(url: str, write: Write) -> None:
    """Record the same with messages in log records."""
    _genai(url, write, "otlp", "event_only")


def write_otel_both(url: str, write: Write) -> None:
    """Record the same with messages in both spans and log records."""
    _genai(url, write, "otlp", "span_and_event")


def write_otel_details_console(url: str, write: Write) -> None:
    """Record the messages in log records from the console exporter."""
    _genai(url, write, "console", "event_only")


def _openai_v2(url: str, write: Write, form: str) -> None:
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "true"
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

    telemetry = _telemetry(write, form)
    OpenAIInstrumentor().instrument(tracer_provider=telemetry.tracer, logger_provider=telemetry.logger)
    _ask(url)
    telemetry.flush()


def write_otel_events(url: str, write: Write) -> None:
    """Record the older instrumentation, with the conventions of 1.30: one log record per message."""
    _openai_v2(url, write, "otlp")


def write_otel_events_console(url: str, write: Write) -> None:
    """Record the same from the console exporter: one line per log record."""
    _openai_v2(url, write, "console")


def _openinference(url: str, write: Write, form: str) -> None:
    from openinference.instrumentation import using_attributes
    from openinference.instrumentation.openai import OpenAIInstrumentor

    telemetry = _telemetry(write, form)
    OpenAIInstrumentor().instrument(tracer_provider=telemetry.tracer)
    with using_attributes(session_id=SESSION, user_id=USER):
        _ask(url)
    telemetry.flush()


def write_openinference(url: str, write: Write) -> None:
    """Record openinference-instrumentation-openai as OTLP JSON."""
    _openinference(url, write, "otlp")


def write_openinference_console(url: str, write: Write) -> None:
    """Record the same from the console exporter."""
    _openinference(url, write, "console")


def write_openllmetry(url: str, write: Write) -> None:
    """Record OpenLLMetry's opentelemetry-instrumentation-openai as OTLP JSON."""
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    telemetry = _telemetry(write, "otlp")
    OpenAIInstrumentor().instrument(tracer_provider=telemetry.tracer, logger_provider=telemetry.logger)
    _ask(url)
    telemetry.flush()


def write_langfuse(url: str, write: Write) -> None:
    """Record observations and traces, real requests and responses, as the SDK's API types serialise them."""
    from langfuse.api import ObservationV2

    client = openai_client(url)
    for number, (name, request) in enumerate(chats("stream", "tool_stream", "filtered_stream", "thinking_stream")):
        begun = datetime.fromtimestamp(CREATED, UTC) + timedelta(seconds=number)
        output, level = None, "DEFAULT"
        try:
            output = client.chat.completions.create(**request).choices[0].message.model_dump()
        except Exception:
            level = "ERROR"
        one = ObservationV2(
            id=f"o{number}", trace_id="c1", start_time=begun, end_time=begun, project_id="p", type="GENERATION", name=name, level=level,
            user_id=USER, session_id=SESSION, input=json.dumps(request["messages"]) if number % 2 else request["messages"],
            output=json.dumps(output) if number % 2 and output else output, provided_model_name=MODEL,
        )  # fmt: skip
        write(one.json())


def write_langfuse_spans(url: str, write: Write) -> None:
    """Record what Langfuse's drop-in for the openai client sends: spans with its own attributes, as OTLP JSON."""
    telemetry = _telemetry(write, "otlp")
    from langfuse import Langfuse, propagate_attributes

    fuse = Langfuse(public_key="pk-lf-1", secret_key="sk-lf-1", base_url=url, tracer_provider=telemetry.tracer)
    from langfuse.openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with propagate_attributes(user_id=USER, session_id=SESSION):
        for api, calls in ((client.chat.completions, chats()), (client.responses, responses())):
            for _, request in calls:
                with suppress(Exception):
                    answer = api.create(**request)
                    if request["stream"]:
                        list(answer)
        with fuse.start_as_current_observation(name="own", as_type="span", input="x", output="y"):
            pass
    telemetry.flush()


SYSTEMS: dict[str, tuple[Callable[[str, Write], None], str]] = {
    "openai": (write_openai, "openai"),
    "anthropic": (write_anthropic, "anthropic"),
    "litellm": (write_litellm, "litellm"),
    "litellm_spend": (write_litellm_spend, "litellm"),
    "otel": (write_otel, "opentelemetry-instrumentation-genai-openai"),
    "otel_console": (write_otel_console, "opentelemetry-instrumentation-genai-openai"),
    "otel_details": (write_otel_details, "opentelemetry-instrumentation-genai-openai"),
    "otel_details_console": (write_otel_details_console, "opentelemetry-instrumentation-genai-openai"),
    "otel_both": (write_otel_both, "opentelemetry-instrumentation-genai-openai"),
    "otel_events": (write_otel_events, "opentelemetry-instrumentation-openai-v2"),
    "otel_events_console": (write_otel_events_console, "opentelemetry-instrumentation-openai-v2"),
    "openinference": (write_openinference, "openinference-instrumentation-openai"),
    "openinference_console": (write_openinference_console, "openinference-instrumentation-openai"),
    "openllmetry": (write_openllmetry, "opentelemetry-instrumentation-openai"),
    "langfuse": (write_langfuse, "langfuse"),
    "langfuse_spans": (write_langfuse_spans, "langfuse"),
}


def main(system: str, path: Path) -> None:
    """Record one system, and the version that wrote the recording."""
    lines: list[str] = []
    writer, package = SYSTEMS[system]
    with serving() as url:
        writer(url, lines.append)
        # Replace the port, which changes, and the libraries' path, which is private.
        lines = [line.replace(url, "http://127.0.0.1").replace(sys.prefix, "/venv") for line in lines]
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    versions = path.parent / "versions.json"
    known = json.loads(versions.read_text(encoding="utf-8")) if versions.exists() else {}
    versions.write_text(json.dumps({**known, system: f"{package} {version(package)}"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        print("\n".join(SYSTEMS))
