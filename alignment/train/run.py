"""One training run from its run file to an adapter with a manifest.

Effects: loads a model, trains, writes the run folder; stops when its parent is gone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, TrainerCallback
from trl import DPOConfig

from alignment import __version__
from alignment.config import Train
from alignment.errors import InputError, ModelError, TrainingError
from alignment.ids import canonical, content_id, file_sha256, short
from alignment.models.local import best_dtype, load_tokenizer, weights_id
from alignment.train.job import METRICS, PAIRS, TrainJob, read_pairs, write_result
from alignment.train.tokens import tokenise
from alignment.train.trainer import SharedPrefixDPOTrainer

_LEAST_MARGIN = 0.05


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Writes each logged step to `metrics.jsonl` and stdout; ends an orphaned run."""

    def __init__(self, folder: Path, parent: int | None) -> None:
        self.path, self.parent, self.asked, self.left = folder / METRICS, parent, False, False
        self.since: tuple[int, float] | None = None
        # A full disk may have cut the last line: what follows must not continue it.
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("a", encoding="utf-8") as out:
                out.write("\n")
        # Asked again, it still only asks: a service manager and the flow may both send the signal.
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Append the values of one step; of several processes the first one does."""
        if not state.is_world_process_zero:
            return
        row = {"step": state.global_step, "of": state.max_steps, **(logs or {}), **self._speed(args, state)}
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        with suppress(BrokenPipeError):  # a killed parent reads no more, and the checkpoint is still to be saved
            print(json.dumps(row), flush=True)  # noqa: T201 - the parent reads progress here
        loss = row.get("loss")
        if loss is not None and not loss == loss:
            raise TrainingError(f"the loss is {loss} at step {state.global_step}; lower [train] learning_rate")

    def _speed(self, args: Any, state: Any) -> dict[str, float]:
        """Return pairs/s since the first step of this process, and the seconds left."""
        now = time.perf_counter()
        if self.since is None:
            self.since = (state.global_step, now)
        done = state.global_step - self.since[0]
        if not done:
            return {}
        step_seconds = (now - self.since[1]) / done
        left = step_seconds * (state.max_steps - state.global_step)
        return {"pairs_per_second": args.train_batch_size * args.world_size / step_seconds, "seconds_left": left}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop at a checkpoint on SIGTERM, or when the flow that started this run was killed: its next run resumes here."""
        if _any_process(self.asked or (self.parent is not None and _gone(self.parent)), args.device):
            self.left = True
            control.should_save = control.should_training_stop = True


def _any_process(said: bool, device: Any) -> bool:
    """Say whether any of the processes that train together said so: they must stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return said
    told = torch.tensor(float(said), device=device)
    torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
    return bool(told.item())


def _gone(parent: int) -> bool:
    """Say whether the process that started this one, or its launcher, is no more."""
    if os.getppid() == parent:
        return False
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's process has its number by now
        return True
    return False


class _KlLimit(TrainerCallback):  # type: ignore[misc]
    """Stops a policy that has gone too far from its reference."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Stop at a look that finds more than the limit."""
        if metrics["eval_kl"] > self.limit:
            control.should_training_stop = True


def _stoppers(settings: Train, held_out: int) -> list[TrainerCallback]:
    if (settings.patience or settings.max_kl) and not held_out:
        raise InputError("[train] patience and max_kl look at held-out pairs, and there are none; raise [pairs] eval_share")
    patient = [EarlyStoppingCallback(settings.patience)] if settings.patience else []
    return patient + ([_KlLimit(settings.max_kl)] if settings.max_kl else [])


