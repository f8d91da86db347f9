"""Log files in: normalise, quarantine, redact, merge. Every line read is stored, a duplicate, or quarantined."""

from alignment.ingest.files import LogFile, find_files, unread
from alignment.ingest.merge import Batch, merge
from alignment.ingest.stage import Staged, stage

__all__ = ["Batch", "LogFile", "Staged", "find_files", "merge", "stage", "unread"]
