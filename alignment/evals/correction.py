"""Correct the rates of a scorer with people's verdicts on it. Pure."""

from __future__ import annotations

from alignment.evals.statistics import Calibration, Interval, corrected, corrected_rate


def corrections(found: Interval, old: float, new: float, calibration: Calibration | None, confidence: float) -> dict[str, float]:
    """Return the `corrected_*` values of a metric; empty without enough human verdicts."""
    if calibration is None or not calibration.enough:
        return {}
    fixed = corrected(found, calibration, confidence)
    return {
        "corrected_champion": corrected_rate(old, calibration),
        "corrected_challenger": corrected_rate(new, calibration),
        "corrected_diff": fixed.diff,
        "corrected_low": fixed.low,
        "corrected_high": fixed.high,
    }


def calibrated(calibration: Calibration | None) -> str:
    """Say how well the scorer's accuracy is known, from its verdicts that people checked or from answers that people labelled."""
    if calibration is None or sum(calibration) == 0:
        return "rates as scored: nobody has checked this scorer yet"
    failures, good = calibration.found + calibration.missed, calibration.cleared + calibration.invented
    said = f"{failures + good} of its verdicts stand beside people's: {failures} failures, {good} good answers"
    if not calibration.enough:
        return f"rates as scored: {said}; 30 with 10 of each kind are needed to correct them"
    return f"{said}; sensitivity {calibration.sensitivity:.0%}, specificity {calibration.specificity:.0%}"
