"""What a training process tells: to whoever started it, to the store, and to the next process of the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment.store import migrate, query
from alignment.train.job import read_result
from tests.test_train_options import train_on
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def told(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"')]


def test_a_model_that_stock_trl_trains_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alignment.train.trainer.why_not", lambda *_: "it is odd")
    job, _ = train_on(tiny, tmp_path)
    out, errors = capfd.readouterr()
    words = "stock TRL trains this model, which takes longer: it is odd"
    assert {"said": words} in told(out)
    assert words in errors
    result = read_result(job.folder)
    assert (result.fallback, result.measured_on) == ("it is odd", "training pairs")


def test_of_several_processes_the_first_one_speaks(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from alignment.train.told import say

    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        say(f"from {rank}")
    assert capfd.readouterr() == ('{"said": "from 0"}\n', "from 0\n")


def test_the_flow_shows_words_and_one_bar_at_a_time(capfd: pytest.CaptureFixture[str]) -> None:
    from flows.train import _follow

    _follow(
        [
            '{"reference": 1, "of": 2}',
            "{'loss': 1.0}",
            '{"reference": 2, "of": 2}',
            '{"said": "out of memory"}',
            '{"step": 3, "of": 4, "x": 1}',
            "[1]",
        ]
    )
    shown = [line.strip() for line in capfd.readouterr().err.splitlines()]
    assert shown == ["out of memory", "reference log-probs: 2/2", "train: 3/4"]


def test_the_store_keeps_what_a_run_says_of_itself(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import train
    from flows.checks import Consent

    migrate(home)

    figures = {"pairs": 8, "steps": 2, "seconds": 1.5, "loss": 0.7, "reward_margin": 0.1, "reward_accuracy": 1.0, "held_out": 0}
    summary = {**figures, "reference_computed": 8, "kl": None, "stopped_early": False, "kept_step": 2}
    summary |= {"fallback": "it is odd", "measured_on": "training pairs"}
    (tmp_path / "result.json").write_text(json.dumps(summary))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "of": 2, "loss": 1}\n{"step": 1, "of": 2, "loss": 2}\n{"ste\n\n')
    monkeypatch.setattr(train, "consent_of", lambda *_: Consent(9, 1))
    monkeypatch.setattr(train, "base_path", lambda _: tmp_path)
    monkeypatch.setattr(train, "base_weights", lambda _: "b")
    assert train.record.fn("n", str(tmp_path)) == {**summary, "pairs_given": 9, "without_consent": 1}
    [row] = query(home, "SELECT summary ->> 'fallback' AS fallback, seconds FROM training_runs")
    assert row == {"fallback": "it is odd", "seconds": 1.5}
    assert query(home, "SELECT step, name, value FROM training_metrics") == [{"step": 1, "name": "loss", "value": 2.0}]
