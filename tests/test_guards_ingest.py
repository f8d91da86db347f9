"""Guards through the real ingest: flags reach what a night chooses from, abstentions stay uncovered, nothing is paid twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import flows.ingest as flow
from alignment.candidates import HARMLESS
from alignment.candidates.select import CERTAIN
from alignment.config import load_settings
from alignment.errors import AlignError, ConfigError
from alignment.store import append, query, session, sql, store_path
from flows.guards import ask_guards, coverage, guard_names, try_guards
from tests.conftest import NOW, child_environment
from tests.guard_server import chat, guard_server
from tests.test_flow import align
from tests.test_ingest import raw, said, take

pytestmark = [pytest.mark.flow, pytest.mark.model, pytest.mark.timeout(900)]
FLAGGED, SAFE, GARBLED, SLOW, UNNAMED = (f"What is the capital of {land}?" for land in ("Norway", "Peru", "Kenya", "Japan", "Canada"))
ANSWERS: dict[str, Any] = {
    FLAGGED: chat("unsafe\nS9"),
    SAFE: chat("safe"),
    GARBLED: chat("It depends on whom you ask."),
    SLOW: 503,
    UNNAMED: chat("unsafe\nS8"),
}


def by_request(_: str, body: Any) -> Any:
    return next(answer for request, answer in ANSWERS.items() if body["messages"][0]["content"] == request)


def configure(folder: Path, url: str, **more: Any) -> None:
    values = {
        "kind": "openai",
        "preset": "llama_guard",
        "model": "m",
        "base_url": url,
        "retries": 0,
        "reads": ["request"],
        "concurrency": 1,
    }
    ignored = more.pop("ignored", "")
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in (values | more).items())
    labels = f'\nlabels = {{ {ignored} = "" }}' if ignored else ""
    (folder / "align.toml").write_text(f'[ingest]\nlogs = ["logs.jsonl"]\n[moderation.guards.lg]\n{lines}{labels}\n')


def lines(*requests: str) -> bytes:
    return raw(*(said(one, user_id=f"u{n}", conversation_id=f"c{n}") for n, one in enumerate(requests)))


@pytest.fixture
def without_prefect(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a flow's tasks be functions; one test goes through the command, Prefect and the real detectors."""
    monkeypatch.setenv("ALIGN_HOME", str(home))
    for name in ("moderate_new", "ask_guards", "redact_deeply", "read_file", "read_small_files"):
        monkeypatch.setattr(flow, name, getattr(flow, name).fn)


def ingest(home: Path, *requests: str) -> dict[str, int]:
    """Store requests as if the bundled detectors found them harmless, and ask the guards; return the guards' counts."""
    take(home, lines(*requests))
    rows = [
        {"interaction_id": row["id"], "detector": name, "version": "1", "score": 0.02, "flagged": False, "label": label, "detected_at": NOW}
        for row in query(home, "SELECT id FROM interactions")
        for name, label in (("harmful_request", "violence"), ("refusal", None), ("toxicity", None))
    ]
    with session(home, write=True) as connection:
        append(connection, "detections", rows, key=("interaction_id", "detector", "version"))
    return flow.ask_guards()


def pool(home: Path) -> dict[str, tuple[float, str]]:
    """Return score and category of what a night may choose from, by request, as `choose` reads it."""
    parameters = {"max_chars": 2000, "guards": guard_names(load_settings()), "harmless": HARMLESS}
    rows = query(home, sql("flows", "selection_pool"), parameters)
    return {json.loads(row["messages"])[0]["content"]: (row["harmful_request"], row["category"]) for row in rows}


def printed(output: str, opens: str) -> Any:
    """Return the JSON of a command's output; on a slow machine DuckDB draws a bar before it."""
    return json.loads(output[output.index(f"{opens}\n") :])


def scores(home: Path) -> dict[str, tuple[Any, ...]]:
    rows = query(
        home,
        "SELECT prompt, score, flagged, label FROM detections JOIN interactions ON id = interaction_id WHERE detector = 'guard:lg'",
    )
    return {row["prompt"]: (row["score"], row["flagged"], row["label"]) for row in rows}


