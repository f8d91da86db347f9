"""Which exchanges are labelled tonight, and the answers that compete for each."""

from alignment.candidates.answers import (
    answer_ids,
    answers,
    contrast_batches,
    contrast_ids,
    contrasts,
    critic,
    current,
    fixed_candidates,
    revision_batches,
    revision_ids,
    revisions,
    sample_batches,
    sample_ids,
    samples,
)
from alignment.candidates.select import PoolRow, select

__all__ = [
    "PoolRow",
    "answer_ids",
    "answers",
    "contrast_batches",
    "contrast_ids",
    "contrasts",
    "critic",
    "current",
    "fixed_candidates",
    "revision_batches",
    "revision_ids",
    "revisions",
    "sample_batches",
    "sample_ids",
    "samples",
    "select",
]
