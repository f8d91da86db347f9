"""Great Expectations suites: quarantine bad rows, stop the night on bad batches."""

from data_checks.run import CheckReport, check, columns
from data_checks.suites import SUITES, Expectation, training
from data_checks.words import describe

__all__ = ["SUITES", "CheckReport", "Expectation", "check", "columns", "describe", "training"]
