"""What a training process tells: to whoever started it, to the store, and to the next process of the same run."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import InputError, NoSpace, TrainingError
from alignment.store import migrate, query
from alignment.train import reference
from alignment.train.accounting import Spent
from alignment.train.job import read_result, write_job
from bench.tiny import make_tiny_model
from tests.test_train import make_pairs, settings
from tests.test_train_options import train_on

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def told(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"')]


def test_a_model_that_stock_trl_trains_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alignment.train.trainer.why_not", lambda *_, **__: "it is odd")
    job, _ = train_on(tiny, tmp_path)
    out, errors = capfd.readouterr()
    words = "stock TRL trains this model, which takes longer: it is odd"
    assert {"said": words} in told(out)
    assert words in errors
    result = read_result(job.folder)
    assert (result.fallback, result.measured_on) == ("it is odd", "training pairs")


def test_of_several_processes_the_first_one_speaks(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from alignment.train.events import say

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
    summary |= {"fallback": "it is odd", "measured_on": "training pairs", "strength": 0.85}
    (tmp_path / "result.json").write_text(json.dumps(summary))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "of": 2, "loss": 1}\n{"step": 1, "of": 2, "loss": 2}\n{"ste\n\n')
    monkeypatch.setattr(train, "consent_of", lambda *_: Consent(9, 1))
    monkeypatch.setattr(train, "base_path", lambda _: tmp_path)
    monkeypatch.setattr(train, "folder_id", lambda _: "b")
    assert train.record.fn("n", str(tmp_path)) == {**summary, "pairs_given": 9, "without_consent": 1}
    [row] = query(home, "SELECT summary ->> 'fallback' AS fallback, seconds FROM training_runs")
    assert row == {"fallback": "it is odd", "seconds": 1.5}
    assert query(home, "SELECT step, name, value FROM training_metrics") == [{"step": 1, "name": "loss", "value": 2.0}]


def test_a_run_that_is_stopped_in_its_reference_pass_goes_on_there(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Asked in the second of four batches, it ends after that one; the next process computes the other two, and all ends the same."""
    from alignment.train.trainer import SharedPrefixDPOTrainer

    whole, one = train_on(tiny, tmp_path / "a", batch_size=2)
    computed = SharedPrefixDPOTrainer._reference_of
    calls: list[int] = []

    def asked(trainer: Any, rows: Any) -> Any:
        calls.append(len(rows))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return computed(trainer, rows)

    monkeypatch.setattr(SharedPrefixDPOTrainer, "_reference_of", asked)
    with pytest.raises(TrainingError, match="stopped after 4 of 8 reference log-probs: it was asked to; run it again to resume"):
        train_on(tiny, tmp_path / "b", batch_size=2)
    assert [row for row in told(capfd.readouterr().out) if "reference" in row][-2:] == [
        {"reference": 2, "of": 8},
        {"reference": 4, "of": 8},
    ]
    resumed, other = train_on(tiny, tmp_path / "b", batch_size=2)
    assert calls == [2] * 4
    adapters = [job.folder / "adapter" / "adapter_model.safetensors" for job in (whole, resumed)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert one["reference_computed"] == other["reference_computed"] == 8


def test_reference_log_probs_are_saved_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    cache = reference.Cache(tmp_path / "r.parquet", saved.append, writes=True)
    cache.add({"a": (1.0, 2.0)})
    assert saved == []
    monkeypatch.setattr(reference, "SAVE_SECONDS", 0.0)
    cache.add({"b": (3.0, 4.0)})
    assert saved == [2]
    assert reference.load(tmp_path / "r.parquet") == {"a": (1.0, 2.0), "b": (3.0, 4.0)}
    cache.save()
    assert saved == [2]


def test_a_process_says_that_it_waits_for_an_earlier_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from alignment.train.__main__ import _wait_for

    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    _wait_for(first)
    assert capfd.readouterr().out == ""
    threading.Timer(0.2, os.close, [first]).start()
    _wait_for(second)
    assert "waiting for the earlier process of this run" in capfd.readouterr().out


def test_what_a_run_spent_adds_up_over_its_processes(tmp_path: Path) -> None:
    first = Spent(tmp_path)
    first._since -= 5
    first.keep(computed=3)
    second = Spent(tmp_path)
    second._since -= 7
    second.keep(computed=4)
    assert (round(second.seconds), second.reference_computed) == (12, 7)
    (tmp_path / "spent.json").write_text("")
    assert Spent(tmp_path).seconds == 0


def ending_with(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_an_error_of_the_training_process_is_the_flow_s(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its class and its words come through; what it did not expect is told by the log, which keeps earlier attempts."""
    from flows import train

    job = write_job(tmp_path, tiny, "another base", tmp_path / "r.parquet", make_pairs(8), settings())
    with pytest.raises(InputError, match=r"are of 'another base'; restore it, or run 'align train' again for a run of the new base$"):
        train._run(job)
    monkeypatch.setattr(train, "command", lambda _: ending_with("import sys; sys.exit('No space left on device')"))
    with pytest.raises(NoSpace, match="free some space"):
        train._run(job)
    monkeypatch.setattr(train, "command", lambda _: ending_with("raise ValueError('odd')"))
    with pytest.raises(TrainingError, match=r"training stopped: ValueError: odd\. .* run the same command again to resume"):
        train._run(job)
    monkeypatch.setattr(train, "command", lambda _: ending_with("raise SystemExit(9)"))
    with pytest.raises(TrainingError, match="training stopped: exit status 9"):
        train._run(job)
    log = (job.folder / "train.log").read_text()
    assert "another base" in log
    assert "No space left" in log
    assert log.count("\n-- 2") == 3
