"""An adapter, an adapter on a base in 4 bits, or all weights: what is trained, against which reference, and what is released."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignment.errors import InputError, ModelError
from alignment.models.folder import is_whole, trained
from alignment.models.identity import folder_id
from alignment.models.local import LocalModel
from alignment.train.job import TrainJob, read_result, write_job
from bench.tiny import make_tiny_model
from tests.test_train import make_pairs, settings, steps

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), hidden_size=64, intermediate_size=128)


def job_of(tiny: Path, folder: Path, method: str, **changes: object) -> TrainJob:
    chosen = settings(**{"epochs": 1, "method": method, "learning_rate": 1e-3} | changes)
    return write_job(folder, tiny, folder_id(tiny), folder / "reference.parquet", make_pairs(12), chosen)


def train_on(job: TrainJob) -> dict[str, Any]:
    from alignment.train.run import train

    return train(job)


def test_all_weights_learn_and_a_whole_model_is_left(tiny: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    job = job_of(tiny, tmp_path, "full", eval_steps=1)
    summary = train_on(job)
    result = read_result(job.folder)
    assert result.adapter == job.folder / "model" == trained(job.folder)
    assert is_whole(result.adapter)
    before, after = load_file(tiny / "model.safetensors"), load_file(result.adapter / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    config = (result.adapter / "config.json").read_text()
    assert "align_shared" not in config
    manifest = json.loads((result.adapter / "manifest.json").read_text())
    assert (manifest["base_id"], manifest["settings"]["method"]) == (job.base_id, "full")
    # Scored once, before anything was learned.
    assert summary["reference_computed"] == 12
    assert steps(job.folder)[1]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    # The reference at a look is the base, loaded again: the policy has left it.
    assert summary["kl"] > 1e-4
    served = LocalModel(tiny, adapter=result.adapter)
    assert served.generate([[{"role": "user", "content": "hi"}]], max_new_tokens=4)


def test_all_weights_learn_in_float32_and_are_kept_in_the_bases_numbers(tiny: Path, tmp_path: Path) -> None:
    """At a rate of 1e-6 an update is lost on most bfloat16 weights; the policy's log-probs must move all the same."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(half)
    from alignment.train.policy import load_policy

    job = job_of(half, tmp_path, "full", learning_rate=1e-6, epochs=4)
    assert {weight.dtype for weight in load_policy(half, job.settings).parameters()} == {torch.float32}
    train_on(job)
    rows = steps(job.folder)
    assert 1e-6 < abs(rows[max(rows)]["rewards/margins"]) < 1e-2
    assert {weight.dtype for weight in load_file(job.folder / "model" / "model.safetensors").values()} == {torch.bfloat16}


def test_a_killed_run_of_all_weights_goes_on_against_the_base(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    from alignment.train.callbacks import Progress

    job = job_of(tiny, tmp_path / "a", "full", epochs=2)
    train_on(job)
    killed = job_of(tiny, tmp_path / "b", "full", epochs=2)

    def kill(self: Progress, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", kill)
        train_on(killed)
    train_on(killed)
    one, other = (load_file(each.folder / "model" / "model.safetensors") for each in (job, killed))
    assert all(one[name].equal(other[name]) for name in one)


def test_a_base_in_4_bits_has_a_reference_and_gradients_of_its_own(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import torch

    job = job_of(tiny, tmp_path, "qlora", eval_steps=1)
    summary = train_on(job)
    assert summary["fallback"] is None
    assert (job.folder / "adapter" / "adapter_model.safetensors").exists()
    assert steps(job.folder)[1]["rewards/margins"] == pytest.approx(0, abs=2e-3)
    assert summary["reference_computed"] == 12
    # The same pairs, base and cache: an adapter on the 16-bit base needs numbers of its own.
    plain = job_of(tiny, tmp_path, "lora")
    assert plain.reference_cache == job.reference_cache
    assert train_on(plain)["reference_computed"] == 12
    assert train_on(job_of(tiny, tmp_path, "qlora", seed=1))["reference_computed"] == 0
    one = steps(job.folder)[1]["logps/chosen"]
    assert abs(one - steps(plain.folder)[1]["logps/chosen"]) > 1e-3
    assert torch.isfinite(torch.tensor(one))


def test_gradients_flow_through_a_base_in_4_bits_after_an_evaluation(tiny: Path) -> None:
    """The gradients of 4-bit layers are those of the same numbers in ordinary layers, also after the model has been evaluated."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    import torch

    from alignment.train.policy import load_policy

    policy = load_policy(tiny, settings(method="qlora"))
    policy.get_input_embeddings().weight.requires_grad_(True)
    ids = torch.tensor([[5, 9, 20, 33, 7, 8]])

    def slopes(model: Any) -> torch.Tensor:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return model.get_input_embeddings().weight.grad.float().clone()

    with torch.no_grad():
        policy.eval()(input_ids=ids)
    found = slopes(policy.train())
    plain = load_policy(tiny, settings())
    plain.get_input_embeddings().weight.requires_grad_(True)
    for name, part in list(policy.named_modules()):
        if isinstance(part, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(part.weight.data, part.weight.quant_state)
            plain.get_submodule(name).weight.data = weight.to(plain.dtype)
    wanted = slopes(plain.train())
    assert wanted.abs().max() > 1e-4
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_4_bits_without_bitsandbytes_name_the_extra_before_any_compute(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.train.needs.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"\.\[qlora\]"):
        train_on(job_of(tiny, tmp_path, "qlora"))


def test_a_model_without_layers_to_keep_in_4_bits_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    import torch

    from alignment.train import policy

    stub = SimpleNamespace(from_pretrained=lambda *_, **__: torch.nn.Sequential(torch.nn.Linear(2, 2)))
    monkeypatch.setattr(policy, "AutoModelForCausalLM", stub)
    with pytest.raises(ModelError, match=r"extra \[qlora\], finds no linear layer"):
        policy.load_policy(tiny, settings(method="qlora"))


def test_long_pairs_are_left_out_or_stop_the_run_by_name(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from alignment.models.local import load_tokenizer
    from alignment.train.rows import read_rows

    pairs = make_pairs(6)
    pairs[2] = replace(pairs[2], messages=({"role": "user", "content": "why? " * 100},))
    tokenizer = load_tokenizer(tiny)

    def rows(**changes: object) -> dict[str, Any]:
        return read_rows(write_job(tmp_path, tiny, "b", tmp_path / "r.parquet", pairs, settings(**changes)), tokenizer)

    assert len(rows()["train"]) == 4
    assert "1 pairs are longer than [train] max_tokens = 400 and left out" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"1 pairs are longer than \[train\] max_tokens = 400: 'pair-002'"):
        rows(long_pairs="stop")


def test_a_run_file_with_bad_pairs_or_a_base_without_template_is_refused_before_any_compute(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("alignment.train.run.load_policy", loads)
    job = job_of(tiny, tmp_path / "a", "lora")
    lines = (job.folder / "pairs.jsonl").read_text().splitlines()
    first, second = json.loads(lines[0]), json.loads(lines[1])
    first["rejected"], second["chosen"] = first["chosen"], " "
    (job.folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, [first, second])))
    with pytest.raises(InputError, match=r"empty answer: 'pair-001'.*chosen = rejected: 'pair-000'"):
        train_on(job)
    bare = make_tiny_model(tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        train_on(job_of(bare, tmp_path / "b", "lora"))
