"""Tonight's training set: a replay of all accepted pairs, newest first, capped, with both sides balanced."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from alignment.errors import InputError
from alignment.ids import unit_interval
from alignment.records import Pair, Side
from alignment.sections import Pairs
from alignment.text import clusters

SAME_ANSWER = 0.8
"""Similarity at which two logged answers count as the same."""


def mix(
    pairs: Sequence[Pair], settings: Pairs, *, sources: Mapping[str, str] | None = None, seeds: Collection[str] = frozenset()
) -> list[Pair]:
    """Return at most `max_pairs` training pairs and a quarter as many held-out pairs, in an order fixed by their content.

    Neither side outweighs the other by more than `max_side_ratio`: a model taught one side only learns to refuse everything, or nothing.
    Held-out pairs are never trained on. The caps limit the training pairs per user, log source (`sources` by exchange id), cluster and
    logged answer: whoever writes a lot must not decide what is learnt. Pairs of `seeds`, by exchange id, come first: no flood of logs
    pushes them out.

    Raises:
        InputError: one side has no training pair.
    """
    ranked = _ranked(pairs, settings.half_life_days)
    logged = _capped([pair for pair in ranked if pair.split == "train" and pair.interaction_id not in seeds], settings, sources or {})
    train = [*(pair for pair in ranked if pair.split == "train" and pair.interaction_id in seeds), *logged]
    by_side = {side: [pair for pair in train if pair.side is side] for side in Side}
    if not all(by_side.values()):
        counts = ", ".join(f"{side.value}: {len(found)}" for side, found in by_side.items())
        raise InputError(
            f"training needs pairs of both sides, found {counts}; add logs, lower [labels] min_margin or decide open reviews "
            "('align dashboard')"
        )
    smaller = min(len(found) for found in by_side.values())
    cap = min(int(smaller * settings.max_side_ratio), max(settings.max_pairs - smaller, settings.max_pairs // 2))
    kept = [pair for found in by_side.values() for pair in found[:cap]]
    held_out = [pair for pair in ranked if pair.split == "eval"][: max(settings.max_pairs // 4, 1)]
    return sorted([*kept, *held_out], key=lambda pair: pair.id)


def _ranked(pairs: Sequence[Pair], half_life: float) -> list[Pair]:
    """Return the pairs newest first, or in a fixed draw in which a pair's weight halves with every `half_life` days of age.

    Source: weighted sampling without replacement, Efraimidis & Spirakis 2006: rank by u ** (1 / weight).
    """
    newest = sorted(pairs, key=lambda pair: (pair.created_at, pair.id), reverse=True)
    if not half_life or not newest:
        return newest
    last = newest[0].created_at

    def rank(pair: Pair) -> float:
        # u ** (1 / w) orders like log(u) / w, which does not underflow for old pairs: log(-log u) + age.
        return float(_log_log(unit_interval("replay", pair.id)) + _age(pair.created_at, last) / half_life)

    return sorted(newest, key=lambda pair: (rank(pair), pair.id))


def _log_log(draw: float) -> float:
    return math.log2(-math.log(max(draw, 1e-15)))


def _age(moment: datetime, last: datetime) -> float:
    return (last - moment).total_seconds() / 86400


def _capped(ranked: Sequence[Pair], settings: Pairs, sources: Mapping[str, str]) -> list[Pair]:
    seen: Counter[tuple[str, str]] = Counter()
    answers = _answers(ranked)
    kept = []
    for pair in ranked:
        limits = {("cluster", pair.cluster_id): settings.max_per_cluster}
        if pair.id in answers:
            limits["answer", answers[pair.id]] = settings.max_per_answer
        if pair.user_id:
            limits["user", pair.user_id] = settings.max_per_user
        if settings.max_per_source:
            limits["source", sources.get(pair.interaction_id, "")] = settings.max_per_source
        if all(seen[key] < limit for key, limit in limits.items()):
            seen.update(limits.keys())
            kept.append(pair)
    return kept


def _answers(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the taught answer, up to small changes, of pairs whose chosen answer came from the logs.

    Principles' own safe completions repeat by design; a logged answer shared by many exchanges was planted, or says nothing.
    """
    logged = [pair for pair in pairs if pair.chosen_kind == "logged"]
    roots = clusters([pair.chosen for pair in logged], SAME_ANSWER)
    return {pair.id: str(root) for pair, root in zip(logged, roots, strict=True)}
