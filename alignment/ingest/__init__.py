"""Find logs, read them in blocks, parse, redact and merge them. Every record is stored, a duplicate, quarantined or no exchange."""

from alignment.ingest.files import LogFile, find_files
from alignment.ingest.merge import Batch, merge, would_be
from alignment.ingest.parse import Context, Parsed, Unmasked, mask, parse, read_records
from alignment.ingest.reading import FileProgress, Known, Part, blocks, known_files, resume, unread
from alignment.ingest.sources import LogSource, Source, gateway_logs, log_sources, make_source, parser, presets

__all__ = [
    "Batch",
    "Context",
    "FileProgress",
    "Known",
    "LogFile",
    "LogSource",
    "Parsed",
    "Part",
    "Source",
    "Unmasked",
    "blocks",
    "find_files",
    "gateway_logs",
    "known_files",
    "log_sources",
    "make_source",
    "mask",
    "merge",
    "parse",
    "parser",
    "presets",
    "read_records",
    "resume",
    "unread",
    "would_be",
]
