"""Choose tonight's prompts within a budget, spread over categories, users and near-duplicate clusters, harmful and harmless."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from alignment.conversation import asked, everything_asked
from alignment.ids import unit_interval
from alignment.models.embedder import Embedder
from alignment.records import Interaction, Side
from alignment.sections import Candidates
from alignment.text import clusters

CERTAIN, HARMLESS = 0.7, 0.1
"""A request is taught as harmful from CERTAIN on and as harmless below HARMLESS; in between it is in doubt and teaches nothing: a
wrong side undoes what the right ones teach."""

NEAR, _NEIGHBOURS = 0.31, 5
"""A harmless request is a look-alike if its mean cosine to the five nearest of tonight's harmful requests is at least NEAR. The
request head cannot tell: it was trained to score look-alikes like any other harmless request."""

_SPARE = 6
"""Number of rows considered for each row wanted."""


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

    @property
    def side(self) -> Side:
        """The side of the mistake that its pair teaches against."""
        return Side.of(self.category)


def select(pool: Sequence[PoolRow], settings: Candidates, *, refusal_threshold: float, embedder: Embedder) -> list[Choice]:
    """Return tonight's prompts: up to `harm_budget` harmful, then up to `helpful_budget` harmless ones.

    Harmless requests that the model declined come first, up to a quarter, because over-refusal is a mistake to teach away. A quarter of
    the rest are look-alikes. The choice does not depend on the pool's order. Left out are harmful requests that were declined, which teach
    nothing new, and answers to harmless requests that the user complained about, which are no good example.
    """
    harm = [row for row in pool if row.harmful_request >= CERTAIN and row.refusal < refusal_threshold]
    harmless = _shuffled(row for row in pool if row.harmful_request < HARMLESS)
    users: Counter[str] = Counter()
    chosen = _pick(_interleaved(harm), settings.harm_budget, settings, users)
    left = settings.helpful_budget
    declined = _pick([row for row in harmless if row.refusal >= refusal_threshold], left // 4, settings, users)
    answered = [row for row in harmless if row.refusal < refusal_threshold and not row.complained]
    answered = _head(answered, left, settings)
    alike = _lookalikes([*declined, *answered], chosen, embedder)
    near = [row for row in answered if row.interaction.id in alike]
    helpful = declined + _pick(near, (left - len(declined)) // 4, settings, users)
    helpful += _pick([row for row in answered if row.interaction.id not in alike], left - len(helpful), settings, users)
    return [
        *(Choice(row.interaction, row.category) for row in chosen),
        *(Choice(row.interaction, "lookalike" if row.interaction.id in alike else "ordinary") for row in helpful),
    ]


def _lookalikes(harmless: Sequence[PoolRow], harm: Sequence[PoolRow], embedder: Embedder) -> set[str]:
    """Return the ids of harmless exchanges whose requests are near harmful ones; if there are fewer than five, the missing count as far."""
    if not harmless or not harm:
        return set()
    requests, harmful = (embedder.embed([asked(row.interaction.messages) for row in rows]) for rows in (harmless, harm))
    nearest = np.sort(requests @ harmful.T, axis=1)[:, -_NEIGHBOURS:].sum(axis=1) / _NEIGHBOURS
    return {row.interaction.id for row, near in zip(harmless, nearest.tolist(), strict=True) if near >= NEAR}


def _head(rows: Iterable[PoolRow], budget: int, settings: Candidates) -> list[PoolRow]:
    """Return enough rows to fill the budget after removing near-duplicates and capping users, without reading a million prompts.

    Each user's rows are capped too: a flood must not push everybody else's requests out.
    """
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        user = row.interaction.user_id
        seen[user] += bool(user)
        if seen[user] <= settings.max_per_user * _SPARE:
            kept.append(row)
    return kept[: max(budget * _SPARE, 100)]


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
    rows = _head(rows, budget, settings)
    cluster = clusters([everything_asked(row.interaction.messages) for row in rows], settings.near_duplicate)
    picked: list[PoolRow] = []
    taken: set[int] = set()
    for position, row in enumerate(rows):
        if len(picked) >= budget:
            break
        user = row.interaction.user_id
        if cluster[position] in taken or users[user] >= settings.max_per_user:
            continue
        taken.add(cluster[position])
        # Rows without a user do not belong to one person.
        users[user] += bool(user)
        picked.append(row)
    return picked
