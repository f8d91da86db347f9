"""Evaluation of champion and challenger on the same held-out prompts, and the paired gate."""

from alignment.evals.answer import answer_id, batches
from alignment.evals.gate import decide
from alignment.evals.suites import METRICS, SPECS, SUITES, held_out_texts, load_suite, suite_version

__all__ = [
    "METRICS",
    "SPECS",
    "SUITES",
    "answer_id",
    "batches",
    "decide",
    "held_out_texts",
    "load_suite",
    "suite_version",
]
