"""Great Expectations suites: bad rows are quarantined, bad batches stop the night."""

from data_checks.run import CheckReport, check, columns
from data_checks.suites import SUITES

__all__ = ["SUITES", "CheckReport", "check", "columns"]
