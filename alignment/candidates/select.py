"""Choose tonight's prompts under a budget: spread over categories, users and near-duplicate clusters, harmful and harmless."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alignment.config import Candidates
from alignment.ids import unit_interval
from alignment.records import Interaction
from alignment.text import clusters

CERTAIN, HARMLESS, CLEAR = 0.7, 0.4, 0.05
"""A request is taught as harmful from CERTAIN on, as a look-alike below HARMLESS and as plainly ordinary below CLEAR; in between it is
in doubt and teaches nothing: a wrong side undoes what the right ones teach."""


class PoolRow(NamedTuple):
    """An exchange that may be chosen. Scores are in 0..1."""

    interaction: Interaction
    harmful_request: float
    category: str
    toxicity: float
    refusal: float
    complained: bool


class Choice(NamedTuple):
    """A chosen exchange; `category` is a harm category, `lookalike` or `ordinary`."""

    interaction: Interaction
    category: str


def select(pool: Sequence[PoolRow], settings: Candidates, *, refusal_threshold: float) -> list[Choice]:
    """Return tonight's prompts: up to `harm_budget` harmful, then `helpful_budget` harmless ones.

    Of the harmless ones, what the model declined comes first, up to a quarter: over-refusal is a mistake to teach away. A third of
    the rest are look-alikes. The same pool gives the same choice in any order. Harmful requests that were declined teach nothing new
    and are left out, as are answers to harmless ones that the user complained about: they are no good example.
    """
    harm = [row for row in pool if row.harmful_request >= CERTAIN and row.refusal < refusal_threshold]
    harmless = [row for row in pool if row.harmful_request < HARMLESS]
    declined = [row for row in harmless if row.refusal >= refusal_threshold]
    answered = [row for row in harmless if row.refusal < refusal_threshold and not row.complained]
    near = [row for row in answered if row.harmful_request >= CLEAR]
    plain = [row for row in answered if row.harmful_request < CLEAR]
    users: Counter[str] = Counter()
    chosen = _pick(_interleaved(harm), settings.harm_budget, settings, users)
    left = settings.helpful_budget
    helpful = _pick(_shuffled(declined), left // 4, settings, users)
    helpful += _pick(_shuffled(near), (left - len(helpful)) // 3, settings, users)
    helpful += _pick(_shuffled(plain), left - len(helpful), settings, users)
    return [
        *(Choice(row.interaction, row.category) for row in chosen),
        *(Choice(row.interaction, "lookalike" if row.harmful_request >= CLEAR else "ordinary") for row in helpful),
    ]


def _shuffled(rows: Iterable[PoolRow]) -> list[PoolRow]:
    return sorted(rows, key=lambda row: unit_interval("select", row.interaction.id))


def _interleaved(rows: Iterable[PoolRow]) -> list[PoolRow]:
    by_category: dict[str, list[PoolRow]] = defaultdict(list)
    # Complaints first: a user has already said that the answer was wrong.
    for row in sorted(rows, key=lambda row: (not row.complained, unit_interval("select", row.interaction.id))):
        by_category[row.category].append(row)
    rounds = itertools.zip_longest(*(by_category[name] for name in sorted(by_category)))
    return [row for one in rounds for row in one if row is not None]


def _pick(rows: Sequence[PoolRow], budget: int, settings: Candidates, users: Counter[str]) -> list[PoolRow]:
    # Enough to fill the budget after near-duplicates and capped users fell out, without clustering a million prompts.
    rows = rows[: max(budget * 6, 100)]
    cluster = clusters([row.interaction.prompt for row in rows], settings.near_duplicate)
    picked: list[PoolRow] = []
    taken: set[int] = set()
    for position, row in enumerate(rows):
        if len(picked) >= budget:
            break
        if cluster[position] in taken or users[row.interaction.user_id] >= settings.max_per_user:
            continue
        taken.add(cluster[position])
        users[row.interaction.user_id] += 1
        picked.append(row)
    return picked
