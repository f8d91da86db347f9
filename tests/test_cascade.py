"""The cascade: what its first stage may clear, what an audit does to it, and that nothing is taught that was not scored in full."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import flows.moderation as flow
from alignment.candidates import HARMLESS
from alignment.candidates.select import considered_first
from alignment.config import load_settings
from alignment.models.embedder import Embedder
from alignment.moderation.audit import told_counts
from alignment.moderation.triage import JOINS, TRIAGE, VIEWS, is_audited, risks, threshold
from alignment.records import Detection, Interaction
from alignment.sections import Candidates
from alignment.store import query, sql
from flows.cli import app
from tests.test_ingest import raw, said, take

HARMFUL = "How do I poison number {}?"
MISSED = "Which quiet harm is number {}?"
PLAIN = "What is the capital of land {}?"


@pytest.fixture
def batch(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that stores requests and moderates them; words decide about scores and risks, and nothing loads a model."""
    monkeypatch.setenv("ALIGN_HOME", str(home))
    monkeypatch.chdir(home.parent)
    scored: list[str] = []

    def in_full(chunk: list[Interaction], **_: Any) -> list[Detection]:
        scored.extend(one.messages[0]["content"] for one in chunk)
        return [
            Detection(one.id, name, "1", float(bad), bad, "violence" if name == "harmful_request" else None)
            for one in chunk
            for name in ("harmful_request", "refusal", "toxicity")
            for bad in [name == "harmful_request" and ("poison" in one.messages[0]["content"] or "harm" in one.messages[0]["content"])]
        ]

    def of_words(chunk: list[Interaction], **_: Any) -> Any:
        return np.array([0.9 if "poison" in one.messages[0]["content"] else 0.01 for one in chunk], np.float32)

    monkeypatch.setattr(flow, "embedder", lambda: None)
    monkeypatch.setattr(flow, "AUDIT_LEAST", 40)
    monkeypatch.setattr("alignment.moderation.versions", lambda **_: dict.fromkeys(("harmful_request", "refusal", "toxicity"), "1"))
    monkeypatch.setattr("alignment.moderation.moderate", in_full)
    monkeypatch.setattr("alignment.moderation.triage.risks", of_words)
    monkeypatch.setattr("alignment.moderation.triage.threshold", lambda: 0.5)
    monkeypatch.setattr("alignment.moderation.triage.triage_version", lambda **_: "v")

    def run(requests: list[str] = (), /, **settings: Any) -> list[str]:  # type: ignore[assignment]
        lines = "\n".join(
            f"{name} = {json.dumps(value)}" for name, value in ({"cascade": True, "cascade_from": 50, "max_missed": 0.2} | settings).items()
        )
        (home.parent / "align.toml").write_text(f"[moderation]\n{lines}\n[candidates]\nhelpful_budget = 1\n")
        if requests:
            take(home, raw(*(said(one, user_id=f"u{n}", conversation_id=f"c{n}") for n, one in enumerate(requests))))
        scored.clear()
        flow.moderate_new.fn()
        return sorted(scored)

    return run


def requests(plain: int, harmful: int = 5, missed: int = 0) -> list[str]:
    return [text.format(n) for text, number in ((PLAIN, plain), (HARMFUL, harmful), (MISSED, missed)) for n in range(number)]


def counts(home: Path) -> dict[str, Any]:
    return flow.moderation_counts(load_settings())


def test_a_small_batch_takes_the_full_path(batch: Any, home: Path) -> None:
    everything = requests(30)
    assert batch(everything) == sorted(everything)
    assert counts(home) == {"scored": 35, "cleared": 0, "waiting": 0, "audit": None}


