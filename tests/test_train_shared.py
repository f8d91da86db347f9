"""Shared rows beside stock TRL's separate rows, family by family, and the losses beside our own arithmetic."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests import families

pytestmark = pytest.mark.filterwarnings("default")

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PLAIN = {name: value for name, value in SMALL.items() if name not in ("head_dim", "num_key_value_heads")}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen2": SMALL,
    "qwen3": SMALL,
    "mistral": SMALL | {"sliding_window": 9},
    "gemma": SMALL,
    "gemma3_text": SMALL | {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    "phi": PLAIN,
    "phi3": SMALL,
    "gpt_neox": PLAIN,
    "granite": SMALL | {"logits_scaling": 2.0},
    "cohere": SMALL | {"logit_scale": 0.25},
    "gemma2": SMALL | {"attn_logit_softcapping": None, "final_logit_softcapping": 0.5, "layer_types": ["full_attention"] * 2},
    "olmo2": SMALL,
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": 1, "eos_token_id": 2},
}
UNSERVED: dict[str, dict[str, Any]] = {
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0},
    "gemma2": SMALL | {"attn_logit_softcapping": 5.0},
    # Its window is in its mask alone, and longer than what is tried.
    "phimoe": SMALL | {"sliding_window": 100, "num_local_experts": 2, "num_experts_per_tok": 1},
    "mamba": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "pad_token_id": 0},
}


def make(family: str, settings: dict[str, Any]) -> Any:
    from trl.trainer.utils import add_fused_lm_head

    model = families.make(family, settings)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model


def batch() -> dict[str, Any]:
    """Three prompts that begin alike, one of them twice; answers of 1 to 9 tokens, and one of none."""
    import torch

    draw = torch.Generator().manual_seed(1)

    def some(number: int) -> list[int]:
        return torch.randint(3, 64, (number,), generator=draw).tolist()

    start = some(6)
    first = start + some(5)
    prompts = [first, start + some(12), first, start + some(2)]
    answers = [some(size) for size in (4, 9, 1, 6, 7, 3, 5, 0)]
    rows = [(prompts[index % 4], answer) for index, answer in enumerate(answers)]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens, visible, labels = [torch.full((8, width), fill) for fill in (0, 0, -100)]
    for index, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[index, :end] = torch.tensor(prompt + answer)
        visible[index, :end] = 1
        labels[index, len(prompt) : end] = torch.tensor(answer)
    return {"input_ids": tokens, "attention_mask": visible, "labels": labels, "fused_lm_head": True, "use_cache": False}


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gets_the_log_probs_of_separate_rows(family: str, frozen: bool) -> None:
    import torch

    from alignment.train.prefix_shared import NAME, why_not

    model = make(family, FAMILIES[family])
    model.get_output_embeddings().weight.requires_grad_(not frozen)
    expected = model(**batch())
    assert why_not(model) is None
    assert model.config._attn_implementation == NAME
    found = model(**batch())
    for name in ("log_probs", "entropy", "mean_logits"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-4), name
    assert torch.equal(found.is_top1.bool(), expected.is_top1.bool())


@pytest.mark.parametrize("family", ["granite", "cohere", "gemma2"])
def test_a_scaled_head_is_none_that_is_computed_by_hand_and_trains_on_its_own_logits(family: str) -> None:
    import torch

    from alignment.train.fused_lm_head import can_score
    from alignment.train.prefix_shared import why_not

    model, rows = make(family, FAMILIES[family]), batch()
    assert not can_score(model)
    assert why_not(model) is None
    plain = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, :-1].float().log_softmax(-1)
    labels = rows["labels"][:, 1:]
    expected = torch.where(labels == -100, 0.0, plain.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1))
    assert torch.allclose(model(**rows).log_probs, expected, atol=1e-4)


def test_logits_that_training_does_not_know_are_refused_by_name() -> None:
    from alignment.errors import TrainingError
    from alignment.train.prefix_shared import why_not

    model = make("llama", SMALL)
    stock = model.forward

    def scaled(*args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        found = stock(*args, **kwargs, fused_lm_head=fused_lm_head)
        if not fused_lm_head:
            found.logits = found.logits * 0.5
        return found

    model.forward = scaled
    with pytest.raises(TrainingError, match="models of type 'llama' change their logits"):
        why_not(model)


@pytest.mark.parametrize("family", UNSERVED)
def test_a_family_that_cannot_be_served_is_left_to_stock_trl(family: str) -> None:
    import torch

    from alignment.train.prefix_shared import why_not

    model = make(family, UNSERVED[family])
    expected = model(**batch()).log_probs
    assert why_not(model)
    assert torch.equal(model(**batch()).log_probs, expected)


def test_a_window_that_only_the_mask_knows_is_noticed_where_rows_are_longer() -> None:
    from alignment.train.prefix_shared import why_not

    assert "sliding window of 100 tokens" in str(why_not(make("phimoe", UNSERVED["phimoe"]), 512))
    # A told one is served, whatever its length.
    assert why_not(make("mistral", SMALL | {"sliding_window": 100}), 512) is None


def test_gradients_equal_those_of_separate_rows() -> None:
    import torch

    from alignment.train.prefix_shared import install

    slopes = []
    for share in (False, True):
        model = make("llama", SMALL)
        model.get_output_embeddings().weight.requires_grad_(False)
        install(model, share=share)
        chosen, rejected = model(**batch()).log_probs.sum(1).chunk(2)
        (chosen * 2 - rejected).sum().backward()
        slopes.append(model.model.layers[0].self_attn.q_proj.weight.grad.clone())
    assert slopes[0].abs().max() > 1e-3
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("window", [None, 9])
def test_flex_attention_gives_what_sdpa_gives(window: int | None) -> None:
    import torch

    from alignment.train.prefix_shared import dense, flex, lay_out

    inputs = batch()
    layout = lay_out(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
    query, key, value = (torch.randn(1, 4, layout.tokens.shape[1], 16) for _ in range(3))
    assert torch.allclose(dense(query, key, value, layout, None, window), flex(query, key, value, layout, None, window), atol=1e-5)


def test_what_pairs_share_is_in_the_row_once() -> None:
    from alignment.train.prefix_shared import lay_out

    inputs = batch()
    layout = lay_out(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
    assert layout.common == 6
    assert len(layout.groups) == 3
    # 6 in common; prompts without their last token; each answer with that token and without its own last one
    assert layout.tokens.shape[1] == 6 + (4 + 11 + 1) + (4 + 9 + 1 + 6 + 7 + 3 + 5)


def test_parts_weigh_what_they_hold() -> None:
    import torch

    from alignment.train.micro_batches import count, scale, split

    inputs = batch()
    whole = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "completion_mask": (inputs["labels"] != -100).long(),
        "ref_chosen_logps": torch.arange(4.0),
    }
    parts = split(whole, most_pairs=3)
    assert [len(part["input_ids"]) for part in parts] == [6, 2]
    assert [part["ref_chosen_logps"].tolist() for part in parts] == [[0, 1, 2], [3]]
    assert count(whole) == (4, 20)
    for kind in ("sft", "sigmoid"):
        assert sum(scale(count(part), count(whole), kind) for part in parts) == pytest.approx(1)
    assert scale(count(parts[0]), count(whole), "sigmoid") == 3 / 4
    assert scale(count(parts[1]), count(whole), "sft") == 6 / 20
    assert len(split(whole, most_tokens=1)) == 4
    assert len(split(whole)) == 1


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "cdpo"])
def test_the_losses_are_what_their_papers_say(loss: str, tmp_path: Path) -> None:
    """The oracle is our own arithmetic on the log-probs that were logged; parts and an injected lack of memory change nothing."""
    noise = 0.1 if loss in ("robust", "cdpo") else 0.0
    whole, logged, told = fit(tmp_path / "a", loss, noise)
    parted, _, told_in_parts = fit(tmp_path / "b", loss, noise, fail=True)
    assert parted == pytest.approx(whole, rel=1e-4)
    for row, other in zip(told, told_in_parts, strict=True):
        assert other == pytest.approx(row, rel=1e-3, abs=1e-5)
    beta = 0.1
    expected = []
    for chosen, rejected, more, less in logged:
        x = beta * (chosen - rejected)
        s, t = -math.log(1 / (1 + math.exp(-x))), -math.log(1 / (1 + math.exp(x)))
        normed = chosen / more - rejected / less
        expected.append(
            {
                "sigmoid": s,
                "sigmoid_norm": -math.log(1 / (1 + math.exp(-beta * normed))),
                "ipo": (normed - 1 / (2 * beta)) ** 2,
                "hinge": max(0, 1 - x),
                "robust": ((1 - noise) * s - noise * t) / (1 - 2 * noise),
                "cdpo": (1 - noise) * s + noise * t,
            }[loss]
        )
    assert whole[-1] == pytest.approx(sum(expected) / len(expected), abs=1e-3)


TOLD = ("logps/chosen", "logps/rejected", "rewards/margins", "entropy", "logits/chosen", "num_tokens")


def fit(
    folder: Path, loss: str, noise: float, *, fail: bool = False
) -> tuple[list[float], list[tuple[float, float, int, int]], list[dict[str, float]]]:
    """Train three steps on one batch of four pairs; return the losses, log-ratios and lengths of the last step, and some metrics."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig

    from alignment.models.local import load_tokenizer
    from alignment.sections import Train
    from alignment.train.arguments import losses
    from alignment.train.tokens import tokenise
    from alignment.train.trainer import SharedPrefixDPOTrainer
    from bench.tiny import make_tiny_model
    from tests.test_train import make_pairs

    base = make_tiny_model(folder / "tiny")
    tokenizer = load_tokenizer(base)
    rows = [
        tokenise({"messages": list(p.messages), "chosen": p.chosen, "rejected": p.rejected}, tokenizer, max_completion_tokens=60)
        for p in make_pairs(4)
    ]
    kept: list[tuple[float, float, int, int]] = []
    calls: list[int] = []

    class Watched(SharedPrefixDPOTrainer):
        def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
            calls.append(len(inputs["input_ids"]))
            # The whole batch fails; then its second half, when the first has left gradients and metrics.
            if fail and calls in ([8], [8, 4, 4]):
                raise torch.OutOfMemoryError("out of memory")
            if not fail:
                labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
                with torch.no_grad():
                    found = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels, fused_lm_head=True)
                ours = found.log_probs.sum(1).tolist()
                sizes = inputs["completion_mask"].sum(1).tolist()
                kept[:] = [
                    (
                        ours[n] - float(inputs["ref_chosen_logps"][n]),
                        ours[n + 4] - float(inputs["ref_rejected_logps"][n]),
                        sizes[n],
                        sizes[n + 4],
                    )
                    for n in range(4)
                ]
            return super()._compute_loss(model, inputs, return_outputs)

    chosen = losses(Train(loss=loss, label_smoothing=noise, sft_weight=0))
    trainer = Watched(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=4,
            max_steps=3,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            loss_type=list(chosen),
            loss_weights=list(chosen.values()),
            label_smoothing=noise,
            beta=0.1,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            precompute_ref_log_probs=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        base_id="tiny",
        reference_cache=folder / "reference.parquet",
    )
    trainer.train()
    assert calls == ([8, 4, 4] + 12 * [2] if fail else [8, 8, 8])
    assert trainer.fallback is None
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return [row["loss"] for row in rows], kept, [{name: row[name] for name in TOLD} for row in rows]


