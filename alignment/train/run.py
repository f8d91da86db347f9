"""One training run, from its run file to an adapter or a whole model with a manifest.

Effects: loads a model, trains, writes the run folder; stops when its parent is gone.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerState

from alignment import __version__
from alignment.errors import TrainingError
from alignment.ids import canonical, content_id, file_sha256
from alignment.models.folder import ADAPTER, MODEL
from alignment.models.local import load_tokenizer
from alignment.train.accounting import Spent
from alignment.train.arguments import trainer_arguments
from alignment.train.callbacks import Progress, judge_looks, watchers
from alignment.train.events import say
from alignment.train.job import PAIRS, TrainJob, write_result
from alignment.train.operating_point import choose_strength
from alignment.train.policy import adapter_config, check_base, load_policy, precision, stored_dtype
from alignment.train.processes import any_process
from alignment.train.rows import read_rows, refusals
from alignment.train.sharding import check_launcher, gather, here, let_cpus_shard
from alignment.train.trainer import SharedPrefixDPOTrainer


def train(job: TrainJob, *, parent: int | None = None) -> dict[str, Any]:
    """Train, or resume from the last checkpoint; write the summary and return it.

    With `parent`, a process id, training stops at a checkpoint once that process is no longer this one's parent.

    Raises:
        InputError: no pair fits the token limit, or early stopping has no held-out pairs; see also `check_base`.
        ModelError: the base or its tokenizer cannot be loaded.
        TrainingError: the loss became NaN or infinite, or the first evaluation exceeded [train] max_kl.
    """
    spent, settings = Spent(job.folder), job.settings
    check_launcher(settings)
    check_base(job)
    tokenizer = load_tokenizer(job.base)
    rows = read_rows(job, tokenizer)
    early = watchers(settings, len(rows["eval"]))
    arguments = trainer_arguments(job, len(rows["train"]), looks=bool(settings.eval_steps and len(rows["eval"])))
    let_cpus_shard()
    model = load_policy(job.base, settings)
    progress = Progress(job.folder, parent, spent)
    more = {"args": arguments, "processing_class": tokenizer, "callbacks": [progress, *early], "progress": progress}
    trainer = _trainer(job, model, rows, refusals=refusals(job, tokenizer), **more)
    _fit(job, trainer)
    if progress.left and trainer.state.global_step < trainer.state.max_steps:
        raise TrainingError(f"training stopped at step {trainer.state.global_step}: it was asked to; run it again to resume")
    kept = _keep(job, trainer)
    _refuse_broken(trainer.model, trainer.accelerator.device)
    progress.trained = True
    strength = _weaken(trainer, settings.strength) if settings.method != "full" else None
    if kept < trainer.state.global_step:
        # The kept step was logged at its evaluation; this result would be logged under the last step.
        progress.silent = True
    measured = trainer.evaluate() if len(rows["eval"]) else {}
    if trainer.is_world_process_zero():
        spent.keep()
    summary = {**_summary(trainer, rows, measured, spent), "kept_step": kept, "strength": strength}
    _save(job, trainer, tokenizer, summary)
    trainer.accelerator.wait_for_everyone()
    return summary


def _trainer(job: TrainJob, model: Any, rows: dict[str, Dataset], **more: Any) -> SharedPrefixDPOTrainer:
    settings = job.settings
    trainer = SharedPrefixDPOTrainer(
        model=model,
        train_dataset=rows["train"],
        eval_dataset=rows["eval"] if len(rows["eval"]) else None,
        peft_config=adapter_config(model, settings),
        base_id=job.base_id,
        precision=precision(model),
        load_base=(lambda: load_policy(job.base, settings)) if settings.method == "full" else None,
        reference_cache=job.reference_cache,
        max_tokens=settings.max_batch_tokens,
        reference_free=settings.reference_free,
        **more,
    )
    # It prints each step, which `Progress` reports. Printing to a killed flow's pipe would end the run before its checkpoint is saved.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _fit(job: TrainJob, trainer: Any) -> None:
    """Train from the last checkpoint; a run that had stopped early before it was killed takes no further step."""
    checkpoint = _checkpoint(job)
    if checkpoint is not None and job.settings.keeps_best:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if judge_looks(state.log_history, job.settings).stop:
            state.is_world_process_zero = trainer.is_world_process_zero()
            trainer.state = state
            return
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _keep(job: TrainJob, trainer: Any) -> int:
    """Load the weights of the step that `judge_looks` keeps; without early stopping these are the last ones.

    Raises:
        TrainingError: no evaluation was within [train] max_kl.
    """
    if not job.settings.keeps_best:
        return int(trainer.state.global_step)
    kept, _ = judge_looks(trainer.state.log_history, job.settings)
    if kept is None:
        kl = next(row["eval_kl"] for row in trainer.state.log_history if "eval_kl" in row)
        raise TrainingError(
            f"at its first look the policy was {kl:.3g} nats a token from its reference, more than [train] max_kl = {job.settings.max_kl}, "
            "so that there is nothing to keep; lower learning_rate or eval_steps, or raise max_kl"
        )
    if kept < trainer.state.global_step:
        trainer.state.best_model_checkpoint = str(job.folder / "checkpoints" / f"checkpoint-{kept}")
        trainer._load_best_model()
    return kept


def _refuse_broken(model: Any, device: Any) -> None:
    """Refuse weights that are not finite: the last update may have broken them after the last loss was logged.

    Raises:
        TrainingError: names the first such tensor.
    """
    broken = next((name for name, tensor in model.named_parameters() if tensor.requires_grad and not here(tensor).isfinite().all()), None)
    if any_process(bool(broken), device):
        raise TrainingError(
            f"the weights {broken or 'of another process'!r} are no numbers after the last step; lower [train] learning_rate"
        )


@torch.no_grad()  # type: ignore[untyped-decorator]
def _weaken(trainer: Any, most: float) -> float:
    """Scale the adapter's change to its base, which moves the operating point; return the strength that `choose_strength` chose.

    Source: interpolation of base and trained weights, Wortsman et al. 2022 (arXiv:2109.01903), here of a low-rank change.
    """
    scaled = [parameter for name, parameter in trainer.model.named_parameters() if "lora_B" in name]
    now, found = 1.0, 0.0

    def refusal_at(strength: float) -> float:
        nonlocal now, found
        for parameter in scaled:
            parameter.mul_(strength / now)
        now, found = strength, float(trainer.refusal_probability())
        return found

    kept = choose_strength(most, refusal_at)
    if kept < most:
        say(f"{kept:.0%} of what the adapter learnt is kept: the refusal then follows harmless requests with a probability of {found:.2%}")
    return kept


def _checkpoint(job: TrainJob) -> Path | None:
    """Return the newest complete checkpoint: its state file is written last, and a full disk can cut it."""
    for state in sorted((job.folder / "checkpoints").glob("checkpoint-*/trainer_state.json"), key=os.path.getmtime, reverse=True):
        with suppress(ValueError):
            json.loads(state.read_text(encoding="utf-8"))
            return state.parent
    return None


def _summary(trainer: Any, rows: dict[str, Dataset], measured: dict[str, float], spent: Spent) -> dict[str, Any]:
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
        "refusal_auc": measured.get("eval_refusal_auc"),
        "refused_at_5": measured.get("eval_refused_at_5"),
        "seconds": spent.seconds,
        "reference_computed": spent.reference_computed,
        "fallback": trainer.fallback,
        "loss": late("loss"),
        "reward_margin": measured.get("eval_rewards/margins", late("rewards/margins")),
        "reward_accuracy": measured.get("eval_rewards/accuracies", late("rewards/accuracies")),
        "measured_on": "held-out pairs" if measured else "training pairs",
    }


def _save(job: TrainJob, trainer: Any, tokenizer: Any, summary: dict[str, Any]) -> None:
    target = job.folder / (MODEL if job.settings.method == "full" else ADAPTER)
    scratch = target.with_name(f"{target.name}.part")
    model = trainer.model
    if job.settings.method == "full":
        # A release is served and evaluated in the dtype of its base.
        model = model.to(stored_dtype(job.base))
    weights = gather(model)
    if not trainer.is_world_process_zero():
        return
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(scratch, state_dict=weights, safe_serialization=True)
    (scratch / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(scratch)
    manifest = {
        "run_id": job.run_id,
        "base_id": job.base_id,
        "pairs_sha256": file_sha256(job.folder / PAIRS),
        "settings": job.settings.model_dump(),
        "code_version": __version__,
        "torch": torch.__version__,
        "files": {path.name: file_sha256(path) for path in sorted(scratch.iterdir()) if path.is_file()},
    }
    (scratch / "manifest.json").write_text(json.dumps(manifest | {"id": content_id(canonical(manifest))}, indent=1))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(scratch, target)
    # Write the result first: a kill in between must not cost the run its checkpoints.
    write_result(job, summary)
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
