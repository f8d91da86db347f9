"""What the settings of training change, and what they must not change, on a tiny model."""

from __future__ import annotations

import json
import math
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from alignment.config import Train
from alignment.errors import InputError
from alignment.models.local import weights_id
from alignment.train.job import TrainJob, write_job
from tests.test_train import make_pairs, settings, steps
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.filterwarnings("default")

LN2 = math.log(2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def train_on(tiny: Path, folder: Path, margins: tuple[float, ...] = (0.5,), **changes: object) -> tuple[TrainJob, dict[str, object]]:
    from alignment.train.run import train

    pairs = [replace(pair, judge_margin=margins[index % len(margins)], split="train") for index, pair in enumerate(make_pairs(8))]
    chosen: Train = settings(**{"epochs": 1, "sft_weight": 0} | changes)
    job = write_job(folder, tiny, weights_id(tiny), folder / "reference.parquet", pairs, chosen)
    return job, train(job)


def losses(job: TrainJob) -> list[float]:
    return [row["loss"] for row in steps(job.folder).values()]


def test_checkpointed_activations_change_no_loss(tiny: Path, tmp_path: Path) -> None:
    plain, _ = train_on(tiny, tmp_path / "a")
    saving, _ = train_on(tiny, tmp_path / "b", gradient_checkpointing=True)
    assert losses(saving) == pytest.approx(losses(plain), abs=1e-5)


def test_pairs_weigh_as_their_margins_say(tiny: Path, tmp_path: Path) -> None:
    """Of four pairs whose margins are 0.9, 0.1, 0.9, 0.1 the clear ones weigh 1.8 and the others 0.2: ln 2 each before the first update."""
    even, _ = train_on(tiny, tmp_path / "a", margins=(0.9, 0.1))
    weighed, _ = train_on(tiny, tmp_path / "b", margins=(0.9, 0.1), weigh_pairs=True)
    same, _ = train_on(tiny, tmp_path / "c", weigh_pairs=True)
    assert losses(even)[0] == losses(same)[0] == pytest.approx(LN2, abs=1e-5)
    assert losses(same) == pytest.approx(losses(even), abs=1e-5)
    assert abs(losses(weighed)[1] - losses(even)[1]) > 1e-4
    from alignment.train.run import _weigh

    rows = [{"margin": margin} for margin in (0.9, 0.1, 0.9, 0.1)]
    _weigh(rows, by_margin=True)
    assert [row["weight"] for row in rows] == pytest.approx([1.8, 0.2, 1.8, 0.2])


def test_without_a_reference_nothing_is_scored_and_the_policy_alone_counts(tiny: Path, tmp_path: Path) -> None:
    job, summary = train_on(tiny, tmp_path, reference_free=True, batch_size=1)
    assert summary["reference_computed"] == 0
    assert not job.reference_cache.exists()
    for row in steps(job.folder).values():
        # Hand-derived: one pair a batch, so -log sigmoid(beta * (log pi(chosen) - log pi(rejected))).
        margin = job.settings.beta * (row["logps/chosen"] - row["logps/rejected"])
        assert row["loss"] == pytest.approx(math.log1p(math.exp(-margin)), abs=2e-4)


def test_what_is_not_installed_is_named_before_any_compute(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.train.run.find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install mlflow"):
        train_on(tiny, tmp_path, report_to=["mlflow"])


def test_every_step_says_how_fast_it_goes(tiny: Path, tmp_path: Path) -> None:
    job, _ = train_on(tiny, tmp_path, batch_size=2)
    rows = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    timed = [row for row in rows if "pairs_per_second" in row]
    assert [row["step"] for row in timed if "loss" in row] == [2, 3, 4]
    assert all(row["pairs_per_second"] > 0 for row in timed)
    assert timed[-1]["seconds_left"] == 0


def held_out(tiny: Path, folder: Path, **changes: object) -> tuple[TrainJob, dict[str, object]]:
    from alignment.train.run import train

    chosen = settings(**{"epochs": 4, "eval_steps": 2} | changes)
    job = write_job(folder, tiny, weights_id(tiny), folder / "reference.parquet", make_pairs(12), chosen)
    return job, train(job)


def looks(job: TrainJob) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "eval_kl" in row]


def test_training_stops_when_held_out_pairs_get_no_better(tiny: Path, tmp_path: Path) -> None:
    # At a rate of nearly nothing no look is better than the first one.
    job, summary = held_out(tiny, tmp_path, learning_rate=1e-12, patience=2)
    assert [row["step"] for row in looks(job)[:3]] == [2, 4, 6]
    assert summary["steps"] == 6
    assert summary["stopped_early"]
    assert (job.folder / "adapter" / "adapter_model.safetensors").exists()


def test_training_stops_when_it_goes_too_far_from_the_reference(tiny: Path, tmp_path: Path) -> None:
    whole, calm = held_out(tiny, tmp_path / "a", learning_rate=5e-2)
    limit = looks(whole)[0]["eval_kl"] / 2
    _, stopped = held_out(tiny, tmp_path / "b", learning_rate=5e-2, max_kl=limit)
    assert (calm["steps"], calm["stopped_early"]) == (12, False)
    assert (stopped["steps"], stopped["stopped_early"]) == (2, True)
    assert stopped["kl"] > limit > 0


def test_early_stopping_without_held_out_pairs_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="raise \\[pairs\\] eval_share"):
        train_on(tiny, tmp_path, eval_steps=2, patience=1)
    with pytest.raises(ValueError, match="need eval_steps"):
        settings(patience=1)


