"""Describe a run's training curves in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dashboard import formats
from dashboard.data import Row

MEANINGS = (
    ("Margin up, chosen steady or up, rejected down:", "as wanted. The model learns to prefer the chosen answers."),
    (
        "Margin up, but chosen down:",
        "both answers become less likely, the rejected ones faster. The model may lose the good answer too: raise `[train] sft_weight` or "
        "lower `learning_rate`.",
    ),
    ("Margin near zero to the end:", "nothing was learnt: too few steps, a low `learning_rate`, or labels that contradict one another."),
    (
        "Accuracy near 100%, but lower on held-out pairs:",
        "the pairs are learnt by heart: use fewer `epochs` or more varied pairs. `eval_…` is measured on held-out pairs.",
    ),
    (
        "Refusal AUC near 100%:",
        "on held-out pairs, a harmful request nearly always makes the refusal likelier than a harmless one does. `refused at 5` is the "
        "share of harm refused if one harmless request in twenty is; it does not depend on how readily the model refuses.",
    ),
    ("Loss up, or a gradient norm with high peaks:", "steps are too large: lower `learning_rate`."),
)
_LEAST_MARGIN = 0.1
_FALL = -0.5
_GAP = 0.1


class Remark(NamedTuple):
    """An observation about a run's curves; `fine` if it is as wanted."""

    fine: bool
    words: str


def recipe(config: Mapping[str, Any]) -> str:
    """Return a run's settings in one line; missing settings are left out.

    >>> recipe({"loss": "sigmoid", "sft_weight": 1.0, "beta": 0.1, "epochs": 2})
    'sigmoid + 1 × sft · beta 0.1 · epochs 2'
    """
    losses = str(config.get("loss") or "")
    if config.get("sft_weight"):
        losses += f" + {config['sft_weight']:g} × sft"
    names = ("beta", "label_smoothing", "learning_rate", "lora_rank", "lora_layers", "batch_size", "epochs", "seed")
    told = [f"{name.replace('_', ' ')} {config[name]:g}" for name in names if config.get(name)]
    told += [words for name, words in (("weigh_pairs", "pairs weighed"), ("reference_free", "no reference")) if config.get(name)]
    return " · ".join([losses, *told] if losses else told) or formats.MISSING


def ends(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the means of the first and of the last tenth of a metric.

    >>> ends([{"value": value} for value in (1.0, 2.0, 3.0)])
    (1.0, 3.0)
    """
    part = max(len(rows) // 10, 1)
    first, last = rows[:part], rows[-part:]
    return sum(row["value"] for row in first) / part, sum(row["value"] for row in last) / part


def remarks(values: Mapping[str, Sequence[Row]]) -> list[Remark]:
    """Return remarks on the curves, the margin first; empty if nothing was logged."""
    return [remark for remark in (_margin(values), _loss(values), _held_out(values)) if remark is not None]


def _margin(values: Mapping[str, Sequence[Row]]) -> Remark | None:
    if not all(len(values.get(name, ())) > 1 for name in ("rewards/margins", "rewards/chosen", "rewards/rejected")):
        return None
    (was, margin), (chosen_was, chosen), (rejected_was, rejected) = (
        ends(values[name]) for name in ("rewards/margins", "rewards/chosen", "rewards/rejected")
    )
    moved = f"The margin went from {was:.2f} to {margin:.2f}; chosen {chosen - chosen_was:+.2f}, rejected {rejected - rejected_was:+.2f}"
    if margin < _LEAST_MARGIN:
        return Remark(False, f"{moved}: hardly anything was learnt.")
    if chosen - chosen_was < _FALL:
        return Remark(False, f"{moved}: the chosen answers became less likely too.")
    return Remark(True, f"{moved}: the chosen answers are preferred and were not lost.")


def _loss(values: Mapping[str, Sequence[Row]]) -> Remark | None:
    if len(values.get("loss", ())) < 2:
        return None
    was, now = ends(values["loss"])
    return Remark(now < was, f"The loss {'fell' if now < was else 'did not fall'}, from {was:.2f} to {now:.2f}.")


def _held_out(values: Mapping[str, Sequence[Row]]) -> Remark | None:
    held, trained = values.get("eval_rewards/accuracies"), values.get("rewards/accuracies")
    if not held or not trained:
        return None
    _, learnt = ends(trained)
    kept = held[-1]["last"]
    gap = learnt - kept
    said = f"At the end, {formats.percent(kept)} of the held-out pairs ranked correctly, against {formats.percent(learnt)} of the trained"
    return Remark(gap <= _GAP, f"{said}: {'what was learnt carries over.' if gap <= _GAP else 'pairs were learnt by heart.'}")
