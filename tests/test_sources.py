"""Every kind of log that people have becomes the same exchange, from wherever it lies."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flows.ingest as flow
from alignment.config import load_settings
from alignment.errors import CheckFailed, ConfigError, InputError
from alignment.ingest import Batch, find_files, log_sources, make_source, presets
from alignment.store import migrate, query
from tests.conftest import NOW
from tests.test_ingest import ingest, line, raw, take, write

DATA = Path(os.environ.get("ALIGN_DATA_DIR", "shared/data"))
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How do I boil an egg?"}]
ANSWER = "In water, for 7 minutes."


def attributes(**values: Any) -> list[dict[str, Any]]:
    return [{"key": name.replace("__", "."), "value": value} for name, value in values.items()]


def text(value: str) -> dict[str, str]:
    return {"stringValue": value}


def nested(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Return messages as OTLP writes structured attributes."""

    def part(content: str) -> dict[str, Any]:
        return {"kvlistValue": {"values": attributes(type=text("text"), content=text(content))}}

    return {
        "arrayValue": {
            "values": [
                {"kvlistValue": {"values": attributes(role=text(one["role"]), parts={"arrayValue": {"values": [part(one["content"])]}})}}
                for one in messages
            ]
        }
    }


def parts(messages: list[dict[str, str]]) -> str:
    return json.dumps([{"role": one["role"], "parts": [{"type": "text", "content": one["content"]}]} for one in messages])


def span(asked: dict[str, Any], answer: dict[str, Any], system: dict[str, Any]) -> dict[str, Any]:
    found = attributes(
        gen_ai__operation__name=text("chat"),
        gen_ai__conversation__id=text("c1"),
        gen_ai__request__model=text("m0"),
        gen_ai__response__model=text("m1"),
        user__id=text("u1"),
        session__id=text("s1"),
        gen_ai__system_instructions=system,
        gen_ai__input__messages=asked,
        gen_ai__output__messages=answer,
    )
    return {"traceId": "t", "spanId": "s", "startTimeUnixNano": "1793534400000000000", "attributes": found}


def otlp(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]}


OTHER_SPAN = {"traceId": "t", "startTimeUnixNano": "1793534400000000000", "attributes": attributes(http__method=text("GET"))}
SAID = [{"role": "assistant", "content": ANSWER}]
OTEL = (
    span(text(parts(ASKED[1:])), text(parts(SAID)), text('[{"type": "text", "content": "Be kind."}]')),
    span(nested(ASKED[1:]), nested(SAID), text('[{"type": "text", "content": "Be kind."}]')),
)
COMPLETION = {"id": "c1", "created": 1793534400, "model": "m1", "choices": [{"message": {"role": "assistant", "content": ANSWER}}]}
LOGS: dict[str, list[dict[str, Any]]] = {
    "gateway": [
        line(
            conversation_id="c1",
            user_id="u1",
            session_id="s1",
            model="m1",
            messages=ASKED,
            response=ANSWER,
            created_at="2026-11-01T12:00:00Z",
        )
    ],
    "messages": [{"messages": [*ASKED, *SAID]}],
    "openai": [
        {"request": {"model": "m0", "messages": ASKED, "user": "u1", "metadata": {"session_id": "s1"}}, "response": COMPLETION},
        {"request": json.dumps({"messages": ASKED, "user": "u1", "metadata": {"session_id": "s1"}}), "response": json.dumps(COMPLETION)},
        {
            "request": {
                "body": {
                    "messages": [
                        {"role": "developer", "content": "Be kind."},
                        {"role": "user", "content": [{"type": "text", "text": ASKED[1]["content"]}]},
                    ],
                    "user": "u1",
                    "metadata": {"session_id": "s1"},
                }
            },
            "response": {"body": COMPLETION},
        },
    ],
    "litellm": [
        {
            "id": "x",
            "trace_id": "c1",
            "status": "success",
            "startTime": 1793534400.0,
            "model": "m1",
            "messages": ASKED,
            "response": answer,
            "end_user": user,
            "metadata": more,
        }
        for answer, user, more in (
            (COMPLETION, "u1", {"session_id": "s1"}),
            (ANSWER, "", {"session_id": "s1", "user_api_key_end_user_id": "u1", "user_api_key_user_id": "owner"}),
        )
    ],
    "langfuse": [
        {
            "id": "o",
            "traceId": "c1",
            "type": "GENERATION",
            "startTime": "2026-11-01T12:00:00.000Z",
            "model": "m1",
            "userId": "u1",
            "sessionId": "s1",
            "input": asked,
            "output": answer,
        }
        for asked, answer in (
            (ASKED, SAID[0]),
            ({"messages": ASKED}, ANSWER),
            (json.dumps(ASKED), json.dumps(SAID[0])),
        )
    ]
    + [
        {
            "trace": {"userId": "u1", "sessionId": "s1"},
            "observations": [
                {"id": "p", "type": "SPAN", "input": "x", "output": "y"},
                {
                    "id": "o",
                    "traceId": "c1",
                    "type": "GENERATION",
                    "startTime": "2026-11-01T12:00:00Z",
                    "model": "m1",
                    "input": ASKED,
                    "output": COMPLETION,
                },
            ],
        }
    ],
    "otel": [otlp(OTHER_SPAN, one) for one in OTEL],
    "openinference": [
        {
            "context.trace_id": "c1",
            "start_time": "2026-11-01T12:00:00+00:00",
            "attributes.user.id": "u1",
            "attributes.session.id": "s1",
            "attributes.llm.model_name": "m1",
            "attributes.llm.input_messages": [{f"message.{key}": value for key, value in one.items()} for one in ASKED],
            "attributes.llm.output_messages": [{"message.role": "assistant", "message.content": ANSWER}],
        }
    ],
    "sharegpt": [
        {
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": ASKED[1]["content"]},
                {"from": "gpt", "value": ANSWER},
            ]
        },
        {"conversation": [*ASKED, *SAID]},
    ],
    "openwebui": [
        {
            "id": "c1",
            "user_id": "u1",
            "updated_at": 1793534400,
            "chat": {
                "models": ["m1"],
                "history": {
                    "currentId": "3",
                    "messages": {
                        "1": {"id": "1", "parentId": None, **ASKED[0]},
                        "2": {"id": "2", "parentId": "1", **ASKED[1]},
                        "3": {"id": "3", "parentId": "2", **SAID[0]},
                        "4": {"id": "4", "parentId": "2", "role": "assistant", "content": "another branch"},
                    },
                },
            },
        }
    ],
}


