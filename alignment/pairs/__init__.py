"""Preference pairs with provenance: deduplicated, decontaminated, split without leakage, balanced."""

from alignment.pairs.build import Built, HumanVerdict, Labelled, build_pairs, superseded
from alignment.pairs.constitution_versions import Decision, Standing, decided, stand
from alignment.pairs.contamination import contaminated, find_contaminated
from alignment.pairs.rulings import Ruling, apply_rulings, load_rulings
from alignment.pairs.sample import mix
from alignment.pairs.split import drop_half_trained
from alignment.pairs.stored import Origin, load_decisions, load_pairs, origins, save_night

__all__ = [
    "Built",
    "Decision",
    "HumanVerdict",
    "Labelled",
    "Origin",
    "Ruling",
    "Standing",
    "apply_rulings",
    "build_pairs",
    "contaminated",
    "decided",
    "drop_half_trained",
    "find_contaminated",
    "load_decisions",
    "load_pairs",
    "load_rulings",
    "mix",
    "origins",
    "save_night",
    "stand",
    "superseded",
]