def train(job: TrainJob, *, parent: int | None = None) -> dict[str, Any]:
    """Train, or resume from the last checkpoint; return the summary that is also written.

    With `parent`, a process id, training stops at a checkpoint when that process is no longer this one's parent.

    Raises:
        InputError: no pair fits the token limit, or early stopping has no held-out pair to look at; see also `check_base`.
        ModelError: the base or its tokenizer cannot be loaded.
        TrainingError: the loss stopped being a number.
    """
    started = time.perf_counter()
    check_base(job)
    tokenizer = load_tokenizer(job.base)
    rows = _dataset(job, tokenizer)
    model = _load(job.base)
    callback = _Progress(job.folder, parent)
    trainer = SharedPrefixDPOTrainer(
        model=model,
        args=_arguments(job, len(rows["train"]), looks=bool(job.settings.eval_steps and len(rows["eval"]))),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"] if len(rows["eval"]) else None,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=job.settings.lora_rank,
            lora_alpha=2 * job.settings.lora_rank,
            target_modules=_adapted(model, job.settings.lora_layers),
            task_type="CAUSAL_LM",
        ),
        callbacks=[callback, *_stoppers(job.settings, len(rows["eval"]))],
        base_id=job.base_id,
        reference_cache=job.reference_cache,
        max_tokens=job.settings.max_batch_tokens,
        reference_free=job.settings.reference_free,
    )
    trainer.train(resume_from_checkpoint=_checkpoint(job))
    if callback.left and trainer.state.global_step < trainer.state.max_steps:
        raise TrainingError(f"training stopped at step {trainer.state.global_step}: it was asked to; run it again to resume")
    measured = trainer.evaluate() if len(rows["eval"]) else {}
    summary = _summary(trainer, rows, measured, time.perf_counter() - started)
    if trainer.is_world_process_zero():
        _save(job, trainer, tokenizer, summary)
    trainer.accelerator.wait_for_everyone()
    return summary


def check_base(job: TrainJob) -> None:
    """Refuse a base that is not the one this run was written for, or whose context is shorter than the rows.

    Raises:
        InputError: either holds.
        ModelError: there are no weights.
    """
    if (found := weights_id(job.base)) != job.base_id:
        raise InputError(
            f"the weights of {str(job.base)!r} are {short(found)!r}, but this run and its reference are of {short(job.base_id)!r}; "
            "restore them, or run 'align train' again for a run of the new base"
        )
    config = json.loads((job.base / "config.json").read_text(encoding="utf-8"))
    context = config.get("max_position_embeddings")
    if context and job.settings.max_tokens > context:
        raise InputError(f"[train] max_tokens = {job.settings.max_tokens} is more than the model's context of {context}; lower it")


def _checkpoint(job: TrainJob) -> str | None:
    """Return the newest whole checkpoint: its state file is written last, and a full disk can cut it."""
    for state in sorted((job.folder / "checkpoints").glob("checkpoint-*/trainer_state.json"), key=os.path.getmtime, reverse=True):
        with suppress(ValueError):
            json.loads(state.read_text(encoding="utf-8"))
            return str(state.parent)
    return None


def _adapted(model: Any, share: float) -> str | list[str]:
    """Return the linear modules of the upper layers: below the lowest of them there is no backward pass to pay for."""
    if share == 1:
        return "all-linear"
    layers = model.config.num_hidden_layers
    first = layers - max(round(layers * share), 1)
    numbered = ((re.search(r"\.(\d+)\.", name), name) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear))
    return [name for number, name in numbered if number and int(number[1]) >= first]


