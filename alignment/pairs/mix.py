"""Tonight's training set: a replay of all accepted pairs, newest first, both sides in balance."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.config import Pairs
from alignment.errors import InputError
from alignment.records import Pair, Side


def mix(pairs: Sequence[Pair], settings: Pairs) -> list[Pair]:
    """Return at most `max_pairs` training pairs and a quarter as many held-out ones, in an order fixed by their content.

    Neither side outweighs the other by more than `max_side_ratio`: a model taught on one side only learns to refuse everything,
    or nothing. Held-out pairs are kept with the rest; they are never trained on.

    Raises:
        InputError: one side has no training pair at all.
    """
    newest = sorted(pairs, key=lambda pair: (pair.created_at, pair.id), reverse=True)
    train = {side: [pair for pair in newest if pair.side is side and pair.split == "train"] for side in Side}
    if not all(train.values()):
        counts = ", ".join(f"{side.value}: {len(found)}" for side, found in train.items())
        raise InputError(
            f"training needs pairs of both sides, found {counts}; add logs, lower [labels] min_margin or decide open reviews "
            "('align dashboard')"
        )
    smaller = min(len(found) for found in train.values())
    cap = min(int(smaller * settings.max_side_ratio), max(settings.max_pairs - smaller, settings.max_pairs // 2))
    kept = [pair for found in train.values() for pair in found[:cap]]
    held_out = [pair for pair in newest if pair.split == "eval"][: max(settings.max_pairs // 4, 1)]
    return sorted([*kept, *held_out], key=lambda pair: pair.id)
