"""The last look over a night's training set before it trains, and the review questions about the pairs held back.

Effects: reads and writes the store; loads the embedder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from alignment.config import Settings
from alignment.ids import content_id
from alignment.pairs import mix
from alignment.pairs.build import HUMAN
from alignment.pairs.second_look import HELD_BACK, PLACEHOLDER, WORDS, Look, RequestReader, held_back, look_at, look_at_requests
from alignment.pairs.seeds import evasions, voices
from alignment.records import Message, Pair, Side
from alignment.store import append, query, session
from flows.night import embedder, now


class Held(NamedTuple):
    """A pair held back from training tonight, the reason, and the look's findings."""

    pair: Pair
    reason: str
    look: Look


def chosen_pairs(
    settings: Settings, pairs: Sequence[Pair], *, ruled: Collection[str], sources: Mapping[str, str], seeds: Collection[str] = frozenset()
) -> tuple[list[Pair], list[Held]]:
    """Return tonight's training set without the pairs that the last look holds back, and the pairs held back.

    Pairs that people decided (`ruled`, by exchange id) or wrote pass, except placeholders. Other pairs replace those held back.
    """
    look = partial(look_at, reader=request_reader(settings), embed=embedder().embed, declines=_declines, declined=_declined)
    held: dict[str, Held] = {}
    seen: set[str] = set()
    while True:
        training_set = mix([pair for pair in pairs if pair.id not in held], settings.pairs, sources=sources, seeds=seeds)
        new = [pair for pair in training_set if pair.id not in seen]
        seen.update(pair.id for pair in new)
        found = [
            Held(pair, reason, one)
            for pair, one in zip(new, look(new), strict=True)
            # Nobody may teach a placeholder; on everything else a person's decision outweighs the look.
            if (reason := held_back(pair, one)) and (reason == PLACEHOLDER or not _decided(pair, ruled))
        ]
        if not found:
            return training_set, list(held.values())
        held |= {one.pair.id: one for one in found}


def _decided(pair: Pair, ruled: Collection[str]) -> bool:
    return HUMAN in pair.labelers or pair.interaction_id in ruled


def _declines(request: str, answer: str) -> bool:
    """Return whether the gate's scorer sees a refusal: it shares neither method nor data with the labelers' detectors."""
    from alignment.evals.scorers import score_harm_answer

    return score_harm_answer(request, answer)[1] == 0


def _declined(request: str, answer: str) -> bool:
    from alignment.evals.scorers import score_harm_answer

    return bool(score_harm_answer(request, answer)[0]["declines"])


def request_reader(settings: Settings) -> RequestReader:
    """Return a reader of requests, trained on the project's labelled requests."""
    from alignment.models.vectors import kept_vectors
    from alignment.moderation.corpora import own_requests
    from alignment.moderation.neighbours import request_vectors

    rows, seeds, folder = own_requests(), [*evasions(), *voices()], settings.home / "vectors"
    texts, more = [row.text for row in rows], [one.text for one in seeds]
    vectors = [
        request_vectors(texts, embedder=embedder(), folder=folder),
        kept_vectors("seeds", more, embedder=embedder(), folder=folder),
    ]
    labels = [*(row.harm for row in rows), *(int(one.side is Side.HARM) for one in seeds)]
    return RequestReader([*texts, *more], labels, np.concatenate(vectors))


def asks_for_harm(settings: Settings) -> Callable[[Sequence[Sequence[Message]]], list[bool]]:
    """Return a function that tells, per conversation, whether the last look would hold back its helpful pairs."""
    reader = request_reader(settings)

    def harmful(conversations: Sequence[Sequence[Message]]) -> list[bool]:
        return [look.would_serve for look in look_at_requests(conversations, reader, embedder().embed)]

    return harmful


def without_held(settings: Settings, pairs: Sequence[Pair], *, ruled: Collection[str]) -> list[Pair]:
    """Return the pairs that no last look held back, or that a person has decided on since."""
    rows = query(settings.home, "SELECT DISTINCT detail FROM pair_exclusions WHERE starts_with(reason, ?)", [HELD_BACK])
    held = {str(row["detail"]).removeprefix("pair ").split(",")[0] for row in rows}
    return [pair for pair in pairs if pair.id not in held or _decided(pair, ruled)]


def save_held(settings: Settings, night_id: str, held: Sequence[Held], judged: Callable[[Pair], str]) -> None:
    """Store why pairs were held back; ask people about those with a judgement (`judged` returns its id)."""
    moment = now()
    exclusions = [
        {
            "id": content_id(night_id, one.pair.id, one.reason),
            "night_id": night_id,
            "interaction_id": one.pair.interaction_id,
            "reason": one.reason,
            "detail": f"pair {one.pair.id}, asks for harm {one.look.harm:.2f}",
        }
        for one in held
    ]
    items = [{**_question(one, judgement), "created_at": moment} for one in held if (judgement := judged(one.pair))]
    with session(settings.home, write=True) as connection:
        append(connection, "pair_exclusions", exclusions)
        append(connection, "review_items", items)


def _question(one: Held, judgement_id: str) -> dict[str, Any]:
    pair = one.pair
    return {
        "id": content_id("review", judgement_id, one.reason),
        "kind": "disagreement",
        "reason": f"held back from training: {WORDS[one.reason]}",
        "interaction_id": pair.interaction_id,
        "prompt": pair.messages[-1]["content"],
        "answer_a": pair.chosen,
        "answer_b": pair.rejected,
        "proposal": "A is better",
        "detail": {"judgement_id": judgement_id, "side": pair.side, "category": pair.category, "pair_id": pair.id},
        # Pairs that would teach harm are reviewed first.
        "priority": 2.5 if pair.side is Side.HELPFUL else 2.0,
    }


def held_counts(settings: Settings, night_id: str) -> dict[str, int]:
    """Return how many pairs of a night were held back, by reason."""
    rows = query(
        settings.home,
        "SELECT reason, count(*) AS n FROM pair_exclusions WHERE night_id = ? AND starts_with(reason, ?) GROUP BY reason ORDER BY reason",
        [night_id, HELD_BACK],
    )
    return {row["reason"]: row["n"] for row in rows}