def test_a_flag_reaches_the_pool_and_an_abstention_is_not_harmless(tmp_path: Path) -> None:
    """Every request here is harmless to the bundled detectors; only the guard's answers differ."""
    home = tmp_path / "home"
    (tmp_path / "logs.jsonl").write_bytes(lines(*ANSWERS))
    with guard_server(by_request) as server:
        configure(tmp_path, server.url)
        output, told = align(tmp_path, "home", "ingest", "--json", program="flows.cli")
        [counts] = printed(output, "[")
        status, _ = align(tmp_path, "home", "status", "--json", program="flows.cli")
    assert {name: counts[f"guards_{name}"] for name in ("flagged", "abstained", "uncovered")} == {
        "flagged": 2, "abstained": 2, "uncovered": 2,
    }  # fmt: skip
    assert "guard lg: 3 scored, 2 flagged, 2 abstained (unavailable 1, unreadable 1), 0 not asked yet" in told
    [row] = printed(status, "{")["guards"]
    assert (row["guard"], row["scored"], row["flagged"], row["abstained"], row["uncovered"]) == ("lg", 3, 2, 2, 2)
    assert scores(home) == {FLAGGED: (1.0, True, "weapons"), SAFE: (0.0, False, None), UNNAMED: (1.0, True, None)}
    labels = query(home, "SELECT prompt, label, hazard FROM guard_answers JOIN interactions ON interactions.id = interaction_id")
    assert {row["prompt"]: (row["label"], row["hazard"]) for row in labels}[FLAGGED] == ("S9", "iwp")

    found = pool(home)
    bundled = query(home, "SELECT max(score) AS score FROM detections WHERE detector = 'harmful_request'")[0]["score"]
    assert bundled < HARMLESS < CERTAIN
    assert found[FLAGGED] == (1.0, "weapons")
    assert found[SAFE][0] < HARMLESS
    # Neither harmless nor certain: what the guard did not score, and what it flags under no category of ours.
    assert found[GARBLED][0] == found[SLOW][0] == found[UNNAMED][0] == HARMLESS
    assert query(home, sql("flows", "night_counts"))[0]["flagged"] == 2
    # Without the guard in the settings, its flags do not count.
    (tmp_path / "align.toml").unlink()
    assert max(score for score, _ in pool(home).values()) < HARMLESS


