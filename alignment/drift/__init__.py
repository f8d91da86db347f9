"""Detect drift of traffic and answers against a baseline window, with controlled false alarms."""

from alignment.drift.compare import Drift, Windows, compare, windows

__all__ = ["Drift", "Windows", "compare", "windows"]
