"""Several processes train as one does: the same steps, the same losses, and all of them end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from alignment.errors import InputError
from alignment.models.identity import folder_id
from alignment.sections import Train
from alignment.train.job import TrainJob, finished, write_job
from bench.tiny import make_tiny_model
from tests.test_train import make_pairs, settings, steps

pytestmark = pytest.mark.filterwarnings("default")

COMPARED = ("loss", "logps/chosen", "logps/rejected", "rewards/margins", "rewards/accuracies", "entropy", "grad_norm")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def make_job(tiny: Path, folder: Path, pairs: int, *, held_out: int = 0, **changes: object) -> TrainJob:
    chosen: Train = settings(**{"epochs": 2} | changes)
    ready = [
        replace(pair, split="train" if index < pairs else "eval", judge_margin=0.2 + index % 3 / 3)
        for index, pair in enumerate(make_pairs(pairs + held_out))
    ]
    return write_job(folder, tiny, folder_id(tiny), folder / "reference.parquet", ready, chosen)


def launcher(folder: Path, processes: int = 2) -> str:
    config = folder / "accelerate.yaml"
    config.write_text(
        f"compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nuse_cpu: true\nnum_machines: 1\nnum_processes: {processes}\n"
    )
    return str(config)


def launch(job: TrainJob) -> subprocess.Popen[str]:
    from flows.train import command

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command(job), stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


def ended(process: subprocess.Popen[str], within: float = 200) -> tuple[int, str]:
    try:
        _, errors = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, errors


def learnt_alike(alone: TrainJob, shared: TrainJob) -> None:
    """Check that one process and several said the same of eight steps and of the held-out pairs."""
    looks = [json.loads((job.folder / "result.json").read_text()) for job in (alone, shared)]
    for name in ("reward_margin", "reward_accuracy", "kl"):
        assert looks[1][name] == pytest.approx(looks[0][name], rel=2e-3, abs=2e-3), name
    one, other = steps(alone.folder), steps(shared.folder)
    assert list(one) == list(other) == list(range(1, 9))
    for step in one:
        for name in COMPARED:
            assert other[step][name] == pytest.approx(one[step][name], rel=2e-3, abs=2e-3), (step, name)


def test_processes_take_the_steps_of_one(tiny: Path, tmp_path: Path) -> None:
    """13 pairs, four a step and weighed: full steps are halved between the two, and the last pair of a pass is computed by both.

    Five pairs are held out, a number that two cannot share.
    """
    from alignment.train.run import train

    alone = make_job(tiny, tmp_path / "a", 13, held_out=5, weigh_pairs=True)
    train(alone)
    shared = make_job(tiny, tmp_path / "b", 13, held_out=5, weigh_pairs=True, accelerate_config=launcher(tmp_path))
    code, errors = ended(launch(shared))
    assert code == 0, errors[-3000:]
    learnt_alike(alone, shared)
    manifest = json.loads((shared.folder / "adapter" / "manifest.json").read_text())
    assert "adapter_model.safetensors" in manifest["files"]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_each_step_is_shared_out_exactly(processes: int) -> None:
    from alignment.train.trainer import LengthBuckets, Shares

    lengths = [7 * n % 31 for n in range(41)]
    rows = LengthBuckets(lengths, batch=12, seed=3)
    parts = [Shares(LengthBuckets(lengths, batch=12, seed=3), processes=processes, index=index) for index in range(processes)]
    for epoch in (0, 1):
        for one in (rows, *parts):
            one.set_epoch(epoch)
        order = list(rows)
        wanted = [order[start : start + 12] for start in range(0, 41, 12)]
        taken = list(zip(*parts, strict=True))
        assert [len(part) for part in parts] == [4] * processes
        assert [[row for part in step for row in part] for step in taken[:3]] == wanted[:3]
        # Five pairs are no multiple: each process computes all of them.
        assert taken[3] == (wanted[3],) * processes


def test_a_step_that_processes_cannot_share_evenly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.train.arguments import share

    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="a multiple of 3"):
        share(4)


def test_a_launcher_without_its_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    from flows.train import command

    with pytest.raises(InputError, match="is no file"):
        command(make_job(tiny, tmp_path, 4, accelerate_config=str(tmp_path / "none.yaml")))


@pytest.mark.parametrize("kind", ["DEEPSPEED", "TPU"])
def test_a_launcher_that_is_not_served_is_refused(kind: str, tiny: Path, tmp_path: Path) -> None:
    from flows.train import command

    config = Path(launcher(tmp_path))
    job = make_job(tiny, tmp_path, 4, accelerate_config=str(config))
    text = config.read_text()
    for served in ("MULTI_GPU", "NO", "'NO'", "MULTI_CPU", "FSDP"):
        config.write_text(text.replace("MULTI_GPU", served))
        assert "accelerate.commands.launch" in command(job)
    config.write_text(text.replace("MULTI_GPU", kind))
    with pytest.raises(
        InputError, match=f"distributed_type: '{kind}' .* is not served; set it to MULTI_GPU, MULTI_CPU, NO, FSDP, or write"
    ):
        command(job)
    config.write_text("- a list")
    with pytest.raises(InputError, match="cannot be read"):
        command(job)


def test_processes_stop_together_and_end_at_once_when_the_run_is_finished(tiny: Path, tmp_path: Path) -> None:
    """Asked to stop, both leave a checkpoint; the next two wait for a lock, and find the run finished by the one who held it."""
    import fcntl

    job = make_job(tiny, tmp_path, 40, epochs=20, checkpoint_steps=1000, accelerate_config=launcher(tmp_path))
    process = launch(job)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and len(steps(job.folder)) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    code, errors = ended(process)
    assert code != 0
    # The first process's own words: those of its launcher name the signal even where nothing was saved.
    assert "it was asked to; run it again to resume" in errors
    assert list((job.folder / "checkpoints").glob("checkpoint-*/trainer_state.json"))
    with (job.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = launch(job)
        time.sleep(20)  # long enough for the second process to have looked for a result
        assert process.poll() is None
        (job.folder / "result.json").write_text("{}")
    code, errors = ended(process)  # fails when one waits for the other
    assert (code, finished(job.folder)) == (0, True), errors[-3000:]


def test_a_folder_of_the_users_does_not_stand_before_the_package(tmp_path: Path) -> None:
    (tmp_path / "alignment").mkdir()
    (tmp_path / "alignment" / "__init__.py").write_text("raise SystemExit('another package')")
    from flows.train import environment

    run = [sys.executable, "-m", "alignment.train", "--help"]
    done = subprocess.run(run, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "run.json" in done.stdout
