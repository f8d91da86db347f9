"""The Gate page's data on groups: how far a model's answers to the same request differ by the group that it names.

Effects: reads the store of the configured state folder.
"""

from __future__ import annotations

from typing import NamedTuple

from alignment.records import Answer, SuitePrompt
from dashboard import data
from dashboard.data import Row

ROLES = ("champion", "challenger")


class Groups(NamedTuple):
    """By model, each axis's gaps (first group minus second) and the widest gap of each measure, all with simultaneous bounds."""

    by_axis: list[Row]
    widest: dict[str, list[Row]]


def groups(decision: Row) -> Groups | None:
    """Return both models' gaps in the answers behind a decision; None if it has no answers to such requests."""
    rows = data.read("group_answers", decision=decision["id"])
    if not rows:
        return None
    # SciPy takes a second to load; the other pages need not wait for it.
    from alignment.evals.fairness import axis_gaps, gaps
    from alignment.evals.transforms import AXES

    by_axis: list[Row] = []
    widest: dict[str, list[Row]] = {}
    for role in ROLES:
        answers = [_answer(row) for row in rows if row["model_id"] == decision[role]]
        for axis, measures in axis_gaps(answers).items():
            words = " − ".join(name for _, name in AXES[axis])
            by_axis += [{"role": role, "groups": words, "measure": name, **gap._asdict()} for name, gap in measures.items()]
        for name, gap in gaps(answers).items():
            widest.setdefault(name, []).append({"role": role, **gap._asdict()})
    return Groups(by_axis, widest)


def _answer(row: Row) -> Answer:
    prompt = SuitePrompt(row["prompt_id"], "counterfactual", "", row["cluster"], row["category"])
    return Answer(prompt, row["model_id"], "", data.parsed(row["scores"]), row["outcome"])