def test_the_divergence_is_what_the_formula_says(tiny: Path) -> None:
    """KL between two softmaxes of three logits, by hand: p = (.5, .25, .25), q = (.25, .25, .5)."""
    from contextlib import contextmanager
    from types import SimpleNamespace

    import torch

    from alignment.train.divergence import reference_kl

    class Model:
        row = (0.5, 0.25, 0.25)

        def __call__(self, *, input_ids: torch.Tensor, logits_to_keep: int) -> SimpleNamespace:
            assert input_ids.tolist() == [[7, 8, 9]]
            return SimpleNamespace(logits=torch.tensor([self.row] * logits_to_keep).log().unsqueeze(0))

        @contextmanager
        def disable_adapter(self):
            self.row = (0.25, 0.25, 0.5)
            yield
            self.row = Model.row

    found = reference_kl(Model(), [{"prompt_ids": [7], "chosen_ids": [8, 9]}])
    assert found == pytest.approx(0.5 * LN2 + 0.25 * 0 - 0.25 * LN2, abs=1e-6)
    assert math.isnan(reference_kl(Model(), []))


def test_two_processes_train_one_adapter_as_one_does(tiny: Path, tmp_path: Path) -> None:
    """`accelerate launch` with two processes on the CPU: the same pairs a step, halved between them, so about the same losses."""
    from flows.train import command

    config = tmp_path / "accelerate.yaml"
    config.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nuse_cpu: true\nnum_machines: 1\nnum_processes: 2\n")
    alone, _ = train_on(tiny, tmp_path / "a")
    shared = write_job(
        tmp_path / "b",
        tiny,
        weights_id(tiny),
        tmp_path / "b.parquet",
        [replace(pair, split="train") for pair in make_pairs(8)],
        settings(epochs=1, sft_weight=0, accelerate_config=str(config)),
    )
    done = subprocess.run(
        command(shared), capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(steps(shared.folder)) == 2
    assert losses(shared) == pytest.approx(losses(alone), abs=5e-3)
    manifest = json.loads((shared.folder / "adapter" / "manifest.json").read_text())
    assert "adapter_model.safetensors" in manifest["files"]
    config.unlink()
    with pytest.raises(InputError, match="is no file"):
        command(shared)


def test_a_step_that_processes_cannot_share_evenly_is_refused(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.train.run import _share

    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="a multiple of 3"):
        _share(4)
