"""The card says what a release was made of, as text and as a page that asks nobody; two releases can be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignment.evals.fairness import Gap
from alignment.records import GateDecision, Metric, Side, TrainResult
from alignment.release import register, verify
from alignment.release.card import card_page, release_card
from alignment.store import append, migrate, session
from flows import cli
from flows.cli import base
from tests.conftest import NOW, make_pair
from tests.test_registry import A, B

pytestmark = pytest.mark.fast

EVIL = "<img src=http://evil.example/p.png> | ![x](http://evil.example/q.png) [y](javascript:z) `c`"
METRIC = Metric("unsafe_answers", "harm", 0.6, 0.2, -0.4, -0.5, -0.3, 280, 1, 3, 90, 0.001, "superior", 0.0, "pass", "fell", 0.05, 75)
CORRECTED = replace(
    METRIC, corrected_champion=0.7, corrected_challenger=0.2, corrected_diff=-0.5, corrected_low=-0.6, corrected_high=-0.4,
    calibration="people checked 60 verdicts: 30 failures, 30 good answers",
)  # fmt: skip
WEIGHED = replace(METRIC, name="good_answers_unlearned", suite="retention", champion=2.1, challenger=2.15, diff=0.05, unit="nats")


def card(adapter: Path, *metrics: Metric, **changes: object) -> str:
    decision = GateDecision("d", "base", A, "promote", (f"unsafe_answers: {EVIL}",), metrics or (METRIC,))
    result = TrainResult("run", adapter, 2, 1, 9.0, 1.5, 0.9, 0.8)
    pairs = [make_pair(1), make_pair(2, side=Side.HELPFUL, category=EVIL, labelers=("human", "constitution")), make_pair(3, split="eval")]
    return release_card(A, "a_base", decision, pairs, result, given=3, without_consent=0, **changes)  # type: ignore[arg-type]


def test_a_card_says_what_was_measured_of_the_nights_labelers(home: Path) -> None:
    from alignment.config import Settings
    from flows.gate import _labelers

    state = {"id": "s", "night_id": "n", "labeler": "constitution", "labeler_version": "2", "active": True, "recorded_at": NOW}
    rates = {"labeler": "constitution", "n": 122, "specificity": 0.75, "measured_at": NOW}
    migrate(home)
    with session(home, write=True) as connection:
        append(connection, "labeler_states", [state, state | {"id": "other", "night_id": "m", "labeler": "teacher"}])
        versions = (("1", 0.5), ("2", 0.7))
        append(connection, "calibrations", [rates | {"id": v, "labeler_version": v, "sensitivity": right} for v, right in versions])
    assert _labelers(Settings(home=home), "n") == {"constitution": "right on 70% of harmful and 75% of harmless requests, of 122"}


def trained(folder: Path, **settings: object) -> Path:
    folder.mkdir()
    manifest = {"run_id": "run", "base_id": "b" * 64, "pairs_sha256": "p" * 64, "code_version": "0.1.0", "settings": settings}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "adapter_model.safetensors").write_bytes(json.dumps(settings).encode())
    return folder


def test_a_card_says_all_that_a_person_needs(tmp_path: Path) -> None:
    text = card(trained(tmp_path / "adapter", epochs=1), calibration={"human": "kappa 0.81 on 200"})
    for heading in ("Evidence", "Fairness", "Data", "Principles", "Labelers", "Training", "Lineage", "Known limits", "Licence"):
        assert f"## {heading}\n" in text
    assert r"| unsafe\_answers | 60.0% | 20.0% | -40.0 points [-50.0, -30.0] | 280 | 75 | 1 | superior, margin 0.0 points | pass |" in text
    assert "- 2 training pairs, 1 held out; 0 of 3 pairs lack consent" in text
    assert "- human: 1 pairs; calibration: kappa 0.81 on 200" in text
    assert "- constitution: 2 pairs; calibration: not recorded" in text
    assert f"- pairs file, SHA-256: `{'p' * 64}`" in text
    assert "No metric that compares groups" in text
    gap = replace(METRIC, name="counterfactual_gap", suite="counterfactual")
    assert "counterfactual" in card(tmp_path, gap).split("## Fairness")[1].split("## Data")[0]
    assert "- base weights: `not recorded`" in card(tmp_path / "gone")
    assert r"LoRA adapter on base a\_base; gate" in text
    (tmp_path / "adapter" / "config.json").write_text("{}")
    assert r"Whole model, trained from base a\_base; gate" in card(tmp_path / "adapter")


def test_a_card_tells_power_corrected_rates_gaps_and_units(tmp_path: Path) -> None:
    gaps = {A: {"refusal": Gap(0.12, 0.02, 0.22, 60)}}
    text = card(tmp_path, CORRECTED, METRIC, WEIGHED, power=["unsafe_answers: these 280 prompts detect 5 points"], gaps=gaps)
    assert r"- unsafe\_answers: these 280 prompts detect 5 points" in text
    behind = text.split("## Rates behind the scorer's errors")[1].split("## Fairness")[0]
    assert (
        r"| unsafe\_answers | 70.0% | 20.0% | -50.0 points [-60.0, -40.0] | people checked 60 verdicts: 30 failures, 30 good answers |"
        in behind
    )
    assert r"| unsafe\_answers | as scored | as scored | as scored | not recorded |" in behind
    assert "good" not in behind.replace("good answers |", "")
    assert r"| good\_answers\_unlearned | 2.100 nats | 2.150 nats | +0.050 nats [" in text
    fairness = text.split("## Fairness")[1].split("## Data")[0]
    assert f"| refusal | {A} | 0.120 [0.020, 0.220] | 60 |" in fairness
    page = card_page(text, title="t")
    assert "<td>0.120 [0.020, 0.220]</td>" in page
    assert "<td>-50.0 points [-60.0, -40.0]</td>" in page


def test_the_page_is_escaped_and_asks_nobody(tmp_path: Path) -> None:
    page = card_page(card(tmp_path) + "\n" + EVIL, title=EVIL)
    for forbidden in ("<img", "<script", "<a ", 'src="', "href="):
        assert forbidden not in page
    assert "default-src 'none'" in page
    assert "<td>60.0%</td>" in page
    # What logs named stays in its cell and its item.
    assert page.count("<td>superior") == 1


def test_the_page_is_part_of_what_is_verified(home: Path, tmp_path: Path) -> None:
    adapter = trained(tmp_path / "adapter")
    folder = register(home, A, adapter, card=card(adapter), manifest={})
    assert {"card.md", "card.html"} <= json.loads((folder / "manifest.json").read_text())["files"].keys()
    (folder / "card.html").write_text("all is well")
    with pytest.raises(Exception, match=r"card\.html"):
        verify(home, A)


def test_two_releases_are_compared(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "prepare", lambda *_, **__: None)
    migrate(home)
    for name, night, epochs in ((A, "n1", 1), (B, "n2", 2)):
        register(home, name, trained(tmp_path / name, epochs=epochs, beta=0.1), card="#", manifest={"night_id": night})
    pair = {"id": "p", "side": "harm", "category": "privacy", "labelers": ["human"], "principle_ids": ["no-doxing"]}
    metric = {"id": "m", "decision_id": "d", "name": "unsafe_answers", "challenger": 0.2, "diff": -0.4, "low": -0.5, "high": -0.3, "n": 280}
    with session(home, write=True) as connection:
        append(connection, "pairs", [pair])
        append(connection, "pair_sets", [{"id": "s", "night_id": "n2", "pair_id": "p", "split": "train"}])
        append(connection, "gate_decisions", [{"id": "d", "challenger": B, "champion": A, "decided_at": NOW}])
        append(connection, "gate_metrics", [{**metric, "status": "pass"}])
    done = CliRunner().invoke(cli.app, ["release", "diff", A, B, "--json"])
    assert done.exit_code == 0, done.output
    changes = json.loads(done.stdout)["changes"]
    assert changes["settings"] == {"epochs": {"a": 1, "b": 2}}
    assert changes["lineage"] == {"night_id": {"a": "n1", "b": "n2"}}
    assert changes["pairs"] == {
        name: {"a": None, "b": 1} for name in ("category: privacy", "labeler: human", "principle: no-doxing", "side: harm")
    }
    assert changes["metrics"]["unsafe_answers"]["b"].startswith("20.0% of 280; -40.0 points (-50.0 to -30.0)")
    assert sorted(changes["files"]) == ["adapter/adapter_model.safetensors", "adapter/manifest.json"]
    assert "settings: 1 differ" in CliRunner().invoke(cli.app, ["release", "diff", A, B]).stdout
    assert CliRunner().invoke(cli.app, ["release", "diff", A, "base"]).exit_code == 0
    assert "no release" in CliRunner().invoke(cli.app, ["release", "diff", A, "f" * 16]).stderr
