"""TRL's DPOTrainer with shared prefixes, cached reference log-probs and answers cut by tokens.

TRL keeps its losses, metrics, logging, callbacks and checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from alignment.train import reference
from alignment.train.prefix_shared import PrefixShared


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


class SharedPrefixDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPO over rows `prompt | chosen | rejected`."""

    def __init__(self, *args: Any, base_id: str, reference_cache: Path, **kwargs: Any) -> None:
        self._base_id, self._reference_cache = base_id, reference_cache
        self.reference_computed = 0
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        # `alignment.train.tokens` has tokenised already, so that a cut answer does not end as if it were complete.
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBuckets:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows]
        return LengthBuckets(lengths, batch=self.args.per_device_train_batch_size, seed=self.args.seed)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        return super()._compute_loss(self._shared(model), inputs, return_outputs)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Return the frozen base's log-probs of a batch, (B,) for chosen and (B,) for rejected."""
        base = self.accelerator.unwrap_model(self.model)
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(base, self.args.gradient_checkpointing_kwargs),
            use_adapter(base, None),
        ):
            labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
            outputs = self._shared(base)(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels)
        return outputs.log_probs.sum(1).chunk(2, dim=0)

    def _shared(self, model: Any) -> PrefixShared:
        return PrefixShared(self.accelerator.unwrap_model(model), pad=self._tokenizer.pad_token_id)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        precision = str(self.model.get_base_model().dtype)
        keys = [reference.key(self._base_id, precision, row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in dataset]
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
        if missing:
            reference.save(self._reference_cache, known)
        return dataset.add_column("ref_chosen_logps", [known[key][0] for key in keys]).add_column(
            "ref_rejected_logps", [known[key][1] for key in keys]
        )
