"""TRL's DPOTrainer with shared prefixes, cached reference log-probs and answers cut by tokens.

TRL keeps its losses, metrics, logging, callbacks and checkpoints.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from alignment.errors import TrainingError
from alignment.train import reference
from alignment.train.callbacks import Progress
from alignment.train.events import say, tell
from alignment.train.kl import answer_logits, reference_kl
from alignment.train.micro_batches import Averages, Counts, count, out_of_memory, scale, split
from alignment.train.operating_point import operating_point, refusal_probability
from alignment.train.prefix_shared import install, why_not
from alignment.train.processes import any_process
from alignment.train.sharding import shard, sharded


class LengthBuckets(Sampler[int]):  # type: ignore[misc]
    """Batches rows of similar length, in an order fixed by (seed, epoch), so that a resumed run sees the same batches.

    Draws windows of eight batches at random, sorts each by length, and shuffles the batches.
    """

    def __init__(self, lengths: Sequence[int], *, batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order; the training loop calls it."""
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
        # A short last batch stays last, or it would shift the borders of all later batches.
        full = len(batches) - (len(batches[-1]) < self.batch)
        for index in [*torch.randperm(full, generator=generator).tolist(), *range(full, len(batches))]:
            yield from batches[index]


class Shares(Sampler[list[int]]):  # type: ignore[misc]
    """One process's rows of each step: together, the processes take the same steps as a single process.

    If a step cannot be shared evenly, every process computes all of it, so that the mean over processes is still the step's own.
    """

    def __init__(self, rows: LengthBuckets, *, processes: int, index: int) -> None:
        self.rows, self.processes, self.index = rows, processes, index

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order; the training loop calls it."""
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.rows.batch)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.rows)
        for start in range(0, len(order), self.rows.batch):
            step = order[start : start + self.rows.batch]
            part, odd = divmod(len(step), self.processes)
            yield step if odd else step[self.index * part : (self.index + 1) * part]


@dataclass
class _Collator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator, plus the weights of pairs if they have any."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        if "weight" in examples[0]:
            batch["weight"] = torch.tensor([example["weight"] for example in examples])
        return batch


class SharedPrefixDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPO over shared rows, in micro-batches of at most `max_tokens` tokens; `fallback` says why stock TRL trains a model.

    Full training overwrites the reference in the model: `load_base` loads it again for each evaluation on held-out pairs.
    """

    def __init__(
        self,
        *args: Any,
        base_id: str,
        reference_cache: Path,
        precision: str | None = None,
        load_base: Callable[[], Any] | None = None,
        max_tokens: int = 0,
        reference_free: bool = False,
        progress: Progress | None = None,
        refusals: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        self._base_id, self._reference_cache, self._reference_free = base_id, reference_cache, reference_free
        self._precision, self._load_base = precision or str(kwargs["model"].dtype), load_base
        self._max_tokens, self._most_pairs, self._progress = max_tokens, 0, progress
        self._refusals = refusals
        self.reference_computed, self._tried = 0, False
        self._averages: dict[str, Averages] = defaultdict(Averages)
        self.fallback: str | None = None
        tokenizer = kwargs["processing_class"]
        collator = _Collator(pad_token_id=tokenizer.pad_token_id, max_length=kwargs["args"].max_length)
        super().__init__(*args, data_collator=collator, **kwargs)
        self._share()
        # TRL puts an adapter on a 4-bit base in bfloat16, which loses the small updates late in training.
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()

    def _share(self) -> None:
        if self._tried:
            return
        self._tried = True
        if sharded():
            # Shard before any compute: a process may have loaded no weights, and one device may be too small for all of them.
            held, of = shard(self.accelerator, self.model), sum(weight.numel() for weight in self.model.parameters())
            # Otherwise evaluating a run with no steps left would shard them again, and fail for lack of an optimiser.
            self.accelerator._models.append(self.model)
            say(f"FSDP: of {of:,} weights this process holds {held:,}")
        model = self._causal()
        self.fallback = why_not(model, self.args.max_length or float("inf"), call=self.model)
        if self.fallback:
            if sharded():
                self.model.reset_iter_state()  # torch requires it where the trial failed in the middle of a pass
            install(model, share=False)
            say(f"stock TRL trains this model, which takes longer: {self.fallback}")

    def _causal(self) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the optimiser of the trainable weights."""
        if sharded():
            # The passes before training leave some weights unsharded, but the optimiser updates the sharded ones.
            self.model.reset_iter_state()
        return super().create_optimizer(model)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        # `alignment.train.tokens` has tokenised the rows already, so that a cut answer does not end as if it were complete.
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns: list[str] | None = [*(self._signature_columns or ()), "weight"]

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBuckets:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows]
        step = self.args.per_device_train_batch_size * self.args.world_size
        return LengthBuckets(lengths, batch=step, seed=self.args.seed)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches of this process."""
        if self.args.world_size == 1:
            return super().get_train_dataloader()  # type: ignore[no-any-return]
        loader: DataLoader[Any] = DataLoader(
            self._remove_unused_columns(self.train_dataset, description="training"),
            batch_sampler=Shares(self._get_train_sampler(), processes=self.args.world_size, index=self.args.process_index),
            collate_fn=self.data_collator,
        )
        # The sampler has chosen this process's share, so accelerate must not split it again.
        return prepare_data_loader(loader, device=self.accelerator.device, num_processes=1, process_index=0, put_on_device=True)  # type: ignore[no-any-return]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return the held-out batches: each process reads all of them, since shares would be padded with repeated pairs."""
        if self.args.world_size == 1:
            return super().get_eval_dataloader(eval_dataset)  # type: ignore[no-any-return]
        rows = self._remove_unused_columns(eval_dataset if eval_dataset is not None else self.eval_dataset, description="evaluation")
        loader: DataLoader[Any] = DataLoader(rows, batch_size=self.args.per_device_eval_batch_size, collate_fn=self.data_collator)
        return prepare_data_loader(loader, device=self.accelerator.device, num_processes=1, process_index=0, put_on_device=True)  # type: ignore[no-any-return]

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Train on a batch, split into as many parts as memory requires; the gradient is the whole batch's.

        Raises:
            TrainingError: a single pair does not fit the memory.
        """
        step = super().training_step
        return self._fitting(inputs, "train", lambda part: step(model, part, num_items_in_batch))

    def prediction_step(self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """Return the loss of a held-out batch, split into parts as memory requires, without logits and labels."""
        step = super().prediction_step
        return self._fitting(inputs, "eval", lambda part: step(model, part, True, ignore_keys)[0]), None, None

    def _fitting(self, inputs: dict[str, Any], mode: str, step: Callable[[dict[str, Any]], torch.Tensor]) -> torch.Tensor:
        """Return the batch's loss; discard the metrics of parts that are computed again."""
        before = {name: list(values) for name, values in self._metrics[mode].items()}
        seen, tokens = list(self._averages[mode].seen), self._total_train_tokens  # type: ignore[has-type]
        while True:
            try:
                return self._in_parts(inputs, step)
            except (RuntimeError, MemoryError) as error:
                self._halve(error, len(inputs["input_ids"]) // 2)
                self._metrics[mode] = defaultdict(list, {name: list(values) for name, values in before.items()})
                self._averages[mode].seen, self._total_train_tokens = list(seen), tokens

    def _halve(self, error: BaseException, pairs: int) -> None:
        """Halve the micro-batch from now on, if `error` is an out-of-memory error and there is only one process."""
        if not out_of_memory(error) or self.accelerator.num_processes > 1:
            raise error
        now = min(self._most_pairs or pairs, pairs)
        if now == 1:
            raise TrainingError(
                "one pair does not fit the memory; lower [train] max_tokens or lora_rank, or set gradient_checkpointing"
            ) from None
        self._most_pairs = now // 2
        # The retry recomputes the gradients that parts of this batch have left.
        self.model.zero_grad()
        torch.cuda.empty_cache()
        say(f"out of memory: {self._most_pairs} pairs at a time from here on, the same batch a step")

    def _parts(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        # Processes synchronise at every pass: all need the same number of parts.
        if self.accelerator.num_processes > 1:
            return [inputs]
        return split(inputs, most_tokens=self._max_tokens, most_pairs=self._most_pairs)

    def _in_parts(self, inputs: dict[str, Any], step: Callable[[dict[str, Any]], torch.Tensor]) -> torch.Tensor:
        parts, alone = self._parts(inputs), self.accelerator.num_processes == 1
        if alone and len(parts) == 1:
            return step(inputs)
        kinds, weights = self.loss_types, list(self.loss_weights)  # type: ignore[has-type]
        whole = count(inputs) if alone else self._mean(count(inputs))
        try:
            losses = []
            for part in parts:
                here = count(part)
                self.loss_weights = [weight * scale(here, whole, kind) for kind, weight in zip(kinds, weights, strict=True)]
                losses.append(step(part))
        finally:
            self.loss_weights = weights
        return torch.stack(losses).sum()

    def _mean(self, counts: Counts) -> Counts:
        """Return the mean over all processes, which average their gradients too."""
        return Counts(*self.accelerator.reduce(torch.tensor(counts, device=self.accelerator.device), "mean").tolist())

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        apart = "weight" in inputs and "sft" in self.loss_types
        found = self._with_weighed_sft(model, inputs) if apart else super()._compute_loss(model, inputs, return_outputs)
        self._averages["train" if self.model.training else "eval"].add(inputs)
        return found

    def _with_weighed_sft(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the loss of weighted pairs: TRL weighs all losses but the supervised one, where its in-place multiplication fails."""
        kinds, weights = self.loss_types, self.loss_weights  # type: ignore[has-type]
        kept = [(kind, weight) for kind, weight in zip(kinds, weights, strict=True) if kind != "sft"]
        self.loss_types, self.loss_weights = [kind for kind, _ in kept], [weight for _, weight in kept]
        try:
            loss: torch.Tensor = super()._compute_loss(model, inputs, False)
        finally:
            self.loss_types, self.loss_weights = kinds, weights
        weight = inputs["weight"]
        answered = inputs["completion_mask"][: len(weight), 1:]
        log_probs = self._causal().scored[: len(weight), -answered.shape[1] :] * answered * weight.unsqueeze(1)
        return loss - weights[kinds.index("sft")] * log_probs.sum() / answered.sum()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with means over pairs and tokens instead of means over forward passes."""
        mode = "train" if self.model.training else "eval"
        self._averages[mode].settle(self._metrics[mode])
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Evaluate as TRL does; add the policy's distance from its reference (`eval_kl`, nats per token) and its operating point."""
        found = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        here = torch.tensor(self._kl(), device=self.accelerator.device)
        # All processes need the same number, because all must stop on it.
        found.metrics[f"{metric_key_prefix}_kl"] = float(self.accelerator.reduce(here, "mean"))
        point = operating_point(self._answer_logits, self._refusals)
        found.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in point.items()})
        return found

    def refusal_probability(self) -> float:
        """Return the mean probability of the refusal after held-out harmless requests, the same in all processes; NaN with too few."""
        if self._progress:
            self._progress.leave_if_trained(self.accelerator.device)
        self.model.eval()
        here = torch.tensor(refusal_probability(self._answer_logits, self._refusals), device=self.accelerator.device)
        return float(self.accelerator.reduce(here, "mean"))

    def _answer_logits(self, rows: Any) -> torch.Tensor:
        return answer_logits(self.model, rows, shared=self.fallback is None)

    def _kl(self) -> float:
        shared = self.fallback is None
        frozen, base_alone = self.model, getattr(self.accelerator.unwrap_model(self.model), "disable_adapter", None)
        if base_alone is None:
            if self._load_base is None:
                return float("nan")
            # Only for an evaluation: it doubles the memory.
            frozen, base_alone = self._load_base().eval(), contextlib.nullcontext
            if sharded():
                shard(self.accelerator, frozen)
            else:
                frozen.to(self.accelerator.device)
            if shared:
                install(frozen)

        def reference(rows: Any) -> torch.Tensor:
            if self._progress:
                self._progress.leave_if_trained(self.accelerator.device)
            with base_alone():
                return answer_logits(frozen, rows, shared=shared)

        found: float = reference_kl(self._answer_logits, reference, self.eval_dataset)
        return found

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Return the frozen base's log-probs of a batch: (B,) for chosen and (B,) for rejected."""
        return super().compute_ref_log_probs(model, {name: tensor for name, tensor in inputs.items() if name != "weight"})

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self._reference_free:
            nothing = [0.0] * len(dataset)
            return dataset.add_column("ref_chosen_logps", nothing).add_column("ref_rejected_logps", nothing)
        self._share()
        # All processes must see the same cache: with sharded weights they must compute the same batches.
        self.accelerator.wait_for_everyone()
        keys = [reference.key(self._base_id, self._precision, row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in dataset]
        cache = reference.Cache(self._reference_cache, self._spent, writes=self.accelerator.is_main_process)
        missing = sorted(
            (index for index, key in enumerate(keys) if key not in cache.known),
            key=lambda index: len(dataset[index]["prompt_ids"]) + len(dataset[index]["chosen_ids"]),
        )
        batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
        total = self.reference_computed + len(missing)
        try:
            # Save only after whole batches: the next process forms the same batches from the rest.
            for batch in batches:
                self._leave_if_asked(total)
                cache.add(dict(zip([keys[index] for index in batch], self._reference_of(dataset.select(batch)), strict=True)))
                self.reference_computed += len(batch)
                tell(reference=self.reference_computed, of=total)
        finally:
            cache.save()
        return dataset.add_column("ref_chosen_logps", [cache.known[key][0] for key in keys]).add_column(
            "ref_rejected_logps", [cache.known[key][1] for key in keys]
        )

    def _leave_if_asked(self, total: int) -> None:
        if self._progress and any_process(self._progress.must_leave(), self.accelerator.device):
            raise TrainingError(
                f"training stopped after {self.reference_computed} of {total} reference log-probs: it was asked to; run it again to resume"
            )

    def _spent(self, computed: int) -> None:
        if self._progress:
            self._progress.spent.keep(computed=computed)

    def _reference_of(self, rows: Dataset) -> list[tuple[float, float]]:
        inputs = {name: tensor.to(self.accelerator.device) for name, tensor in self.data_collator(list(rows)).items()}
        while True:
            try:
                found = [self.compute_ref_log_probs(self.model, part) for part in self._parts(inputs)]
            except (RuntimeError, MemoryError) as error:
                self._halve(error, len(rows))
            else:
                chosen, rejected = (torch.cat(side) for side in zip(*found, strict=True))
                return list(zip(chosen.tolist(), rejected.tolist(), strict=True))
