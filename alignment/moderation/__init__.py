"""Detectors of harmful requests, harmful answers, refusals, toxicity and personal data, on one embedding pass per text."""

from __future__ import annotations

from alignment.moderation.detectors import DETECTORS, Detector, Score, moderate, score_answers, score_texts, versions

__all__ = ["DETECTORS", "Detector", "Score", "moderate", "score_answers", "score_texts", "versions"]