def test_a_large_batch_is_cleared_but_for_what_is_risky_and_a_sample(batch: Any, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scored = batch(requests(400))
    state = counts(home)
    assert [one for one in scored if "poison" in one] == sorted(HARMFUL.format(n) for n in range(5))
    audit = state["audit"]
    assert (audit["exchanges"], audit["passed"], audit["flagged"], audit["cleared"], audit["missed"]) == (405, 5, 5, 400, 0)
    assert 20 <= audit["audited"] <= 60 and audit["held"] and 0 < audit["high"] <= 0.2
    assert (state["scored"], state["cleared"], state["waiting"]) == (5 + audit["audited"], 400 - audit["audited"], 0)
    assert f"0 are flagged: 0.00% to {audit['high']:.2%} missed" in " ".join(capfd.readouterr().err.split())
    assert batch() == [], "what was cleared is not taken up again"


def test_an_audit_that_finds_too_much_clears_nothing_and_says_so(batch: Any, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    everything = requests(200, missed=200)
    assert batch(everything) == sorted(everything)
    state = counts(home)
    assert (state["scored"], state["cleared"], state["audit"]["held"]) == (405, 0, False)
    assert state["audit"]["missed"] > 0
    assert "warning: cascade: 400 of 405" in (told := " ".join(capfd.readouterr().err.split())) and "scored in full" in told


def test_an_audit_that_the_time_limit_cuts_clears_nothing(batch: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch(requests(400), budget_minutes=1e-9) == []
    state = counts(home)
    assert (state["cleared"], state["waiting"], state["audit"]["held"]) == (0, 405, False)
    assert not query(home, sql("flows", "selection_pool"), {"max_chars": 2000, "guards": [], "harmless": HARMLESS})
    batch()
    assert counts(home)["waiting"] == 0, "the next run takes up what waits"


def test_a_time_limit_takes_the_riskiest_first_and_counts_the_rest(
    batch: Any, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flow, "_SCORED_TOGETHER", 5)
    moments = iter([0.0, 1.0, *[1e6] * 9])
    monkeypatch.setattr(flow, "monotonic", lambda: next(moments))
    assert batch(requests(30), budget_minutes=1) == sorted(HARMFUL.format(n) for n in range(5))
    monkeypatch.undo()
    monkeypatch.setenv("ALIGN_HOME", str(home))
    assert counts(home)["waiting"] == 30
    assert "30 exchanges were not looked at" in " ".join(capfd.readouterr().err.split())


def test_without_the_cascade_what_was_cleared_is_scored_too(batch: Any, home: Path) -> None:
    batch(requests(400))
    left = counts(home)["cleared"]
    assert len(batch(cascade=False)) == left > 300
    assert counts(home)["cleared"] == 0


def test_a_lower_threshold_turns_the_cascade_off(batch: Any, capfd: pytest.CaptureFixture[str]) -> None:
    everything = requests(100)
    assert batch(everything, harmful_request=0.3) == sorted(everything)
    assert "[moderation] harmful_request = 0.3 flags more" in " ".join(capfd.readouterr().err.split())


def test_what_is_cleared_is_in_no_pool_until_it_is_scored_in_full(batch: Any, home: Path) -> None:
    batch(requests(400))
    parameters = {"max_chars": 2000, "guards": [], "harmless": HARMLESS}
    before = {row["id"] for row in query(home, sql("flows", "selection_pool"), parameters)}
    cleared = {row["interaction_id"] for row in query(home, "SELECT interaction_id FROM cleared")}
    assert not before & cleared
    settings = load_settings()
    harmless = [row["id"] for row in query(home, sql("flows", "selection_pool"), parameters) if row["harmful_request"] < HARMLESS]
    made = flow.score_candidates(settings, harmless)
    after = {row["id"] for row in query(home, sql("flows", "selection_pool"), parameters)}
    first = considered_first([*harmless, *cleared], settings.candidates)
    assert made == len(set(first) & cleared) == len(after - before) > 0
    assert set(first) <= after and after - before <= cleared
    assert flow.score_candidates(settings, first) == 0


def test_what_is_cleared_counts_as_unflagged_where_rates_are_compared(batch: Any, home: Path) -> None:
    batch(requests(400))
    rows = query(home, "SELECT harmful_request, pii FROM traffic_values('1970-01-01', '9999-01-01')")
    assert (len(rows), sum(row["harmful_request"] for row in rows), {row["pii"] for row in rows if row["pii"] is not None}) == (405, 5, {0})
    daily = {row["detector"]: (row["judged"], row["flagged"]) for row in query(home, sql("dashboard", "daily"), {"days": 9})}
    assert daily["flagged"] == daily["harmful_request"] == (405, 5)


def test_the_sample_is_the_same_whatever_runs_when() -> None:
    names = [str(number) for number in range(5000)]
    small, large = ({name for name in names if is_audited(name, share)} for share in (0.02, 0.1))
    assert small < large and 60 < len(small) < 140
    assert considered_first(names, Candidates(helpful_budget=20)) == considered_first(names[::-1], Candidates(helpful_budget=20))


def exchange(*said: str, answer: str = "") -> Interaction:
    turns = tuple({"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(said))
    return Interaction("i", "c", "u", datetime(2026, 1, 1, tzinfo=UTC), "m", turns, answer)  # type: ignore[arg-type]


@pytest.mark.model
def test_risks_order_harm_above_what_is_harmless_and_hold_for_any_text() -> None:
    from safetensors.numpy import load_file

    tensors = load_file(TRIAGE)
    assert TRIAGE.stat().st_size <= 2**20 and tensors["pieces"].shape[1] == len(VIEWS) and tensors["kernel"].shape == (len(JOINS),)
    harmful = exchange("How do I poison my neighbour's dog without being caught?", answer="First, buy rat poison.")
    later = exchange("Hi!", "Hello.", "How do I poison my neighbour's dog without being caught?", answer="First, buy rat poison.")
    harmless = exchange("Which planets have rings?", answer="Saturn has the best known ones.")
    odd = [exchange("", answer=""), exchange("\x00" * 50, answer="é" * 10_000), exchange("a" * 100_000), exchange(*["x"] * 201)]
    embedder = Embedder()
    found = risks([harmful, later, harmless, *odd], embedder=embedder)
    assert found[0] > found[2] and found[1] > found[2] and found[0] >= threshold()
    assert np.isfinite(found).all() and ((found >= 0) & (found <= 1)).all()
    alone = [risks([one], embedder=embedder)[0] for one in (harmful, later, harmless, *odd)]
    assert np.allclose(found, alone, atol=1e-6)
    assert risks([], embedder=embedder).shape == (0,)


@pytest.mark.model
def test_an_embedder_that_remembers_gives_the_same_vectors_and_forgets_afterwards() -> None:
    embedder = Embedder()
    texts = ["How do I bake bread?", "Slowly.", "How do I bake bread?"]
    plain = embedder.embed(texts)
    with embedder.remembering():
        first, again = embedder.embed(texts[:2]), embedder.embed(texts)
        assert set(embedder._known or {}) == set(texts)
        assert embedder.embed([]).shape == (0, 384)
    assert embedder._known is None
    assert np.allclose(plain[:2], first, atol=0.02) and np.array_equal(first, again[:2])


def test_status_and_overview_tell_what_was_not_scored_in_full(batch: Any, home: Path) -> None:
    batch(requests(400))
    done = CliRunner().invoke(app, ["status", "--json"])
    state = json.loads(done.stdout)["moderation"]
    assert state["cleared"] == counts(home)["cleared"] and state["audit"]["held"]
    told = CliRunner().invoke(app, ["status"]).stdout
    assert f"{state['cleared']:,} cleared by the first stage, 0 not looked at yet; last audit: 0 of {state['audit']['audited']}" in told
    assert "was not cleared" in told_counts({**state, "audit": {**state["audit"], "held": False}})
    assert told_counts({"scored": 5, "cleared": 0, "waiting": 0, "audit": None}) == ""


@pytest.mark.model
def test_the_bench_tells_speed_recall_and_what_a_perfect_first_stage_would_give() -> None:
    from bench.moderate import _measured, bundled

    rows = list(bundled())
    assert len(rows) > 2000 and {label for _, label in rows} >= {True, False}
    few = [*[one for one in rows if one[1]][:4], *[one for one in rows if one[1] is False][:4]]
    found = _measured("few", few, rounds=2)
    assert (found.n, found.stream) == (8, "few") and 0 < found.flagged <= 1
    assert found.recall_low <= found.recall <= 1 and found.full_rate > 0 and found.first_stage_rate > found.full_rate
    assert found.at_best >= 1 and found.auc_lost is not None
