"""What the settings of training change, and what they must not change, on a tiny model."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from alignment.errors import InputError, TrainingError
from alignment.models.identity import folder_id
from alignment.sections import Train
from alignment.train.job import TrainJob, write_job
from bench.tiny import make_tiny_model
from tests.test_train import make_pairs, run, settings, steps

pytestmark = pytest.mark.filterwarnings("default")

LN2 = math.log(2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def train_on(tiny: Path, folder: Path, margins: tuple[float, ...] = (0.5,), **changes: object) -> tuple[TrainJob, dict[str, object]]:
    from alignment.train.run import train

    pairs = [replace(pair, judge_margin=margins[index % len(margins)], split="train") for index, pair in enumerate(make_pairs(8))]
    chosen: Train = settings(**{"epochs": 1, "sft_weight": 0} | changes)
    job = write_job(folder, tiny, folder_id(tiny), folder / "reference.parquet", pairs, chosen)
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
    from alignment.train.rows import weigh

    rows = [{"margin": margin} for margin in (0.9, 0.1, 0.9, 0.1)]
    weigh(rows, by_margin=True)
    assert [row["weight"] for row in rows] == pytest.approx([1.8, 0.2, 1.8, 0.2])


def test_the_supervised_term_weighs_pairs_too(tiny: Path, tmp_path: Path) -> None:
    """By hand, of one pair of weight w a batch and before any update: w (ln 2 + its mean nats a token)."""
    job, _ = train_on(tiny, tmp_path, margins=(0.9, 0.1), weigh_pairs=True, sft_weight=1, batch_size=1, learning_rate=1e-12)
    weights = set()
    for row in steps(job.folder).values():
        # Chosen answers are "No, and here is why." and "Yes: first this, then that.", bytes and two for the end of turn, cut at 24.
        tokens = min((22, 24), key=lambda size: abs(-row["logps/chosen"] / size - row["entropy"]))
        weights.add(round(row["loss"] / (LN2 - row["logps/chosen"] / tokens), 3))
    assert weights <= {1.8, 0.2}
    assert len(weights) == 2


def test_without_a_reference_nothing_is_scored_and_the_policy_alone_counts(tiny: Path, tmp_path: Path) -> None:
    job, summary = train_on(tiny, tmp_path, reference_free=True, batch_size=1)
    assert summary["reference_computed"] == 0
    assert not job.reference_cache.exists()
    for row in steps(job.folder).values():
        # Hand-derived: one pair a batch, so -log sigmoid(beta * (log pi(chosen) - log pi(rejected))).
        margin = job.settings.beta * (row["logps/chosen"] - row["logps/rejected"])
        assert row["loss"] == pytest.approx(math.log1p(math.exp(-margin)), abs=2e-4)


def test_what_is_not_installed_is_named_before_any_compute(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.train.needs.find_spec", lambda _: None)
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
    job = write_job(folder, tiny, folder_id(tiny), folder / "reference.parquet", make_pairs(12), chosen)
    return job, train(job)


def looks(job: TrainJob) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "eval_kl" in row]


def test_training_stops_when_held_out_pairs_get_no_better(tiny: Path, tmp_path: Path) -> None:
    # At a rate of nearly nothing no look is better than the first one.
    job, summary = held_out(tiny, tmp_path, learning_rate=1e-12, patience=2)
    assert [row["step"] for row in looks(job)] == [2, 4, 6]
    assert summary["steps"] == 6
    assert summary["stopped_early"]
    assert (job.folder / "adapter" / "adapter_model.safetensors").exists()


def test_training_stops_when_it_goes_too_far_and_keeps_what_was_not(tiny: Path, tmp_path: Path) -> None:
    whole, calm = held_out(tiny, tmp_path / "a", learning_rate=2e-2)
    kls = {row["step"]: row["eval_kl"] for row in looks(whole)}
    assert (calm["steps"], calm["stopped_early"], calm["kept_step"]) == (12, False, 12)
    assert kls[2] < kls[4]
    limit = (kls[2] + kls[4]) / 2
    job, stopped = held_out(tiny, tmp_path / "b", learning_rate=2e-2, max_kl=limit)
    assert (stopped["steps"], stopped["stopped_early"], stopped["kept_step"]) == (4, True, 2)
    assert stopped["kl"] == pytest.approx(kls[2], rel=1e-3)
    # The look that stopped it stays on record, beyond the limit.
    assert looks(job)[-1]["eval_kl"] > limit


def test_a_first_look_beyond_the_limit_leaves_nothing_however_often_it_is_run(tiny: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"first look .* more than \[train\] max_kl = 1e-06"):
            held_out(tiny, tmp_path, learning_rate=2e-2, max_kl=1e-6)
    [folder] = (path for path in tmp_path.iterdir() if path.is_dir())
    assert max(steps(folder)) == 2
    assert not (folder / "adapter").exists()


def test_a_run_that_its_looks_stopped_goes_no_further_after_a_kill(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("alignment.train.run._save", killed)
        held_out(tiny, tmp_path, learning_rate=1e-12, patience=2)
    job, summary = held_out(tiny, tmp_path, learning_rate=1e-12, patience=2)
    assert (summary["steps"], summary["kept_step"], summary["stopped_early"]) == (6, 2, True)
    assert max(steps(job.folder)) == 6


def test_early_stopping_without_held_out_pairs_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="raise \\[pairs\\] eval_share"):
        train_on(tiny, tmp_path, eval_steps=2, patience=1)
    with pytest.raises(ValueError, match="need eval_steps"):
        settings(patience=1)


def test_the_divergence_is_what_the_formula_says(tiny: Path) -> None:
    """KL between two softmaxes of three logits, by hand: p = (.5, .25, .25), q = (.25, .25, .5)."""
    import torch

    from alignment.train.kl import MOST_ROWS, reference_kl

    def says(*row: float):
        return lambda rows: torch.tensor([row for one in rows for _ in one["chosen_ids"]]).log()

    rows = [{"prompt_ids": [7], "chosen_ids": [8, 9]}] * (MOST_ROWS + 1)
    found = reference_kl(says(0.5, 0.25, 0.25), says(0.25, 0.25, 0.5), rows)
    assert found == pytest.approx(0.5 * LN2 + 0.25 * 0 - 0.25 * LN2, abs=1e-6)
    assert math.isnan(reference_kl(says(1), says(1), []))


def test_the_divergence_reads_shared_rows_as_it_reads_rows_alone(tiny: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from alignment.train.kl import answer_logits
    from alignment.train.prefix_shared import install

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    start = list(range(10, 30))
    rows = [{"prompt_ids": [*start, size], "chosen_ids": list(range(40, 40 + size))} for size in (3, 1, 5)]
    with torch.no_grad():
        alone = answer_logits(model, rows, shared=False)
        install(model)
        torch.testing.assert_close(answer_logits(model, rows, shared=True), alone, rtol=1e-4, atol=1e-5)
    assert len(alone) == 9


def test_a_step_in_parts_logs_what_it_logs_as_a_whole(tiny: Path, tmp_path: Path) -> None:
    """Parts hold three pairs and one, or what a lack of memory leaves; their means count as much as they hold."""
    whole, _ = train_on(tiny, tmp_path / "a", margins=(0.9, 0.2), weigh_pairs=True, sft_weight=1)
    parted, _ = train_on(tiny, tmp_path / "b", margins=(0.9, 0.2), weigh_pairs=True, sft_weight=1, max_batch_tokens=550)
    one, other = steps(whole.folder), steps(parted.folder)
    assert list(one) == list(other)
    for step, row in one.items():
        same = {name for name in row if name not in ("seconds_left", "pairs_per_second", "epoch")}
        assert {name: other[step][name] for name in same} == pytest.approx({name: row[name] for name in same}, rel=1e-3, abs=1e-4)


def test_held_out_pairs_count_alike_whatever_batch_they_are_in(tiny: Path, tmp_path: Path) -> None:
    """Two held-out pairs in one batch, or in two that hold one each beside three in all, give the same means."""
    means = []
    for size in (2, 3, 4):
        from alignment.train.run import train

        pairs = [replace(pair, split="eval" if index < 4 else "train") for index, pair in enumerate(make_pairs(8))]
        job = write_job(tmp_path / str(size), tiny, folder_id(tiny), tmp_path / "r.parquet", pairs, settings(batch_size=size, epochs=0.5))
        # At no rate all runs leave the same policy.
        job = replace(job, settings=job.settings.model_copy(update={"learning_rate": 1e-12}))
        train(job)
        means.append({name: value for name, value in looks(job)[-1].items() if name.startswith("eval_log") or name == "eval_entropy"})
    assert len(means[0]) == 5
    assert means[1] == pytest.approx(means[0], rel=1e-4, abs=1e-5)
    assert means[2] == pytest.approx(means[0], rel=1e-4, abs=1e-5)


def test_a_loss_that_is_no_number_stops_the_run(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss is nan at step"):
        train_on(tiny, tmp_path, learning_rate=1e30, epochs=4)


def test_tensorboard_files_outlive_the_checkpoints(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer of TensorBoard's interface in its place: what counts is where it is told to write."""
    for name, text in {
        "tensorboard": "",
        "tensorboardX": (
            "from pathlib import Path\n"
            "class SummaryWriter:\n"
            "    def __init__(self, log_dir):\n"
            "        Path(log_dir).mkdir(parents=True)\n"
            "        self.file = Path(log_dir) / 'events'\n"
            "    def add_scalar(self, name, *_):\n"
            "        self.file.open('a').write(name + '\\n')\n"
            "    def add_text(self, *_): ...\n"
            "    def flush(self): ...\n"
            "    def close(self): ...\n"
        ),
    }.items():
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text(text)
    pairs = [replace(pair, split="train") for pair in make_pairs(8)]
    job = write_job(tmp_path, tiny, folder_id(tiny), tmp_path / "r.parquet", pairs, settings(epochs=1, report_to=["tensorboard"]))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    run(job)
    assert not (job.folder / "checkpoints").exists()
    assert "train/loss" in (job.folder / "tensorboard" / "events").read_text()