def _load(base: Path) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(base, dtype=best_dtype(), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the base model {str(base)!r}: {error}; run 'align doctor'") from error


def _dataset(job: TrainJob, tokenizer: Any) -> dict[str, Dataset]:
    limit = job.settings.max_tokens
    split: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
    left_out: list[str] = []
    for pair in read_pairs(job):
        ids = tokenise(pair, tokenizer, max_completion_tokens=job.settings.max_completion_tokens)
        if len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"])) <= limit:
            split[pair["split"]].append({**ids, "margin": pair.get("judge_margin", 1.0)})
        else:
            left_out.append(pair["id"])
    if left_out:
        said = f"{len(left_out)} pairs are longer than [train] max_tokens = {limit} and left out, first {short(left_out[0])!r}"
        print(said, file=sys.stderr, flush=True)  # noqa: T201 - the parent keeps it in train.log
    if not split["train"]:
        raise InputError(f"no training pair fits [train] max_tokens = {limit}; raise it")
    for rows in split.values():
        _weigh(rows, by_margin=job.settings.weigh_pairs)
    empty: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    return {name: Dataset.from_list(rows) if rows else Dataset.from_dict(empty) for name, rows in split.items()}


def _weigh(rows: list[dict[str, Any]], *, by_margin: bool) -> None:
    margins = [max(float(row.pop("margin")), _LEAST_MARGIN) for row in rows]
    if by_margin and margins:
        mean = sum(margins) / len(margins)
        for row, margin in zip(rows, margins, strict=True):
            row["weight"] = margin / mean


def losses(settings: Train) -> dict[str, float]:
    """Return TRL's losses and their weights.

    With noise e, cDPO is (1-e) S(x) + e S(-x) for S = -log sigmoid. TRL has S(x) and robust R(x) = ((1-e) S(x) - e S(-x)) / (1-2e), so that
    cDPO = 2 (1-e) S(x) - (1-2e) R(x).

    >>> losses(Train(loss="cdpo", label_smoothing=0.1, sft_weight=0))
    {'sigmoid': 1.8, 'robust': -0.8}
    """
    noise = settings.label_smoothing
    pairwise = {"sigmoid": 2 * (1 - noise), "robust": -(1 - 2 * noise)} if settings.loss == "cdpo" else {settings.loss: 1.0}
    return pairwise | ({"sft": settings.sft_weight} if settings.sft_weight else {})


def _report_to(settings: Train) -> list[str] | str:
    for name in settings.report_to:
        if find_spec(name) is None:
            raise InputError(f"[train] report_to names {name!r}, which is not installed; run: pip install {name}")
    return list(settings.report_to) or "none"


def _share(batch_size: int) -> int:
    """Return this process's part of a step's pairs; 'accelerate launch' says how many processes there are.

    Raises:
        InputError: they cannot share the pairs evenly.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size % processes:
        raise InputError(f"[train] batch_size = {batch_size} cannot be shared by {processes} processes; set a multiple of {processes}")
    return batch_size // processes


def _arguments(job: TrainJob, pairs: int, *, looks: bool) -> DPOConfig:
    settings = job.settings
    keep_best = looks and settings.patience > 0
    steps = max(int(pairs / settings.batch_size * settings.epochs), 1)
    chosen = losses(settings)
    return DPOConfig(
        output_dir=str(job.folder / "checkpoints"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=_share(settings.batch_size),
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(steps // 20, 1),
        loss_type=list(chosen),
        loss_weights=list(chosen.values()),
        label_smoothing=settings.label_smoothing,
        use_weighting=settings.weigh_pairs,
        beta=settings.beta,
        max_length=settings.max_tokens,
        precompute_ref_log_probs=True,
        bf16=False,
        gradient_checkpointing=settings.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        logging_steps=1,
        save_strategy="steps",
        # The best adapter is one of the checkpoints, so that each look leaves one.
        save_steps=settings.eval_steps if keep_best else settings.checkpoint_steps,
        save_total_limit=2,
        eval_strategy="steps" if looks else "no",
        eval_steps=settings.eval_steps if looks else None,
        load_best_model_at_end=keep_best,
        metric_for_best_model="eval_rewards/accuracies" if keep_best else None,
        greater_is_better=True if keep_best else None,
        # What the patience has counted so far.
        restore_callback_states_from_checkpoint=keep_best,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_num_workers=0,
        report_to=_report_to(settings),
        disable_tqdm=True,
    )


def _summary(trainer: Any, rows: dict[str, Dataset], measured: dict[str, float], seconds: float) -> dict[str, Any]:
    logged = [row for row in trainer.state.log_history if "loss" in row]
    tail = logged[-max(len(logged) // 10, 1) :]

    def late(name: str) -> float:
        return float(sum(row[name] for row in tail) / len(tail))

    return {
        "pairs": len(rows["train"]),
        "held_out": len(rows["eval"]),
        "steps": trainer.state.global_step,
        "stopped_early": trainer.state.global_step < trainer.state.max_steps,
        "kl": measured.get("eval_kl"),
        "seconds": seconds,
        "reference_computed": trainer.reference_computed,
        "fallback": trainer.fallback,
        "loss": late("loss"),
        "reward_margin": measured.get("eval_rewards/margins", late("rewards/margins")),
        "reward_accuracy": measured.get("eval_rewards/accuracies", late("rewards/accuracies")),
        "measured_on": "held-out pairs" if measured else "training pairs",
    }


def _save(job: TrainJob, trainer: Any, tokenizer: Any, summary: dict[str, Any]) -> None:
    scratch, adapter = job.folder / "adapter.part", job.folder / "adapter"
    shutil.rmtree(scratch, ignore_errors=True)
    trainer.model.save_pretrained(scratch, safe_serialization=True)
    (scratch / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(scratch)
    manifest = {
        "run_id": job.run_id,
        "base_id": job.base_id,
        "pairs_sha256": file_sha256(job.folder / PAIRS),
        "settings": job.settings.model_dump(),
        "code_version": __version__,
        "torch": torch.__version__,
        "files": {path.name: file_sha256(path) for path in sorted(scratch.iterdir())},
    }
    (scratch / "manifest.json").write_text(json.dumps(manifest | {"id": content_id(canonical(manifest))}, indent=1))
    shutil.rmtree(adapter, ignore_errors=True)
    os.replace(scratch, adapter)
    # The result first: a kill in between must not cost the run its checkpoints.
    write_result(job, summary)
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
