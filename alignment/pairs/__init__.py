"""Preference pairs with provenance: deduplicated, decontaminated, split without leakage, balanced."""

from alignment.pairs.build import Built, HumanVerdict, Labelled, build_pairs, contaminated
from alignment.pairs.mix import mix
from alignment.pairs.versions import Decision, Standing, decided, stand

__all__ = [
    "Built",
    "Decision",
    "HumanVerdict",
    "Labelled",
    "Standing",
    "build_pairs",
    "contaminated",
    "decided",
    "mix",
    "stand",
]