@pytest.mark.parametrize(("preset", "number"), [(preset, number) for preset, rows in LOGS.items() for number in range(len(rows))])
def test_each_preset_reads_the_same_exchange(home: Path, preset: str, number: int) -> None:
    write(home / "log.jsonl", raw(LOGS[preset][number]))
    assert ingest(home, home / "log.jsonl", preset=preset) == Batch(1, 1, 0, 0, 0)
    [row] = query(home, "SELECT * FROM interactions")
    assert json.loads(row["messages"]) == ASKED
    assert (row["prompt"], row["response"]) == (ASKED[1]["content"], ANSWER)
    if preset == "openwebui":
        assert (row["conversation_id"], row["user_id"], row["model"]) == ("c1", "u1", "m1")
    elif preset not in ("messages", "sharegpt"):
        assert (row["conversation_id"], row["session_id"], row["user_id"], row["model"]) == ("c1", "s1", "u1", "m1")
        assert row["created_at"] == datetime(2026, 11, 1, 12)


def test_every_preset_is_tested() -> None:
    assert set(presets()) == {*LOGS, "hh", "prompt_response", "vllm"}


def test_one_line_may_hold_many_exchanges_and_others_none(home: Path) -> None:
    first, second = OTEL[0], span(text(parts([{"role": "user", "content": "And cold?"}])), text(parts(SAID)), text("[]"))
    content = raw(otlp(first, OTHER_SPAN, second), otlp(OTHER_SPAN), otlp(), {"resourceSpans": "no list"}) + b"{broken\n"
    write(home / "log.jsonl", content)
    assert ingest(home, home / "log.jsonl", preset="otel") == Batch(6, 2, 0, 1, 0, 3)
    assert [row["line_number"] for row in query(home, "SELECT line_number FROM interactions")] == [1, 1]


def test_lines_of_another_kind_are_not_passed_over(home: Path) -> None:
    write(home / "log.jsonl", raw(line(), otlp(OTEL[0]), {"resourceMetrics": []}))
    assert ingest(home, home / "log.jsonl", preset="otel") == Batch(3, 1, 0, 1, 0, 1)