def test_a_look_that_is_no_number_is_beyond_the_limit() -> None:
    from alignment.train.callbacks import Verdict, judge_looks

    rows = [{"step": 2, "eval_kl": 0.1}, {"step": 4, "eval_kl": float("nan")}]
    assert judge_looks(rows, Train(eval_steps=2, max_kl=0.5)) == Verdict(2, stop=True)


def test_weights_that_are_no_numbers_are_not_saved() -> None:
    import torch

    from alignment.train.run import _refuse_broken

    model = torch.nn.Linear(2, 2)
    _refuse_broken(model, "cpu")
    with torch.no_grad():
        model.bias[1] = float("inf")
    with pytest.raises(TrainingError, match="'bias' are no numbers"):
        _refuse_broken(model, "cpu")


def test_an_orphan_is_known_even_while_its_parent_is_a_zombie(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from alignment.parent import gone

    here = os.getppid()
    assert not gone(here, here)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert gone(here, here)


def test_a_night_keeps_less_of_an_adapter_that_refuses_harmless_requests(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from alignment.train import read_result
    from alignment.train.trainer import SharedPrefixDPOTrainer

    whole, _ = train_on(tiny, tmp_path / "whole", strength=1.0)
    measured = iter([0.5, 0.4, 0.3])
    monkeypatch.setattr(SharedPrefixDPOTrainer, "refusal_probability", lambda _: next(measured, 0.0))
    less, summary = train_on(tiny, tmp_path / "less", strength=1.0)
    assert summary["strength"] == read_result(less.folder).strength == 0.85
    one, other = (load_file(job.folder / "adapter" / "adapter_model.safetensors") for job in (whole, less))
    for name, tensor in one.items():
        assert other[name].allclose(tensor * (0.85 if "lora_B" in name else 1), rtol=1e-5), name


def test_an_adapter_keeps_so_much_of_what_it_learnt(tiny: Path, tmp_path: Path) -> None:
    """Its change is scaled and nothing else: half the strength is half of B, and the same A."""
    from safetensors.torch import load_file

    whole, half = (train_on(tiny, tmp_path / str(number), strength=number)[0] for number in (1.0, 0.5))
    one, other = (load_file(job.folder / "adapter" / "adapter_model.safetensors") for job in (whole, half))
    assert any("lora_B" in name for name in one)
    for name, tensor in one.items():
        expected = tensor * 0.5 if "lora_B" in name else tensor
        assert other[name].equal(expected), name
        assert "lora_B" not in name or tensor.abs().max() > 0
