"""Processes that hold a part of each weight (FSDP) train as one process does that holds all, and can be stopped and resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from alignment.errors import InputError
from alignment.models.folder import trained
from alignment.sections import Train
from alignment.train.job import TrainJob, finished
from alignment.train.sharding import check_launcher
from bench.tiny import make_tiny_model
from tests.test_train import steps
from tests.test_train_processes import ended, launch, learnt_alike, make_job

pytestmark = pytest.mark.filterwarnings("default")

# What 'accelerate launch' makes of a file such as `launcher` writes.
TOLD = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_MIXED_PRECISION": "no",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


def launcher(folder: Path) -> str:
    config = folder / "accelerate.yaml"
    fsdp = {"fsdp_version": 2, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_cpu_ram_efficient_loading": True}
    rest = {"distributed_type": "FSDP", "use_cpu": True, "num_machines": 1, "num_processes": 2, "main_process_port": 0}
    config.write_text(yaml.safe_dump({"compute_environment": "LOCAL_MACHINE", **rest, "fsdp_config": fsdp}))
    return str(config)


def test_processes_with_parts_of_the_weights_train_the_adapter_of_one(tmp_path: Path) -> None:
    """13 pairs, four a step: the last pair of a pass is computed by both. The head is tied to the embeddings, as in small models."""
    from alignment.train.run import train

    tiny = make_tiny_model(tmp_path / "tiny", tie_word_embeddings=True)
    alone = make_job(tiny, tmp_path / "a", 13, held_out=5)
    train(alone)
    shared = make_job(tiny, tmp_path / "b", 13, held_out=5, accelerate_config=launcher(tmp_path))
    code, errors = ended(launch(shared))
    assert code == 0, errors[-3000:]
    of, held = (int(number.replace(",", "")) for number in re.findall("of ([0-9,]+) weights this process holds ([0-9,]+)", errors)[0])
    assert held < 0.6 * of
    assert [json.loads((job.folder / "result.json").read_text())["fallback"] for job in (alone, shared)] == [None, None]
    learnt_alike(alone, shared)
    weights = [load_file(job.folder / "adapter" / "adapter_model.safetensors") for job in (alone, shared)]
    assert {name: weight.shape for name, weight in weights[0].items()} == {name: weight.shape for name, weight in weights[1].items()}


def process(rank: int, port: int, run: Path, told: dict[str, str]) -> None:
    """What 'accelerate launch' starts, in a process that has the libraries already."""
    from alignment.train.__main__ import main

    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= place | told
    sys.argv = ["train", str(run)]
    with (run.parent / f"{rank}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.exit(main())


def start(job: TrainJob, **told: str) -> list[multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alignment.train.run"])
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    both = [context.Process(target=process, args=(rank, port, job.folder / "run.json", TOLD | told)) for rank in (0, 1)]
    for one_of_both in both:
        one_of_both.start()
    return both


def codes(both: list[multiprocessing.process.BaseProcess]) -> list[int | None]:
    for one in both:
        one.join(60)
        one.kill()
    return [one.exitcode for one in both]


@pytest.mark.parametrize(
    ("method", "kept", "rate", "near"), [("full", "FULL_STATE_DICT", 1e-4, 1e-5), ("lora", "SHARDED_STATE_DICT", 1e-3, 2e-3)]
)
def test_a_run_in_parts_is_stopped_resumed_and_ends_as_in_one_process(
    method: str, kept: str, rate: float, near: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole model learns in float32; an adapter's base may be in bfloat16, where a batch of half the size rounds differently.

    A head that is not tied to the embeddings is left in parts by a forward pass that does not call it.
    """
    from alignment.train.run import train

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny = make_tiny_model(tmp_path / "tiny", tie_word_embeddings=method == "full")
    changes = {"method": method, "learning_rate": rate, "checkpoint_steps": 1000, "epochs": 8}
    alone, shared = (make_job(tiny, tmp_path / name, 12, held_out=2, **changes) for name in "ab")
    train(alone)
    both = start(shared, FSDP_STATE_DICT_TYPE=kept)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and both[0].is_alive() and len(steps(shared.folder)) < 2:
        time.sleep(0.01)
    both[1].terminate()  # what one is told, both do
    assert codes(both) == [1, 1]
    log = (shared.folder / "0.log").read_text()
    assert "it was asked to; run it again to resume" in log
    assert len(list((shared.folder / "checkpoints").glob("checkpoint-*/trainer_state.json"))) == 1
    assert codes(start(shared, FSDP_STATE_DICT_TYPE=kept)) == [0, 0], (shared.folder / "0.log").read_text()[-3000:]
    assert json.loads((shared.folder / "result.json").read_text())["fallback"] is None
    one, other = steps(alone.folder), steps(shared.folder)
    assert list(one) == list(other) == list(range(1, 25))
    assert [other[step]["loss"] for step in one] == pytest.approx([one[step]["loss"] for step in one], abs=near)
    folders = [trained(job.folder) for job in (alone, shared)]
    names = {"full": ("model.safetensors", "config.json"), "lora": ("adapter_model.safetensors", "adapter_config.json")}[method]
    weights, configs = (
        [load_file(folder / names[0]) for folder in folders],
        [json.loads((folder / names[1]).read_text()) for folder in folders],
    )
    assert weights[0].keys() == weights[1].keys()
    # PEFT writes a set of modules in any order.
    assert {**configs[0], "target_modules": 0} == {**configs[1], "target_modules": 0}
    moved = [torch.cat([weight.flatten() for weight in found.values()]) for found in weights]
    assert float((moved[0] - moved[1]).abs().mean()) < near