def test_a_file_without_any_exchange_is_not_finished(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    migrate(home)
    source = make_source("logs", [str(home / "log.jsonl")], "otel", {})
    write(home / "log.jsonl", raw(*[otlp(OTHER_SPAN)] * 200))
    with pytest.raises(CheckFailed, match=r"none of 200 records .* correct the source's preset"):
        flow.read_file.fn(source, source.find()[0])
    write(home / "log.jsonl", raw(*[otlp(OTHER_SPAN)] * 200, otlp(OTEL[0])))
    read = flow.read_file.fn(source, source.find()[0])
    assert read.batch == Batch(201, 1, 0, 0, 0, 200)
    flow._tell(source.find()[0], read)
    assert "skipped 200" in capsys.readouterr().err


def test_a_call_that_failed_is_no_exchange(home: Path) -> None:
    failed = {**LOGS["litellm"][0], "status": "failure", "response": {}}
    write(home / "log.jsonl", raw(failed))
    assert ingest(home, home / "log.jsonl", preset="litellm") == Batch(1, 0, 0, 0, 0, 1)


def test_tool_calls_and_pictures_leave_a_trace_of_text(home: Path) -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:x"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "an egg"},
        {"role": "user", "content": "And?"},
    ]
    write(home / "log.jsonl", raw({"messages": [*turns, *SAID]}))
    assert ingest(home, home / "log.jsonl", preset="messages").stored == 1
    [row] = query(home, "SELECT messages::VARCHAR AS messages FROM interactions")
    assert [one["content"] for one in json.loads(row["messages"])] == ["What is this?\n[image_url]", "", "an egg", "And?"]


TRANSCRIPT = "\n\nHuman: How do I boil an egg?\n\nAssistant: In water.\n\nHuman: How long?\n\nAssistant: {}"


def test_both_transcripts_of_a_preference_are_exchanges(home: Path) -> None:
    write(home / "log.jsonl", raw({"chosen": TRANSCRIPT.format("7 minutes"), "rejected": TRANSCRIPT.format("Go away")}))
    assert ingest(home, home / "log.jsonl", preset="hh") == Batch(2, 2, 0, 0, 0)
    rows = query(
        home,
        "SELECT response, value, json_array_length(messages) AS turns FROM interactions "
        "JOIN signals ON interaction_id = interactions.id ORDER BY response",
    )
    assert rows == [{"response": "7 minutes", "value": "up", "turns": 3}, {"response": "Go away", "value": "down", "turns": 3}]


def test_an_answer_that_begins_like_a_turn_is_one_turn(home: Path) -> None:
    write(home / "log.jsonl", raw({"chosen": TRANSCRIPT.format("Human: no"), "rejected": TRANSCRIPT.format("x").lstrip("\n")}))
    assert ingest(home, home / "log.jsonl", preset="hh") == Batch(2, 2, 0, 0, 0)
    assert query(home, "SELECT response FROM interactions ORDER BY 1") == [{"response": "Human: no"}, {"response": "x"}]


@pytest.mark.parametrize(
    ("file", "preset", "counts"),
    [
        ("hh_harmless_base_test.jsonl.gz", "hh", Batch(4624, 4615, 0, 9, 27)),
        ("jbb_vicuna_attack_logs.jsonl.gz", "prompt_response", Batch(282, 282, 0, 0, 1)),
    ],
)
def test_the_published_logs_are_read(home: Path, file: str, preset: str, counts: Batch) -> None:
    path = Path(__file__).parents[1] / DATA / file
    if not path.is_file():
        pytest.skip(f"{file} is not here; set ALIGN_DATA_DIR to a folder with it")
    assert ingest(home, path, preset=preset) == counts


def test_an_undated_record_takes_its_files_time_and_keeps_its_id(home: Path) -> None:
    write(home / "log.jsonl", raw({"prompt": "Hi?", "response": "Yes."}))
    assert ingest(home, home / "log.jsonl", preset="prompt_response") == Batch(1, 1, 0, 0, 0)
    [row] = query(home, "SELECT created_at FROM interactions")
    assert row["created_at"] == datetime.fromtimestamp(1.7e9, UTC).replace(tzinfo=None)
    later = write(home / "other.jsonl", b"\n" + raw({"prompt": "Hi?", "response": "Yes."}))
    os.utime(later, (1.71e9, 1.71e9))
    assert ingest(home, later, preset="prompt_response") == Batch(1, 0, 1, 0, 0)


def test_a_mapping_of_ones_own(home: Path) -> None:
    odd = {"meta": {"who": "u9"}, "ts": 1793534400000, "q": "Hi?", "a": "Yes.", "said": "other"}
    fields = {
        "user_id": "body ->> '$.meta.who'",
        "created_at": "epoch_text(body -> '$.ts')",
        "messages": "[{'role': to_json('user'), 'content': body -> '$.q'}]",
        "response": "body -> '$.a'",
    }
    write(home / "log.jsonl", raw(odd))
    assert ingest(home, home / "log.jsonl", **fields) == Batch(1, 1, 0, 0, 0)
    [row] = query(home, "SELECT user_id, prompt, response, created_at FROM interactions")
    assert row == {"user_id": "u9", "prompt": "Hi?", "response": "Yes.", "created_at": datetime(2026, 11, 1, 12)}


