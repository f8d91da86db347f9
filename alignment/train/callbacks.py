"""Callbacks: report progress, record what was spent, stop an orphaned or diverging run, and choose the checkpoint to keep.

Effects: writes `metrics.jsonl`, `spent.json` and stdout; handles SIGTERM.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from alignment.errors import InputError, TrainingError
from alignment.parent import gone
from alignment.sections import Train
from alignment.train.accounting import Spent
from alignment.train.events import tell
from alignment.train.job import METRICS
from alignment.train.processes import any_process


class Progress(TrainerCallback):  # type: ignore[misc]
    """Writes each logged step to `metrics.jsonl` and stdout, records what was spent, and stops an orphaned run."""

    def __init__(self, folder: Path, parent: int | None, spent: Spent) -> None:
        self.path, self.parent, self.spent, self.asked, self.left = folder / METRICS, parent, spent, False, False
        self.trained = self.silent = False
        self.started_by = os.getppid()
        self.since: tuple[int, float] | None = None
        # A full disk may have cut the last line: start a new one.
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("a", encoding="utf-8") as out:
                out.write("\n")
        # A second SIGTERM must not kill the process: a service manager and the flow may both send the signal.
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def must_leave(self) -> bool:
        """Return whether this process got SIGTERM or the flow that started it was killed."""
        return self.asked or (self.parent is not None and gone(self.parent, self.started_by))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Append the values of one step, from the first process only."""
        if self.silent:
            return
        row = {"step": state.global_step, "of": state.max_steps, **(logs or {}), **self._speed(args, state)}
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            tell(**row)
            self.spent.keep()
        # Every process sees the same loss, so all of them stop.
        loss = row.get("loss")
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {state.global_step}; lower [train] learning_rate")

    def _speed(self, args: Any, state: Any) -> dict[str, float]:
        """Return pairs/s since this process's first step, and the seconds left."""
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
        """Stop at a checkpoint when asked to leave; the run's next process resumes here."""
        if any_process(self.must_leave(), args.device):
            self.left = True
            control.should_save = control.should_training_stop = True

    def on_prediction_step(self, args: Any, *_: Any, **__: Any) -> None:
        """Abort the final evaluation on held-out pairs when asked to leave."""
        self.leave_if_trained(args.device)

    def leave_if_trained(self, device: Any) -> None:
        """Abort work after the last step, whose checkpoint is saved. Evaluations during training finish: the run would go on without them.

        Raises:
            TrainingError: this or another process of the run was asked to leave.
        """
        if self.trained and any_process(self.must_leave(), device):
            raise TrainingError("training stopped after its last step: it was asked to; run it again to resume")


class Verdict(NamedTuple):
    """The step whose weights are kept (None if no evaluation was within the limit), and whether training ends."""

    kept: int | None
    stop: bool


def judge_looks(history: Sequence[Mapping[str, Any]], settings: Train) -> Verdict:
    """Return which step to keep and whether to stop, from the held-out evaluations in a trainer's log.

    Keeps the last evaluation within [train] max_kl or, with patience, the best reward accuracy among these; the first wins ties.

    >>> looks = [{"step": n, "eval_kl": n / 10, "eval_rewards/accuracies": 0.5} for n in (2, 4, 6)]
    >>> judge_looks(looks, Train(eval_steps=2, max_kl=0.5))
    Verdict(kept=4, stop=True)
    >>> judge_looks(looks, Train(eval_steps=2, patience=2))
    Verdict(kept=2, stop=True)
    """
    looks = [row for row in history if "eval_kl" in row]
    far = next((number for number, row in enumerate(looks) if settings.max_kl and not row["eval_kl"] <= settings.max_kl), len(looks))
    within = looks[:far]
    if not within:
        return Verdict(None, far < len(looks))
    best = within[-1]
    if settings.patience:
        best = max(within, key=lambda row: row["eval_rewards/accuracies"])
    waited = len(within) - 1 - within.index(best)
    return Verdict(best["step"], far < len(looks) or 0 < settings.patience <= waited)


class Looks(TrainerCallback):  # type: ignore[misc]
    """Stops training as `judge_looks` says, and keeps the checkpoint of the best evaluation."""

    def __init__(self, settings: Train) -> None:
        self.settings = settings

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Judge all evaluations so far; the trainer never deletes the checkpoint of `best_global_step`."""
        kept, stop = judge_looks(state.log_history, self.settings)
        state.best_global_step = kept
        control.should_training_stop = control.should_training_stop or stop


def watchers(settings: Train, held_out: int) -> list[TrainerCallback]:
    """Return the callbacks that stop the run early.

    Raises:
        InputError: early stopping is set, but there are no held-out pairs.
    """
    if not settings.keeps_best:
        return []
    if not held_out:
        raise InputError(
            "[train] patience and max_kl look at held-out pairs, and there are none; raise [pairs] eval_share, which holds out new "
            "conversations only, or set both to 0"
        )
    return [Looks(settings)]
