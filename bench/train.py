"""Measure training speed in pairs against stock TRL with the same data, seeds, base and optimiser, interleaved in one run.

`align bench train` measures one pass over the same pairs, each way in a separate process and after a warm-up step: `stock` (TRL's
DPOTrainer with its reference precomputed, no gradient checkpointing and batches grouped by length), `random` (the same with TRL's default
order) and `ours`.
`hh` are HH harmless dialogues (ALIGN_DATA_DIR), `short` are single-turn exchanges of the bundled traffic.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

WAYS = ("stock", "random", "ours")
SEED = 0


def hh_pairs(number: int) -> list[dict[str, Any]]:
    """Return HH harmless dialogues as pairs, reading whole files in order; dialogues over about 512 tokens are left out."""
    path = Path(os.environ.get("ALIGN_DATA_DIR", "../shared/data")) / "hh_harmless_base_test.jsonl.gz"
    found: list[dict[str, Any]] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            turns, chosen = _turns(row["chosen"])
            others, rejected = _turns(row["rejected"])
            if turns == others and chosen and rejected and chosen != rejected and len(row["chosen"]) < 1600 and len(row["rejected"]) < 1600:
                found.append({"messages": turns, "chosen": chosen, "rejected": rejected})
            if len(found) == number:
                break
    return found


def _turns(text: str) -> tuple[list[dict[str, str]], str]:
    parts = text.replace("\n\nHuman:", "\x00user\x01").replace("\n\nAssistant:", "\x00assistant\x01").split("\x00")[1:]
    turns = [{"role": role, "content": content.strip()} for role, content in (part.split("\x01", 1) for part in parts)]
    return turns[:-1], turns[-1]["content"]


def short_pairs(number: int) -> list[dict[str, Any]]:
    """Return bundled exchanges of one turn: the logged answer and a refusal, alternating as chosen and rejected."""
    from importlib.resources import files

    rows: list[dict[str, Any]] = []
    for line in gzip.decompress((files("alignment.samples") / "traffic.jsonl.gz").read_bytes()).decode().split("\n"):
        with suppress(ValueError, KeyError, AttributeError):  # the sample has broken lines on purpose
            row = json.loads(line)
            if len(row["messages"]) == 1 and row["response"].strip():
                rows.append(row)
        if len(rows) == number:
            break
    refusal = "I can't help with that. A doctor, a lawyer or the local emergency number can."
    return [
        {
            "messages": row["messages"],
            "chosen": (row["response"], refusal)[index % 2],
            "rejected": (refusal, row["response"])[index % 2],
        }
        for index, row in enumerate(rows)
    ]


def _child(way: str, data: str, precision: str, base: Path, number: int, batch: int) -> None:
    from transformers import TrainerCallback

    rows = _rows(base, data, number)
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer(way, precision, base, rows, batch, Path(scratch), Clock())
        ready = time.perf_counter()
        # The orders differ: if the warm-up were a step, each way would leave out other pairs.
        first = trainer.data_collator([trainer.train_dataset[index] for index in range(batch)])
        trainer.model.train()
        trainer.compute_loss(trainer.model, first).backward()
        trainer.model.zero_grad()
        trainer._metrics["train"].clear()
        trainer.train()
    found = {
        "seconds": times[-1] - times[0],
        "pairs": number,
        "reference_seconds": ready - started,
        "loss": statistics.mean(row["loss"] for row in trainer.state.log_history if "loss" in row),
        "tokens": sum(row["length"] for row in rows) / len(rows),
        "prompt": sum(len(row["prompt_ids"]) for row in rows) / len(rows),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(json.dumps(found))


def _rows(base: Path, data: str, number: int) -> list[Any]:
    from alignment.models.local import load_tokenizer
    from alignment.train.tokens import tokenise

    tokenizer = load_tokenizer(base)
    make, cut = (hh_pairs, 512) if data == "hh" else (short_pairs, 24)
    rows: list[Any] = [tokenise(pair, tokenizer, max_completion_tokens=cut) for pair in make(number)]
    for row in rows:
        row["length"] = len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
    return rows


def _trainer(way: str, precision: str, base: Path, rows: list[Any], batch: int, folder: Path, clock: Any) -> Any:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    from alignment.models.local import load_tokenizer
    from alignment.train.trainer import SharedPrefixDPOTrainer

    class Stock(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            self._signature_columns.append("length")

    ours: dict[str, Any] = {"base_id": "bench", "reference_cache": folder / "reference.parquet", "max_tokens": 4096}
    return (SharedPrefixDPOTrainer if way == "ours" else Stock)(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, precision)),
        args=DPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=batch,
            num_train_epochs=1,
            learning_rate=5e-4,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, 1.0],
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=batch,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            max_length=1024,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
            data_seed=SEED,
            **({"train_sampling_strategy": "group_by_length", "length_column_name": "length"} if way == "stock" else {}),
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(base),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
        **(ours if way == "ours" else {}),
    )


def _measure(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.train", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(base: Path, *, data: str, precision: str, pairs: int, repeat: int, batch: int = 8) -> list[dict[str, Any]]:
    """Return one row per way: median pairs per second, the ratio to stock TRL's better order, reference seconds, peak memory (GiB).

    The ratio is the median of the ratios per round.
    """
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for round_number in range(repeat):
        # Rotate the order, so that no way always runs after the same other way.
        for way in WAYS[round_number % 3 :] + WAYS[: round_number % 3]:
            found[way].append(_measure(way, data, precision, base, pairs, batch))
    best = min(("stock", "random"), key=lambda way: statistics.median(one["seconds"] for one in found[way]))
    return [
        {
            "data": data,
            "precision": precision,
            "way": way,
            "pairs_per_second": statistics.median(one["pairs"] / one["seconds"] for one in results),
            "times_stock": statistics.median(other["seconds"] / one["seconds"] for one, other in zip(results, found[best], strict=True)),
            "reference_seconds": statistics.median(one["reference_seconds"] for one in results),
            "loss": results[0]["loss"],
            "peak_gib": max(one["peak_gib"] for one in results),
            "tokens": results[0]["tokens"],
            "prompt": results[0]["prompt"],
        }
        for way, results in found.items()
    ]


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