@pytest.mark.parametrize("changes", [{"max_batch_tokens": 50}, {}], ids=["budget", "memory"])
def test_the_reference_and_held_out_pairs_keep_within_memory_too(
    changes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither meets more than one pair at a time, by the budget of tokens or by a lack of memory, and both say the same."""
    import torch

    from alignment.models.identity import folder_id
    from alignment.train import reference
    from alignment.train.job import write_job
    from alignment.train.run import train
    from alignment.train.trainer import SharedPrefixDPOTrainer
    from bench.tiny import make_tiny_model
    from tests.test_train import make_pairs, settings

    base = make_tiny_model(tmp_path / "tiny")
    met: list[int] = []
    score, loss = SharedPrefixDPOTrainer.compute_ref_log_probs, SharedPrefixDPOTrainer._compute_loss

    def found(name: str, most: int, **more: int) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
        def watched(stock: Any) -> Any:
            def call(self: Any, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
                pairs = len(inputs["input_ids"]) // 2
                if pairs > most:
                    raise torch.OutOfMemoryError("out of memory")
                met.append(pairs)
                return stock(self, model, inputs, *rest)

            return call

        monkeypatch.setattr(SharedPrefixDPOTrainer, "compute_ref_log_probs", watched(score))
        monkeypatch.setattr(SharedPrefixDPOTrainer, "_compute_loss", watched(loss))
        chosen = settings(epochs=1, batch_size=3, learning_rate=1e-12, **more)
        job = write_job(tmp_path / name, base, folder_id(base), tmp_path / f"{name}.parquet", make_pairs(18), chosen)
        met.clear()
        return train(job), reference.load(job.reference_cache)

    whole, known = found("whole", 9, max_batch_tokens=0)
    assert max(met) == 3
    parted, again = found("parts", 9 if changes else 1, **({"max_batch_tokens": 0} | changes))
    assert max(met) == 1
    assert again.keys() == known.keys()
    for key, values in known.items():
        assert again[key] == pytest.approx(values, rel=1e-3)
    for name in ("reward_margin", "kl", "loss"):
        assert parted[name] == pytest.approx(whole[name], rel=1e-3, abs=1e-2), name


@pytest.mark.gpu
def test_flex_attention_on_a_gpu_gives_what_sdpa_gives_there() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    from alignment.train.prefix_shared import dense, flex, lay_out

    inputs = batch()
    layout = lay_out(*(inputs[name].cuda() for name in ("input_ids", "attention_mask", "labels")))
    query, key, value = (torch.randn(1, 4, layout.tokens.shape[1], 16, device="cuda") for _ in range(3))
    assert torch.allclose(dense(query, key, value, layout, None, None), flex(query, key, value, layout, None, None), atol=1e-3)