@pytest.mark.parametrize(
    ("preset", "fields", "told"),
    [
        ("nothing", {}, r"preset 'nothing'; known are gateway,"),
        ("gateway", {"colour": "1"}, r"unknown fields colour; known are conversation_id,"),
        ("gateway", {"user_id": "body ->>> 1"}, r"maps user_id to 'body ->>> 1', which is no SQL"),
        ("gateway", {"user_id": "(SELECT content FROM read_text('/etc/passwd'))"}, r"no SQL expression"),
    ],
)
def test_a_wrong_mapping_is_told_before_anything_is_read(preset: str, fields: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_source("s", ["x"], preset, fields)


def test_sources_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "align.toml").write_text(
        '[ingest.sources.chat]\nlogs = ["chat/*.jsonl"]\n[ingest.sources.traces]\nlogs = ["t.json"]\npreset = "otel"\n'
        "[ingest.sources.traces.fields]\nuser_id = \"attribute_text(body -> '$.attributes', 'who')\"\n"
    )
    found = log_sources(load_settings())
    # The sample traffic is for those who have configured nothing.
    assert [one.name for one in found] == ["chat", "traces"]
    assert "'who'" in found[1].statement()
    (tmp_path / "align.toml").write_text('[ingest.sources.a]\nlogs = []\npreset = "x"\n[ingest.sources.b]\nlogs = []\npreset = "y"\n')
    with pytest.raises(ConfigError, match=r"(?s)'x'.*'y'"):
        log_sources(load_settings())


@pytest.mark.parametrize("shape", ["parquet", "array", "object", "pretty", "lines"])
def test_tables_and_documents(home: Path, shape: str) -> None:
    rows = [line(response=str(number)) for number in range(1 if shape in ("object", "pretty") else 5)]
    path = home / ("log.parquet" if shape == "parquet" else "log.json")
    if shape == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        forms = {
            "array": json.dumps(rows),
            "object": json.dumps(rows[0]),
            "pretty": json.dumps(rows[0], indent=2),
            "lines": raw(*rows).decode(),
        }
        path.write_text(forms[shape])
    assert ingest(home, path) == Batch(len(rows), len(rows), 0, 0, 0)
    assert [row["line_number"] for row in query(home, "SELECT line_number FROM interactions ORDER BY 1")] == list(range(1, len(rows) + 1))
    os.utime(path, (1.71e9, 1.71e9))
    assert ingest(home, path) == Batch()


def test_lines_in_a_json_file_are_lines(home: Path) -> None:
    path, whole = home / "app.json", raw(line(response="a"), line(response="b"), line(response="c"))
    path.write_bytes(whole[:-30])
    os.utime(path, (NOW.timestamp() - 10,) * 2)
    assert ingest(home, path).stored == 2
    path.write_bytes(whole)
    assert ingest(home, path) == Batch(1, 1, 0, 0, 0)
    write(home / "other.json", raw(line(response="caf")).replace(b"caf", b"caf\xe9"))
    assert ingest(home, home / "other.json").quarantined == 1


def test_a_packed_document_that_unpacks_to_too_much_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps([line(response="x" * 2000)]).encode()
    monkeypatch.setattr("alignment.ingest.reading._DOCUMENT_BYTES", len(content))
    assert take(home, gzip.compress(content), name="fits.json.gz").stored == 1
    with pytest.raises(InputError, match=r"'.*large\.json\.gz' unpacks to more than .* \.jsonl file"):
        take(home, gzip.compress(content + b" "), name="large.json.gz")


def test_a_document_that_takes_too_much_memory_is_told(home: Path) -> None:
    from alignment.ingest.reading import _documents_database

    _documents_database().execute("SET memory_limit = '20MB'")
    try:
        with pytest.raises(InputError, match=r"cannot read the log file .*bomb\.json'"):
            take(home, b"[" + b"1," * (1 << 21) + b"1]", name="bomb.json")
        assert take(home, b"1," * (1 << 21), name="numbers.json").quarantined == 1
    finally:
        _documents_database().execute("SET memory_limit = '2GB'")


@pytest.mark.parametrize("damage", [b"PAR1 no parquet", b""])
def test_a_damaged_table_is_told(home: Path, damage: bytes) -> None:
    with pytest.raises(InputError, match=r"cannot read the log file.*check the file"):
        take(home, damage, name="log.parquet")


