"""TRL's DPOTrainer with shared prefixes, cached reference log-probs and answers cut by tokens.

TRL keeps its losses, metrics, logging, callbacks and checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from alignment.errors import TrainingError
from alignment.train import reference
from alignment.train.divergence import reference_kl
from alignment.train.parts import out_of_memory, shares, split
from alignment.train.prefix_shared import install, why_not


class LengthBuckets(Sampler[int]):  # type: ignore[misc]
    """Rows of similar length share a batch, in an order fixed by (seed, epoch), so that a resumed run meets the same batches.

    Windows of eight batches are drawn at random and sorted by length; the batches are then shuffled.
    """

    def __init__(self, lengths: Sequence[int], *, batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the training loop calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        drawn = torch.randperm(len(self.lengths), generator=generator).tolist()
        window = 8 * self.batch
        ordered = [
            row
            for start in range(0, len(drawn), window)
            for row in sorted(drawn[start : start + window], key=lambda row: self.lengths[row])
        ]
        batches = [ordered[start : start + self.batch] for start in range(0, len(ordered), self.batch)]
        # A short last batch stays last, or it would shift the borders of all after it.
        full = len(batches) - (len(batches[-1]) < self.batch)
        for index in [*torch.randperm(full, generator=generator).tolist(), *range(full, len(batches))]:
            yield from batches[index]


@dataclass
class _Collator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator, with the weights of pairs where there are any."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        if "weight" in examples[0]:
            batch["weight"] = torch.tensor([example["weight"] for example in examples])
        return batch


class SharedPrefixDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPO over shared rows, in micro-batches of at most `max_tokens` tokens; `fallback` says why a model is trained by stock TRL."""

    def __init__(
        self,
        *args: Any,
        base_id: str,
        reference_cache: Path,
        max_tokens: int = 0,
        reference_free: bool = False,
        **kwargs: Any,
    ) -> None:
        self._base_id, self._reference_cache, self._reference_free = base_id, reference_cache, reference_free
        self._max_tokens, self._most_pairs = max_tokens, 0
        self.reference_computed, self._tried = 0, False
        self.fallback: str | None = None
        tokenizer = kwargs["processing_class"]
        collator = _Collator(pad_token_id=tokenizer.pad_token_id, max_length=kwargs["args"].max_length)
        super().__init__(*args, data_collator=collator, **kwargs)
        self._share()

    def _share(self) -> None:
        if self._tried:
            return
        self._tried = True
        model = self._causal()
        self.fallback = why_not(model)
        if self.fallback:
            install(model, share=False)
            print(f"stock TRL trains this model, which takes longer: {self.fallback}", flush=True)  # noqa: T201

    def _causal(self) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        # `alignment.train.tokens` has tokenised already, so that a cut answer does not end as if it were complete.
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns: list[str] | None = [*(self._signature_columns or ()), "weight"]

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBuckets:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows]
        return LengthBuckets(lengths, batch=self.args.per_device_train_batch_size, seed=self.args.seed)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Train on a batch, in as many parts as memory asks for; the gradient is the whole batch's.

        Raises:
            TrainingError: a single pair does not fit the memory.
        """
        while True:
            try:
                return self._in_parts(model, inputs, num_items_in_batch)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.accelerator.num_processes > 1:
                    raise
                self._halve(model, len(inputs["input_ids"]) // 2)

    def _halve(self, model: Any, pairs: int) -> None:
        now = min(self._most_pairs or pairs, pairs)
        if now == 1:
            raise TrainingError(
                "one pair does not fit the memory; lower [train] max_tokens or lora_rank, or set gradient_checkpointing"
            ) from None
        self._most_pairs = now // 2
        # What parts of this batch have left in the gradients is computed again.
        model.zero_grad()
        torch.cuda.empty_cache()
        print(f"out of memory: {self._most_pairs} pairs at a time from here on, the same batch a step", flush=True)  # noqa: T201

    def _in_parts(self, model: Any, inputs: dict[str, Any], items: Any) -> torch.Tensor:
        # Processes wait for one another at every backward pass: all must have as many.
        alone = self.accelerator.num_processes == 1
        parts = split(inputs, most_tokens=self._max_tokens, most_pairs=self._most_pairs) if alone else [inputs]
        if len(parts) == 1:
            return super().training_step(model, inputs, items)
        weights = list(self.loss_weights)  # type: ignore[has-type]
        whole = shares(inputs)
        try:
            losses = []
            for part in parts:
                here = shares(part)
                scale = {name: here[name] / whole[name] for name in here}
                self.loss_weights = [
                    weight * scale["sft" if kind == "sft" else "pairs"] for kind, weight in zip(self.loss_types, weights, strict=True)
                ]
                losses.append(super().training_step(model, part, items))
        finally:
            self.loss_weights = weights
        return torch.stack(losses).sum()

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Evaluate as TRL does, and say how far the policy is from its reference (`eval_kl`, nats a token)."""
        found = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        found.metrics[f"{metric_key_prefix}_kl"] = reference_kl(
            self.accelerator.unwrap_model(self.model), self.eval_dataset, device=self.accelerator.device
        )
        return found

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Return the frozen base's log-probs of a batch, (B,) for chosen and (B,) for rejected."""
        return super().compute_ref_log_probs(model, {name: tensor for name, tensor in inputs.items() if name != "weight"})

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self._reference_free:
            nothing = [0.0] * len(dataset)
            return dataset.add_column("ref_chosen_logps", nothing).add_column("ref_rejected_logps", nothing)
        self._share()
        keys = [
            reference.key(self._base_id, str(self._causal().dtype), row["prompt_ids"], row["chosen_ids"], row["rejected_ids"])
            for row in dataset
        ]
        known = reference.load(self._reference_cache)
        missing = sorted(
            (index for index, key in enumerate(keys) if key not in known),
            key=lambda index: len(dataset[index]["prompt_ids"]) + len(dataset[index]["chosen_ids"]),
        )
        self.reference_computed += len(missing)
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            inputs = self.data_collator([dataset[index] for index in batch])
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in inputs.items()}
            chosen, rejected = self.compute_ref_log_probs(self.model, inputs)
            for index, one, other in zip(batch, chosen.tolist(), rejected.tolist(), strict=True):
                known[keys[index]] = (one, other)
        if missing and self.accelerator.is_main_process:
            reference.save(self._reference_cache, known)
        return dataset.add_column("ref_chosen_logps", [known[key][0] for key in keys]).add_column(
            "ref_rejected_logps", [known[key][1] for key in keys]
        )
