"""Drift of traffic and answers against a baseline window, with false alarms under control."""

from alignment.drift.compare import Drift, Windows, compare, windows

__all__ = ["Drift", "Windows", "compare", "windows"]
