"""Where data came from and what became of it: `trace` follows it, `erase` removes a person's data."""

from alignment.lineage.erase import ErasePlan, apply_erasure, erased_keys, plan_erasure, record_export, trained_on_erased
from alignment.lineage.scrub import Subject
from alignment.lineage.trace import Trace, find, trace

__all__ = [
    "ErasePlan",
    "Subject",
    "Trace",
    "apply_erasure",
    "erased_keys",
    "find",
    "plan_erasure",
    "record_export",
    "trace",
    "trained_on_erased",
]
