"""The gateway's page reads the gateway's own log: what was done, which rules fired, which checks failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from dashboard import gateway_data
from tests.dashboard_pages import opened, texts
from tests.gateway_server import garbage, gateway
from tests.test_dashboard_held import hold
from tests.test_gateway import ANSWERS, REFUSE, policy

REWRITE = {**ANSWERS, "action": "rewrite"}


def write(home: Path, name: str, lines: list[Any]) -> None:
    folder = home / "gateway" / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"".join(line if isinstance(line, bytes) else orjson.dumps(line) + b"\n" for line in lines))


def line(at: datetime, action: str, **more: Any) -> dict[str, Any]:
    about = {"action": action, "findings": [], "milliseconds": 100.0} | more
    return {"created_at": at.isoformat(timespec="milliseconds"), "messages": [], "response": "x", "gateway": about}


def file_of(at: datetime) -> str:
    return f"exchanges-{at:%Y%m%dT%H}-1-1.jsonl"


def tiles(app: Any) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_what_a_real_gateway_did_is_shown(own: Path) -> None:
    broken = {"stage": "answer", "check": "toxicity", "action": "refuse", "fail_open": True}
    watched = {"stage": "answer", "check": "secrets", "action": "redact", "mode": "monitor"}
    with gateway(own, policy(REFUSE, REWRITE, broken, watched)) as gate:
        gate.spoil("toxicity", garbage)
        gate.spoil("secrets", garbage)
        assert gate.chat("HARM").status_code == 200
        assert [gate.chat("say: fine").status_code for _ in range(3)] == [200] * 3
        gate.scripted.text = lambda _: "HARM"  # type: ignore[method-assign]
        assert gate.chat("x").json()["choices"][0]["finish_reason"] == "content_filter"
        gate.scripted.how = "down"
        assert gate.chat("x").status_code == 502
    app = opened("gateway")
    assert not app.exception
    # A rewrite that was no better was refused.
    assert tiles(app) | {"Time": ""} == {"Exchanges": "6", "Refused": "2", "Rewritten": "0", "Held": "0", "No answer": "1", "Time": ""}
    assert ["4 times a check failed, and its rule let the text pass" in error.value for error in app.error] == [True] and not app.warning
    [table] = [frame.value for frame in app.dataframe]
    assert set(zip(table["Check"], table["Fired"], table["Check failed"], strict=True)) == {
        ("harmful_request", "1", "0"), ("harmful_answer", "1", "0"), ("toxicity", "0", "4"), ("secrets", "0", "4"),
    }  # fmt: skip


def test_only_the_last_day_is_read_and_damaged_lines_cost_nothing(own: Path) -> None:
    now = datetime.now(UTC)
    write(own, file_of(now - timedelta(hours=30)), [line(now - timedelta(hours=30), "refuse")])
    write(
        own,
        file_of(now),
        [b'{"half a li\n', b"\xff\xfe\n", b"7\n", line(now, "allow"), {"created_at": "never", "gateway": {"action": "allow"}}],
    )
    app = opened("gateway")
    assert not app.exception and tiles(app)["Exchanges"] == "2" and tiles(app)["Refused"] == "0"


@pytest.mark.parametrize("lines", [[], [b"{half a line"]])
def test_a_log_without_a_line_is_no_day(own: Path, lines: list[Any]) -> None:
    write(own, file_of(datetime.now(UTC)), lines)
    app = opened("gateway")
    assert not app.exception and any("Nothing was logged" in markdown.value for markdown in app.markdown)


def test_more_than_can_be_read_is_said(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    monkeypatch.setattr(gateway_data, "_MOST_BYTES", 100)
    for hour in (0, 1):
        write(own, file_of(now - timedelta(hours=hour)), [line(now, "allow")])
    app = opened("gateway")
    assert tiles(app)["Exchanges"] == "1" and any("newest files" in warning.value for warning in app.warning)


def test_a_rule_with_a_hostile_name_is_text(own: Path) -> None:
    now = datetime.now(UTC)
    finding = {
        "rule": "<img src=x onerror=alert(1)> [x](http://e)",
        "check": "toxicity",
        "action": "refuse",
        "mode": "enforce",
        "error": "hangs",
    }
    write(own, file_of(now), [line(now, "allow", findings=[finding | {"enforced": False}])])
    app = opened("gateway")
    assert any("onerror" in text for text in texts(app)) and not any("onerror" in error.value for error in app.error)


def test_before_the_first_night_the_page_shows_what_is_held(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.data.has_store", lambda: False)
    hold(own, "a" * 31 + "1")
    app = opened("gateway")
    assert not app.exception and any("1 wait for a person" in caption.value for caption in app.caption)