def test_a_model_that_stock_trl_must_train_is_trained_in_parts(tmp_path: Path) -> None:
    """Gemma 2 refuses shared rows in the middle of a forward pass."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from alignment.train.run import train

    folder = make_tiny_model(tmp_path / "gemma2")
    size = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    config = AutoConfig.for_model("gemma2", **size, num_attention_heads=4, num_key_value_heads=2, attn_logit_softcapping=5.0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    alone, shared = (make_job(folder, tmp_path / name, 8, method="full", learning_rate=1e-4) for name in "ab")
    train(alone)
    assert codes(start(shared)) == [0, 0], (shared.folder / "0.log").read_text()[-3000:]
    one, other = steps(alone.folder), steps(shared.folder)
    assert "softcap" in json.loads((shared.folder / "result.json").read_text())["fallback"]
    assert [other[step]["loss"] for step in one] == pytest.approx([one[step]["loss"] for step in one], abs=1e-4)


def test_an_adapter_that_processes_cannot_share_out_is_refused(tmp_path: Path) -> None:
    tiny = make_tiny_model(tmp_path / "tiny")
    job = make_job(tiny, tmp_path / "a", 4, lora_rank=1)
    assert codes(start(job)) == [1, 1]
    assert "set [train] lora_rank to a multiple of 2" in (job.folder / "0.log").read_text()
    assert not finished(job.folder)


def test_a_head_in_parts_is_still_scored_on_answers_alone(tmp_path: Path) -> None:
    from torch.distributed.fsdp import FSDPModule
    from transformers import AutoModelForCausalLM

    from alignment.train.fused_lm_head import can_score

    model = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path / "tiny")).requires_grad_(False)
    assert can_score(model)
    # What torch makes of a module whose weights are shared out.
    model.lm_head.__class__ = type("FSDPLinear", (FSDPModule, torch.nn.Linear), {})
    assert can_score(model)


@pytest.mark.parametrize(
    ("told", "method", "words"),
    [
        ({"FSDP_VERSION": "1"}, "lora", "FSDP_VERSION is '1', set fsdp_version: 2"),
        ({"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}, "lora", "set fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"),
        (
            {"ACCELERATE_MIXED_PRECISION": "bf16", "FSDP_OFFLOAD_PARAMS": "true"},
            "lora",
            "fsdp_offload_params: false; .* mixed_precision: 'no'",
        ),
        ({}, "qlora", "set 'lora' or 'full'"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "lora", "says DEEPSPEED, which is not served"),
    ],
)
def test_ways_of_sharding_that_are_not_served_are_refused(
    told: dict[str, str], method: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (TOLD | told).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        check_launcher(Train(method=method))
