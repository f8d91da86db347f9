"""Detectors of harmful requests, harmful answers, refusals, toxicity and personal data; each text is embedded once."""

from __future__ import annotations

from alignment.moderation.detectors import DETECTORS, Detector, Score, moderate, score_answers, score_texts, versions

__all__ = ["DETECTORS", "Detector", "Score", "moderate", "score_answers", "score_texts", "versions"]
