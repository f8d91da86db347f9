"""Which pairs still rest on the constitution as it is written today.

A pair stands if the principle that decides its category today, in today's words, decided it. What another or an edited principle had
decided is judged again, once; until then, and if it comes out otherwise, the old pair does not stand. Taking an edit back makes the old
pairs stand again without a judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from alignment.pairs.build import HUMAN, HumanVerdict, Labelled, preferred_pair
from alignment.records import Pair, Side


class Decision(NamedTuple):
    """One version of one principle decided one exchange; `pair_id` is what it came to, empty for no pair."""

    interaction_id: str
    principle_id: str
    principle_version: str
    pair_id: str


class Standing(NamedTuple):
    """Known pairs: `current` ones, `stale` ones whose exchanges are to be judged again, and `overruled` ones that were."""

    current: list[Pair]
    stale: list[Pair]
    overruled: list[Pair]


def stand(
    pairs: Iterable[Pair],
    decisions: Iterable[Decision],
    versions: Mapping[str, str],
    main: Callable[[Side, str], str],
    *,
    ruled: Collection[str] = frozenset(),
) -> Standing:
    """Sort known pairs by what the principles of today, `versions` by id, say of them; `main` names the one that decides a category.

    A pair that a person decided is current, and so is one whose exchange is `ruled`, as people have let it stand since: people do not
    rule by the wording of a principle. What they overruled has to be left out before (`superseded`). A pair without any
    recorded decision, or whose principle is gone or decides its category no more, is stale until its exchange was judged by the
    one of today.
    """
    confirmed: dict[str, set[str]] = {}
    judged: dict[str, set[str]] = {}
    for one in decisions:
        if versions.get(one.principle_id) == one.principle_version:
            confirmed.setdefault(one.pair_id, set()).add(one.principle_id)
            judged.setdefault(one.interaction_id, set()).add(one.principle_id)
    found = Standing([], [], [])
    for pair in pairs:
        deciding = main(pair.side, pair.category)
        if HUMAN in pair.labelers or pair.interaction_id in ruled or deciding in confirmed.get(pair.id, ()):
            found.current.append(pair)
        else:
            (found.overruled if deciding in judged.get(pair.interaction_id, ()) else found.stale).append(pair)
    return found


def decided(labelled: Sequence[Labelled], human: Mapping[str, HumanVerdict], versions: Mapping[str, str]) -> list[Decision]:
    """Return what tonight's judgements, made by the principles of `versions`, came to.

    What a person decided is left out: it rests on the person, and perhaps on a judgement of an earlier night.
    """
    return [
        Decision(item.selected.interaction.id, name, versions[name], preferred_pair(item, None) or "")
        for item in labelled
        if item.selected.interaction.id not in human
        for name in item.judgement.principle_ids
        if name in versions
    ]