def test_zstandard(home: Path) -> None:
    packed = pa.compress(raw(line(), line(response="b")), codec="zstd", asbytes=True)
    assert take(home, packed, name="log.jsonl.zst") == Batch(2, 2, 0, 0, 0)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A real S3 server on loopback, with one bucket."""
    pytest.importorskip("s3fs", reason="needs the extra s3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "x")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "x")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        import s3fs

        # Another file of this worker may have left one that knows its own server.
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("logs")
        yield "s3://logs"
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_logs_in_an_object_store(home: Path, bucket: str) -> None:
    import s3fs

    store = s3fs.S3FileSystem()
    content = raw(line(), line(response="b"))
    store.pipe("logs/day/a.jsonl", content)
    store.pipe("logs/day/b.jsonl.gz", gzip.compress(raw(line(response="c"))))
    store.pipe("logs/day/c.txt", b"no log")
    found = find_files([f"{bucket}/day/*.jsonl*"])
    assert [one.path for one in found] == ["s3://logs/day/a.jsonl", "s3://logs/day/b.jsonl.gz"]
    assert abs(found[0].mtime_ns / 1e9 - datetime.now(UTC).timestamp()) < timedelta(hours=1).total_seconds()
    assert [ingest(home, one.path) for one in found] == [Batch(2, 2, 0, 0, 0), Batch(1, 1, 0, 0, 0)]
    store.pipe("logs/day/a.jsonl", content + raw(line(response="d")))
    assert ingest(home, f"{bucket}/day/a.jsonl") == Batch(1, 1, 0, 0, 0)
    assert not [path for path in home.rglob("*") if path.is_dir()]
    with pytest.raises(InputError, match=r"no log file matches 's3://logs/day/z.jsonl'"):
        find_files([f"{bucket}/day/z.jsonl"])
    with pytest.raises(InputError, match=r"cannot list 's3://nowhere/\*'.*credentials|no log file matches"):
        find_files(["s3://nowhere/*"])


def test_an_unknown_scheme_is_told() -> None:
    with pytest.raises(InputError, match=r"cannot open 'zz://x/y'.*s3://, gs:// or az://"):
        find_files(["zz://x/y"])


@pytest.mark.parametrize("moment", [1e300, -1e300, 9e18, -1e15, "9223372036854775807", None, [], {}])
@pytest.mark.parametrize("preset", ["openai", "litellm", "otel"])
def test_an_odd_time_costs_one_record(home: Path, preset: str, moment: Any) -> None:
    good = LOGS[preset][0]
    odd = json.loads(json.dumps(good))
    if preset == "otel":
        odd["resourceSpans"][0]["scopeSpans"][0]["spans"][1]["startTimeUnixNano"] = moment
    elif preset == "openai":
        odd["response"]["created"] = moment
    else:
        odd["startTime"] = moment
    write(home / "log.jsonl", raw(good, odd))
    batch = ingest(home, home / "log.jsonl", preset=preset)
    assert (batch.read, batch.stored, batch.quarantined) == (2, 1, 1)


@pytest.mark.parametrize("key", ["", "a\\", 'a"b', "a.b", "ключ", "$", "x" * 5000, "\x00"])
def test_an_odd_key_costs_nothing(home: Path, key: str) -> None:
    assert take(home, raw(line(**{key: 1}), line(response="b"))) == Batch(2, 2, 0, 0, 0)


def test_texts_and_messages_of_a_mapping_need_no_care(home: Path) -> None:
    write(home / "log.jsonl", raw(line(messages=..., response=..., m=ASKED, answer="hello ann@example.com", agreed="yes"), line()))
    fields = {"messages": "body -> '$.m'", "response": "body ->> '$.answer'", "consent": "body ->> '$.agreed'"}
    assert ingest(home, home / "log.jsonl", **fields) == Batch(2, 1, 0, 1, 1)
    [row] = query(home, "SELECT response, consent FROM interactions")
    assert row["response"].startswith("hello <EMAIL_")
    assert row["consent"] is True


def test_odd_columns_of_a_table(home: Path) -> None:
    rows = [{**line(response=str(number)), "batch": 7, "score": score} for number, score in enumerate((1.0, float("nan"), float("inf")))]
    pq.write_table(pa.Table.from_pylist(rows), home / "log.parquet")
    assert ingest(home, home / "log.parquet") == Batch(3, 3, 0, 0, 0)


def test_a_file_url_is_a_path(home: Path) -> None:
    write(home / "log.jsonl", raw(line()))
    assert [one.path for one in find_files([f"file://{home}/*.jsonl"])] == [str(home / "log.jsonl")]
