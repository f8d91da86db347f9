"""Small files are read many at a time, and each has the fate that it has by itself."""

from __future__ import annotations

import gzip
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flows.ingest as flow
from alignment.config import Settings, load_settings
from alignment.errors import InputError
from alignment.ingest import LogSource, files, find_files, landing, make_source
from alignment.ingest.replay import replay
from alignment.store import migrate, query
from flows import read_files
from flows.read_files import check_block, read_context
from tests.test_ingest import line, raw, write

HIDDEN = {"home": "a1b2", "bomb": 100 << 20}


@pytest.fixture(autouse=True)
def without_prefect(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(home))
    monkeypatch.setattr(flow, "read_file", flow.read_file.fn)
    monkeypatch.setattr(flow, "read_small_files", flow.read_small_files.fn)


def night(home: Path, source: LogSource, *, accept: bool = False) -> flow._Read:
    migrate(home)
    return flow._read_sources(load_settings(), [source], since=None, dry_run=False, accept=accept)


def said(number: int, **more: Any) -> dict[str, Any]:
    return line(response=f"answer {number}", user_id=f"u{number}", **more)


def fill(folder: Path) -> None:
    """Write small files of every kind, some of them damaged, some copies of others."""
    folder.mkdir()
    for number in range(6):
        write(folder / f"{number}.jsonl", raw(said(number)))
    long = said(10, messages=[{"role": "user", "content": "why? " * 600}])
    write(folder / "a-thumbs.jsonl", raw(said(11, signals={"thumbs": "down"}), said(12, consent=False)))
    write(folder / "b-broken.jsonl", b"no log\n" + raw(said(13)))
    write(folder / "c-document.json", json.dumps(said(14), indent=1).encode())
    write(folder / "d-documents.json", json.dumps([said(15), {"x": 1}, said(16)]).encode())
    write(folder / "e-packed.jsonl.gz", gzip.compress(raw(said(17, messages=[{"role": "user", "content": "mail ann@example.com"}]))))
    write(folder / "f-cut.jsonl.gz", gzip.compress(raw(said(18)) * 40)[:-20])
    write(folder / "g-empty.jsonl", b"")
    write(folder / "h-bomb.jsonl.gz", gzip.compress(bytes(HIDDEN["bomb"])))
    write(folder / "i-copy.jsonl", raw(said(0)))
    write(folder / "j-long.jsonl", raw(long))
    write(folder / "k-longer.jsonl", raw(long, said(19)))
    write(folder / "l-copy-of-broken.jsonl", b"no log\n" + raw(said(13)))
    write(folder / "m-all-broken.jsonl", b"no log at all\n" * 25)
    write(folder / "n-future.jsonl", raw(said(20, created_at="2999-01-01T00:00:00Z")))
    write(folder / "o-old.jsonl", raw(said(21, created_at="1990-01-01T00:00:00Z")))
    write(folder / "p-unfinished.jsonl", raw(said(22))[:-30])
    write(folder / "q-latin.jsonl", raw(said(23)).replace(b"answer", b"r\xe9ponse"))
    pq.write_table(pa.table({key: [value, value] for key, value in said(24).items() if isinstance(value, str | bool)}
                            | {"messages": [said(24)["messages"]] * 2}), folder / "r-rows.parquet")  # fmt: skip
    write(folder / "s-rows.csv", b"prompt,response\nwhy?,because\nhow?,so,too\n")


def stored(home: Path, folder: Path) -> dict[str, list[Any]]:
    """Return what the store holds of the files in `folder`, but for times and addresses that differ with where they lie."""
    names = {row["id"]: Path(row["path"]).name for row in query(home, "SELECT id, path FROM source_files ORDER BY path DESC")}
    rows = query(
        home,
        "SELECT parse_filename(path) AS name, id, source, bytes, max(end_offset) AS end, max(last_line) AS last_line, min(head) AS head, "
        "arg_max(sha256, end_offset) AS sha256, bool_or(finished) AS finished, sum(rows_read) AS read, sum(rows_stored) AS stored, "
        "sum(rows_duplicate) AS duplicate, sum(rows_quarantined) AS quarantined, sum(rows_redacted) AS redacted, "
        "sum(rows_skipped) AS skipped FROM source_files GROUP BY ALL ORDER BY name",
    )
    tables = {
        "files": [{**row, "id": names[row["id"]]} for row in rows],
        "interactions": query(
            home, "SELECT source_file, * EXCLUDE (id, source_file, ingested_at, created_at), id FROM interactions ORDER BY response"
        ),
        "signals": query(
            home, "SELECT kind, value, response FROM signals JOIN interactions ON interactions.id = interaction_id ORDER BY ALL"
        ),
        "quarantine": query(home, "SELECT source_file, line_number, record_number, reason, detail, raw, user_id FROM quarantine"),
    }
    for table in ("interactions", "quarantine"):
        tables[table] = [{**row, "source_file": names[row["source_file"]], "id": ""} for row in tables[table]]
    tables["quarantine"].sort(key=str)
    aside = query(home, "SELECT parse_filename(path) AS name, kind, replace(reason, ?, '') AS reason FROM open_set_aside", [str(folder)])
    return {**tables, "set aside": sorted(aside, key=str)}


