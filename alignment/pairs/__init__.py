"""Preference pairs with provenance: deduplicated, decontaminated, split without leakage, balanced."""

from alignment.pairs.build import Built, HumanVerdict, Labelled, asked, build_pairs, contaminated, contaminated_any, superseded
from alignment.pairs.mix import mix
from alignment.pairs.versions import Decision, Standing, decided, stand

__all__ = [
    "Built",
    "Decision",
    "HumanVerdict",
    "Labelled",
    "Standing",
    "asked",
    "build_pairs",
    "contaminated",
    "contaminated_any",
    "decided",
    "mix",
    "stand",
    "superseded",
]
