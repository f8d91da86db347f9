"""Detect drift of traffic and answers, with one average run length to a false alarm for all signals."""

from alignment.drift.detect import DailyUsers, EDetectors, Measured, Raised, effect, gains_of
from alignment.drift.signals import SIGNALS, action, faded, unit

__all__ = ["SIGNALS", "DailyUsers", "EDetectors", "Measured", "Raised", "action", "effect", "faded", "gains_of", "unit"]