def test_together_and_alone_files_have_the_same_fate(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for way, few in (("together", 1), ("alone", 1000)):
        here = home / way
        here.mkdir()
        (here / "redaction.key").write_text("k" * 64)
        monkeypatch.setenv("ALIGN_HOME", str(here))
        monkeypatch.setattr(flow, "_FEW", few)
        fill(here / "logs")
        source = make_source("logs", [str(here / "logs" / "*")], "gateway", {})
        total = night(here, source).total
        sums = [total, stored(here, here / "logs")]
        assert night(here, source).total.stored == 0
        found.append([*sums, stored(here, here / "logs")])
    assert found[0] == found[1]
    total, first, _ = found[0]
    assert [one["name"] for one in first["set aside"]] == ["f-cut.jsonl.gz", "m-all-broken.jsonl"]
    assert {one["source_file"] for one in first["quarantine"]} >= {"b-broken.jsonl", "n-future.jsonl", "h-bomb.jsonl.gz", "o-old.jsonl"}
    assert total.read == total.stored + total.duplicate + total.quarantined + total.skipped
    assert (total.stored, total.duplicate) == (len(first["interactions"]), 1)


def test_what_lands_together_is_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "logs"
    folder.mkdir()
    for number in range(30):
        write(folder / f"{number:02d}.jsonl", raw(*[said(100 * number + each) for each in range(4)]))
    monkeypatch.setattr(landing, "_TOGETHER", 7)
    monkeypatch.setattr(landing, "BLOCK_ROWS", 15)
    sizes = []
    real = read_files.merge

    def counted(*arguments: Any, **more: Any) -> Any:
        sizes.append(len(arguments[2].parts))
        return real(*arguments, **more)

    monkeypatch.setattr(read_files, "merge", counted)
    assert night(home, make_source("logs", [str(folder / "*")], "gateway", {})).total.stored == 120
    assert sum(sizes) == 30
    assert max(sizes) == 4


def test_a_run_that_dies_between_two_lots_goes_on_without_loss(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "logs"
    fill(folder)
    monkeypatch.setattr(landing, "_TOGETHER", 4)
    source = make_source("logs", [str(folder / "*")], "gateway", {})
    calm = home / "calm"
    calm.mkdir()
    shutil.copy(redaction_key_of(home), calm)
    monkeypatch.setenv("ALIGN_HOME", str(calm))
    night(calm, source)
    monkeypatch.setenv("ALIGN_HOME", str(home))
    real, left = read_files.merge, 3

    def dying(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    with monkeypatch.context() as dies:
        dies.setattr(read_files, "merge", dying)
        with pytest.raises(KeyboardInterrupt):
            night(home, source)
    assert 0 < len(stored(home, folder)["interactions"]) < len(stored(calm, folder)["interactions"])
    night(home, source)
    assert stored(home, folder) == stored(calm, folder)


def redaction_key_of(home: Path) -> Path:
    migrate(home)
    read_context(Settings(home=home))
    return home / "redaction.key"


def test_a_quarantined_line_of_a_small_file_is_read_again_from_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "logs"
    folder.mkdir()
    for number in range(10):
        write(folder / f"{number}.jsonl", raw(said(number, messages=[{"role": "user", "content": "why? " * (500 if number == 7 else 1)}])))
    source = make_source("logs", [str(folder / "*")], "gateway", {})
    monkeypatch.setenv("ALIGN_INGEST__MAX_LINE_BYTES", "1024")
    assert night(home, source).total[:4] == (10, 9, 0, 1)
    [row] = query(home, "SELECT path, line_number, reason FROM quarantine JOIN source_files ON source_files.id = source_file")
    assert (Path(row["path"]).name, row["line_number"], row["reason"]) == ("7.jsonl", 1, "too_long")
    monkeypatch.delenv("ALIGN_INGEST__MAX_LINE_BYTES")
    context = read_context(load_settings())
    outcomes = replay(
        home, {"logs": source}, lambda parsed, name: check_block(parsed, name, context.now).rejected, context, reason=None, source=None
    )
    assert outcomes == {"stored": 1}
    assert query(home, "SELECT count(*) AS n FROM interactions") == [{"n": 10}]


def test_one_line_says_nothing_of_a_file_but_all_of_thirty_files_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "logs"
    folder.mkdir()
    for number in range(30):
        write(folder / f"{number}.jsonl", raw({"prompt": f"why {number}?", "response": f"because {number}"}))
    wrong, right = (make_source("logs", [str(folder / "*")], preset, {}) for preset in ("gateway", "prompt_response"))
    [problem] = night(home, wrong).problems
    assert "none of 30 records in 30 small files of 'logs' can be used" in str(problem)
    assert len(query(home, "FROM open_set_aside")) == 30
    read = night(home, right)
    assert (read.total.stored, read.problems, query(home, "FROM open_set_aside")) == (30, [], [])
    assert query(home, "FROM open_quarantine") == []
    capsys.readouterr()


def test_files_that_begin_alike_have_ids_of_their_own_once_they_were_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "logs"
    folder.mkdir()
    for number in range(30):
        write(folder / f"{number}.jsonl", raw({"prompt": "why? " * 300, "response": f"because {number}"}))
    wrong, right = (make_source("logs", [str(folder / "*")], preset, {}) for preset in ("gateway", "prompt_response"))
    assert len(night(home, wrong).problems) == 1
    assert night(home, right).total.stored == 30
    assert len(query(home, "SELECT id FROM source_files GROUP BY id HAVING max(end_offset) > 0")) == 30
    assert query(home, "FROM open_quarantine") == []
    capsys.readouterr()


def test_two_files_that_go_on_from_one_are_two(home: Path) -> None:
    folder = home / "logs"
    folder.mkdir()
    source = make_source("logs", [str(folder / "*")], "gateway", {})
    write(folder / "0.jsonl", raw(said(0)))
    night(home, source)
    for number in range(10):
        write(folder / f"{number}.jsonl", raw(said(0), said(1 + number)))
    assert night(home, source).total.stored == 10
    assert len(query(home, "SELECT DISTINCT id FROM source_files")) == 10


def test_a_cut_object_takes_no_line_from_those_that_begin_alike(home: Path) -> None:
    folder = home / "logs"
    folder.mkdir()
    source = make_source("logs", [str(folder / "*")], "gateway", {})
    write(folder / "0.jsonl", raw(said(0))[:20])
    for number in range(1, 10):
        write(folder / f"{number}.jsonl", raw(said(number)))
    read = night(home, source).total
    assert (read.stored, read.quarantined, night(home, source).total.read) == (9, 1, 0)


def test_what_is_no_exchange_stops_only_a_source_that_never_gave_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALIGN_CHECKS__MIN_ROWS", "20")
    folder = home / "logs"
    folder.mkdir()
    source = make_source("logs", [str(folder / "*")], "otel", {})

    def metrics(hour: int) -> None:
        for number in range(30):
            write(folder / f"{hour}-{number}.jsonl", raw({"resourceMetrics": [{"hour": hour, "number": number}]}))

    metrics(1)
    read = night(home, source)
    assert (len(read.problems), read.total.read, read.keys["logs"]) == (1, 0, frozenset())
    for path in folder.iterdir():
        path.unlink()
    write(folder / "0.jsonl", raw(*otlp_calls()))
    assert night(home, source).total.stored == 1
    metrics(2)
    capsys.readouterr()
    read = night(home, source)
    assert (read.total.read, read.total.skipped, read.problems, aside(home)) == (30, 30, [], {"1": 30})
    told = capsys.readouterr().err
    assert "none of 30 records in small files of 'logs' is an exchange" in told
    for number in range(30):
        write(folder / f"3-{number}.jsonl", f"no log {number}\n".encode())
    metrics(4)
    read = night(home, source)
    assert (read.total.read, aside(home)) == (30, {"1": 30, "3": 30})
    capsys.readouterr()


def aside(home: Path) -> dict[str, int]:
    names = query(home, "SELECT split_part(parse_filename(path), '-', 1) AS name, count(*) AS n FROM open_set_aside GROUP BY ALL")
    return {row["name"]: row["n"] for row in names}


def otlp_calls() -> list[dict[str, Any]]:
    from tests.test_joined_calls import answer, question

    return [question("aa"), answer("aa")]


def test_what_anybody_can_write_keeps_no_small_file_out(home: Path) -> None:
    folder = home / "logs"
    folder.mkdir()
    for number in range(30):
        write(folder / f"{number}.jsonl", raw(said(number, messages=[{"role": "user", "content": " "}])))
    read = night(home, make_source("logs", [str(folder / "*")], "gateway", {}))
    assert (read.total.quarantined, read.problems, query(home, "FROM open_set_aside")) == (30, [], [])


def test_an_agents_span_does_not_hide_a_call_in_another_file(home: Path) -> None:
    from tests.test_cases_ingest import otlp

    def span(operation: str, answer: str) -> dict[str, Any]:
        texts = {"gen_ai.operation.name": operation}
        messages = {"input": [{"role": "user", "parts": [{"type": "text", "content": "why?"}]}],
                    "output": [{"role": "assistant", "parts": [{"type": "text", "content": answer}]}]}  # fmt: skip
        texts |= {f"gen_ai.{name}.messages": json.dumps(value) for name, value in messages.items()}
        pairs = [{"key": key, "value": {"stringValue": value}} for key, value in texts.items()]
        return {"traceId": "t", "spanId": answer, "startTimeUnixNano": "1760000000000000000", "attributes": pairs}

    folder = home / "logs"
    folder.mkdir()
    for number in range(8):
        write(folder / f"{number}.jsonl", raw(otlp(span("invoke_agent" if number == 0 else "chat", f"because {number}"))))
    assert night(home, make_source("logs", [str(folder / "*")], "otel", {})).total.stored == 8


@pytest.mark.parametrize("answer", ["fails", "ignores ranges"])
def test_a_store_that_answers_otherwise_costs_its_files_only(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    from types import SimpleNamespace

    said_deadlines = []

    def cat_ranges(urls: list[str], starts: list[int], ends: list[int], *, on_error: str, timeout: int) -> list[bytes]:
        said_deadlines.append(timeout)
        if answer == "fails":
            raise TimeoutError("no answer")
        return [b"x" * 100 for _ in urls]

    monkeypatch.setattr(files, "_file_system", lambda url: SimpleNamespace(async_impl=True, cat_ranges=cat_ranges))
    found = files.fetch([files.LogFile(f"s3://logs/{number}", 10, 0) for number in range(3)], 12)
    assert said_deadlines == [files._FETCH_SECONDS]
    if answer == "fails":
        assert [str(one) for one in found if isinstance(one, InputError)] == [
            f"cannot read the log file 's3://logs/{number}': no answer; check the file" for number in range(3)
        ]
    else:
        assert found == [b"x" * 12] * 3


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A real S3 server on loopback, in a process of its own."""
    pytest.importorskip("s3fs", reason="needs the extra s3")
    from bench.objects import served

    with served() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield environment


def only_reader(url: str) -> dict[str, str]:
    """Make a user who may read all objects but one, have the server enforce it, and return the user's credentials."""
    import boto3

    iam = boto3.client("iam", endpoint_url=url)
    iam.create_user(UserName="reader")
    rules = [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::logs/denied.jsonl"},
    ]
    iam.put_user_policy(
        UserName="reader", PolicyName="all but one", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": rules})
    )
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    request = urllib.request.Request(f"{url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"})
    urllib.request.urlopen(request, timeout=5).close()
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_one_bad_object_among_many_costs_itself(
    home: Path, bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import s3fs

    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.mkdir("logs")
    store.pipe({f"logs/{number:02d}.jsonl": raw(said(number)) for number in range(40)})
    store.pipe_file("logs/denied.jsonl", raw(said(42)))
    store.pipe({"logs/bomb.jsonl.gz": gzip.compress(bytes(HIDDEN["bomb"])), "logs/broken.jsonl": b"no log\n",
                "logs/cut.jsonl.gz": gzip.compress(raw(said(41)) * 50)[:-20], "logs/empty.jsonl": b""})  # fmt: skip
    for name, value in only_reader(bucket["AWS_ENDPOINT_URL"]).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    read = night(home, make_source("logs", ["s3://logs/*"], "gateway", {}))
    assert (read.total.stored, read.total.quarantined, read.problems) == (40, 2, [])
    aside = query(home, "SELECT parse_filename(path) AS name, kind FROM open_set_aside ORDER BY name")
    assert [(row["name"], row["kind"]) for row in aside] == [("cut.jsonl.gz", "unreadable"), ("denied.jsonl", "unreadable")]
    assert "permission denied; let the account that runs align read it" in capsys.readouterr().err
    assert len(find_files(["s3://logs/*"])) == 45
    capsys.readouterr()