@pytest.mark.usefixtures("without_prefect")
def test_only_what_has_no_final_answer_is_asked_again(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = [0]
    monkeypatch.setattr("flows.guards.now", lambda: NOW + timedelta(days=day[0]))
    with guard_server(by_request) as server:
        configure(tmp_path, server.url)
        ingest(home, *ANSWERS)
        first = len(server.bodies)
        asked = []
        for day[0] in (0, 1, 2, 3):
            before = len(server.bodies)
            ask_guards.fn()
            asked.append([body["messages"][0]["content"] for body in server.bodies[before:]])
        # The one that was unavailable on two more days, then nothing; several runs on a day are one try.
        assert first == 5 and asked == [[SLOW], [SLOW], [SLOW], []]
        # A guard of another version has scored nothing yet.
        configure(tmp_path, server.url, ignored="S8")
        before = len(server.bodies)
        ask_guards.fn()
        # Its answers are known, though: only what was never answered costs a call.
        assert [body["messages"][0]["content"] for body in server.bodies[before:]] == [SLOW]
    assert {row["version"] for row in query(home, "SELECT DISTINCT version FROM detections WHERE detector = 'guard:lg'")} == {
        name.split("@")[1] for name in guard_names(load_settings())
    } | {row["version"] for row in query(home, "SELECT version FROM guard_answers ORDER BY recorded_at LIMIT 1")}


@pytest.mark.usefixtures("without_prefect")
def test_an_outage_ends_the_asking_though_something_was_too_long(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.guards._ASKED_TOGETHER", 5)
    with guard_server(lambda *_: 503) as server:
        configure(tmp_path, server.url, max_chars=100)
        counts = ingest(home, "a" * 101, *(f"How do I boil {n} eggs?" for n in range(9)), "b" * 101)
    assert len(server.bodies) <= 3, "three failures in a row end it"
    assert "gives no answers tonight" in "".join(capsys.readouterr())
    kept = query(home, "SELECT outcome, count(*) AS n FROM guard_answers GROUP BY ALL")
    # What no call was made for is no try.
    assert {row["outcome"]: row["n"] for row in kept}["unavailable"] == len(server.bodies)
    assert counts["guards_uncovered"] == 11


@pytest.mark.usefixtures("without_prefect")
def test_a_broken_guard_leaves_the_others_at_work(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with guard_server(by_request) as server:
        configure(tmp_path, server.url)
        broken = '[moderation.guards.a]\nkind = "openai"\npreset = "gpt_oss_safeguard"\nmodel = "m"\n'
        with (tmp_path / "align.toml").open("a") as file:
            file.write(f'{broken}base_url = "{server.url}"\npolicy = "nowhere.md"\n')
        counts = ingest(home, FLAGGED, SAFE)
    told = "".join(capsys.readouterr())
    assert "the guard 'a' is not asked any more tonight" in told and "nowhere.md" in told
    assert scores(home) == {FLAGGED: (1.0, True, "weapons"), SAFE: (0.0, False, None)}
    assert (counts["guards_flagged"], counts["guards_uncovered"]) == (1, 2)
    rows = {row["guard"]: (row["uncovered"], "nowhere.md" in row["why"]) for row in coverage(load_settings())}
    assert rows == {"a": (2, True), "lg": (0, False)}
    # One guard's low score does not cover for the other.
    assert {request: score for request, (score, _) in pool(home).items()} == {FLAGGED: 1.0, SAFE: HARMLESS}


@pytest.mark.usefixtures("without_prefect")
def test_a_flag_on_the_answer_alone_makes_no_request_harmful(tmp_path: Path, home: Path) -> None:
    with guard_server(lambda _, body: chat("unsafe\nS9" if body["messages"][-1]["role"] == "assistant" else "safe")) as server:
        configure(tmp_path, server.url, reads=["request", "answer"])
        ingest(home, SAFE)
    assert scores(home)[SAFE] == (1.0, True, "weapons")
    assert pool(home) == {SAFE: (HARMLESS, "violence")}


@pytest.mark.usefixtures("without_prefect")
def test_a_killed_ingest_pays_no_call_twice(tmp_path: Path, home: Path) -> None:
    requests = [f"How do I boil {n} eggs?" for n in range(12)]
    slow = [0.3]

    def say(_: str, body: Any) -> Any:
        time.sleep(slow[0])
        return chat("safe")

    take(home, lines(*requests))
    with guard_server(say) as server:
        configure(tmp_path, server.url)
        code = "from flows.guards import ask_guards; ask_guards.fn()"
        process = subprocess.Popen([sys.executable, "-c", code], env=child_environment(), start_new_session=True)
        waited = time.monotonic()
        while len(server.bodies) < 4 and time.monotonic() - waited < 300:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert 4 <= len(server.bodies) < 12 and scores(home) == {}
        slow[0] = 0.0
        flow.ask_guards()
    sent = [body["messages"][0]["content"] for body in server.bodies]
    assert set(sent) == set(requests)
    # Only the call that was under way may have been made again.
    assert len(sent) <= 13 and len(scores(home)) == 12


@pytest.mark.usefixtures("without_prefect")
def test_the_rest_waits_for_the_calls_of_another_night(tmp_path: Path, home: Path) -> None:
    with guard_server(lambda *_: chat("safe")) as server:
        configure(tmp_path, server.url, calls_per_night=2)
        counts = ingest(home, *(f"How do I boil {n} eggs?" for n in range(5)))
    assert (counts["guards_uncovered"], counts["guards_abstained"]) == (3, 0)
    assert len(server.bodies) == 2 and sorted(score for score, _ in pool(home).values())[2:] == [HARMLESS] * 3


@pytest.mark.usefixtures("without_prefect")
def test_what_leaves_the_machine_had_the_deep_look_first(tmp_path: Path, home: Path) -> None:
    with guard_server(lambda *_: chat("safe")) as server:
        configure(tmp_path, server.url)
        ingest(home, "my passport is AB1234567, hers is not")
    assert "AB1234567" in query(home, "SELECT prompt FROM interactions")[0]["prompt"], "the fast rules leave it"
    assert len(server.bodies) == 1 and "AB1234567" not in str(server.bodies)


@pytest.mark.usefixtures("without_prefect")
def test_a_guard_without_its_key_stops_the_ingest_before_it_reads(tmp_path: Path, home: Path) -> None:
    (tmp_path / "logs.jsonl").write_bytes(lines(SAFE))
    configure(tmp_path, "http://127.0.0.1:9/v1", api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        flow.ingest.fn()
    assert not store_path(home).exists()


def test_the_doctor_asks_each_guard_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    assert try_guards(load_settings()) == "none is configured"
    with guard_server(lambda *_: chat("safe")) as server:
        configure(tmp_path, server.url)
        assert "lg: answers in" in try_guards(load_settings())
        assert "lg: answers in" in try_guards(load_settings())
        assert len(server.bodies) == 2
    with guard_server(lambda *_: chat("hm")) as server:
        configure(tmp_path, server.url)
        with pytest.raises(AlignError, match=r"lg: it gives no score \(unreadable\)"):
            try_guards(load_settings())
    with guard_server(lambda *_: 404) as server, pytest.raises(AlignError, match=r"lg: .*status 404; correct \[moderation.guards.lg\]"):
        configure(tmp_path, server.url)
        try_guards(load_settings())
