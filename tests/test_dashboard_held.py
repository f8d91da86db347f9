"""The review page shows what the gateway holds, and a reviewer decides it once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignment.store.held import HeldExchange, HeldExchanges
from tests.dashboard_pages import opened, press, texts


def hold(home: Path, name: str, *, answer: str = "", prompt: str = "<script>alert(1)</script> [x](http://evil)") -> None:
    record: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}], "gateway": {}}
    kept = {"choices": [{"index": 0, "text": answer, "tools": [["call_1", "look", "{}"]], "finish": "stop"}]} if answer else {}
    stage, at = "answer" if answer else "prompt", f"2026-11-30T10:00:0{name[-1]}.000+00:00"
    HeldExchanges(home).put(HeldExchange(name, at, "shop", stage, "doubtful-request", [record], {}, kept))


def gateway_view(reviewer: str = "Ada") -> Any:
    app = opened("review", reviewer=reviewer)
    app.session_state["review_view"] = "Gateway"
    return app.run()


def test_a_held_request_is_decided_once_by_who_is_signed_in(own: Path) -> None:
    first, second = "a" * 31 + "1", "b" * 31 + "2"
    hold(own, first)
    hold(own, second, answer="An answer.")
    app = gateway_view()
    assert "<script>" not in " ".join(markdown.value for markdown in app.markdown)
    assert any("alert(1)" in text for text in texts(app))
    press(app, "Let the model answer")
    item = HeldExchanges(own).get(first)
    assert item and (item.verdict, item.actor) == ("allow", "Ada")
    # The next one: an answer this time.
    assert any("An answer.\nlook {}" in text for text in texts(app))
    press(app, "Refuse")
    refused = HeldExchanges(own).get(second)
    assert refused and refused.verdict == "refuse"
    assert [said.value for said in app.success] == ["Refused; the client gets a refusal when it asks next."]
    assert any("holds nothing" in markdown.value for markdown in app.markdown)


def test_one_who_decided_first_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "c" * 31 + "3"
    hold(own, name)
    app = gateway_view()
    HeldExchanges(own).decide(name, "refuse", actor="Bea")
    press(app, "Let the model answer")
    assert any("Bea decided" in text for text in texts(app))
    item = HeldExchanges(own).get(name)
    assert item and item.verdict == "refuse"


def test_later_shows_the_next_one(own: Path) -> None:
    hold(own, "d" * 31 + "4", prompt="the first")
    hold(own, "e" * 31 + "5", prompt="the second")
    app = gateway_view()
    press(app, "Later")
    assert any("the second" in text for text in texts(app)) and len(HeldExchanges(own).waiting()) == 2
