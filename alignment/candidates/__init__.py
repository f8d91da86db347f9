"""Select the exchanges to label tonight, and collect the competing answers for each."""

from alignment.candidates.answers import (
    REVISED,
    UNFIT,
    contrast_batches,
    contrast_ids,
    contrasts,
    critic,
    current,
    first_answers,
    first_ids,
    fixed_candidates,
    revision_batches,
    revision_ids,
    revisions,
    sample_batches,
    sample_ids,
    samples,
    seed_batches,
)
from alignment.candidates.author import Author, Authored, Control, Task
from alignment.candidates.select import PoolRow, select

__all__ = [
    "REVISED",
    "UNFIT",
    "Author",
    "Authored",
    "Control",
    "PoolRow",
    "Task",
    "contrast_batches",
    "contrast_ids",
    "contrasts",
    "critic",
    "current",
    "first_answers",
    "first_ids",
    "fixed_candidates",
    "revision_batches",
    "revision_ids",
    "revisions",
    "sample_batches",
    "sample_ids",
    "samples",
    "seed_batches",
    "select",
]
