"""Detect drift of traffic and answers, with one average run length to a false alarm for all signals."""

from alignment.drift.detect import Detector, Measured, Raised, Traffic, effect, gains_of
from alignment.drift.signals import SIGNALS, action

__all__ = ["SIGNALS", "Detector", "Measured", "Raised", "Traffic", "action", "effect", "gains_of"]
