"""Translate the [train] settings into TRL's arguments."""

from __future__ import annotations

import os
from typing import Any

import torch
from trl import DPOConfig

from alignment.errors import InputError
from alignment.sections import Train
from alignment.train.job import TrainJob
from alignment.train.needs import check_needs
from alignment.train.processes import launched


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


def trainer_arguments(job: TrainJob, pairs: int, *, looks: bool) -> DPOConfig:
    """Return TRL's arguments for a run on `pairs` pairs; `looks` turns on evaluation on held-out pairs during training.

    Effects: sets the environment variable that tells TensorBoard where to write.

    Raises:
        InputError: the processes cannot share a step evenly, or [train] report_to names a package that is not installed.
    """
    settings = job.settings
    chosen = losses(settings)
    steps = max(int(pairs / settings.batch_size * settings.epochs), 1)
    return DPOConfig(
        output_dir=str(job.folder / "checkpoints"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=share(settings.batch_size),
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
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
        **_intervals(settings, looks=looks),
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_num_workers=0,
        report_to=_report_to(job),
        disable_tqdm=True,
    )


def _intervals(settings: Train, *, looks: bool) -> dict[str, Any]:
    return {
        "logging_steps": 1,
        # The filter would replace a NaN loss by an earlier one, and the run would not stop.
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        # The kept weights come from a checkpoint, so every evaluation must save one.
        "save_steps": settings.eval_steps if looks and settings.keeps_best else settings.checkpoint_steps,
        "save_total_limit": 2,
        "eval_strategy": "steps" if looks else "no",
        "eval_steps": settings.eval_steps if looks else None,
    }


def share(batch_size: int) -> int:
    """Return this process's share of the pairs in a step.

    Raises:
        InputError: the processes cannot share the pairs evenly.
    """
    processes = launched()
    if batch_size % processes:
        raise InputError(f"[train] batch_size = {batch_size} cannot be shared by {processes} processes; set a multiple of {processes}")
    return batch_size // processes


def _report_to(job: TrainJob) -> list[str] | str:
    check_needs(job.settings, None)
    # By default TensorBoard's files lie among the checkpoints and are deleted with them.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(job.folder / "tensorboard"))
    return list(job.settings.report_to) or "none"
