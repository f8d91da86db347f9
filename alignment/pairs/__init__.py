"""Preference pairs with provenance: deduplicated, decontaminated, split without leakage, balanced."""

from alignment.pairs.build import Built, HumanVerdict, Labelled, build_pairs, contaminated
from alignment.pairs.mix import mix

__all__ = ["Built", "HumanVerdict", "Labelled", "build_pairs", "contaminated", "mix"]
