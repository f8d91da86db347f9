"""Evaluation of champion and challenger on the same held-out prompts, and the paired gate."""

from alignment.evals.answer import answer, answer_id, batches
from alignment.evals.gate import decide
from alignment.evals.suites import SUITES, load_suite, suite_version

__all__ = ["SUITES", "answer", "answer_id", "batches", "decide", "load_suite", "suite_version"]
