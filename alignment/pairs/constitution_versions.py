"""Which pairs still agree with the current constitution.

A pair is current if the principle that decides its category today, in its current wording, decided it. Decisions of another or an edited
principle are judged again, once; until then, or if the outcome differs, the old pair is not used. Reverting an edit makes the old pairs
current again without a judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from alignment.pairs.build import HUMAN, HumanVerdict, Labelled, preferred_pair
from alignment.records import Pair, Side


class Decision(NamedTuple):
    """A decision of one version of a principle on one exchange; `pair_id` is the resulting pair, empty for none."""

    interaction_id: str
    principle_id: str
    principle_version: str
    pair_id: str


class Standing(NamedTuple):
    """Known pairs: `current`, `stale` (their exchanges must be judged again), and `overruled` (judged again with another outcome)."""

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
    """Classify known pairs by the current principles (`versions` by id); `main` names the principle that decides a category.

    A pair that a person decided is current, and so is a pair whose exchange is `ruled`, that is, left in place by people since: people do
    not decide by the wording of a principle. Remove pairs that people overruled first (`superseded`). A pair without a recorded decision,
    or whose principle is gone or no longer decides its category, is stale until the current principle has judged its exchange.
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
    """Return tonight's decisions, made by the principles in `versions`.

    Human decisions are left out: they depend on the person, and perhaps on a judgement of an earlier night.
    """
    return [
        Decision(item.selected.interaction.id, name, versions[name], preferred_pair(item, None) or "")
        for item in labelled
        if item.selected.interaction.id not in human
        for name in item.judgement.principle_ids
        if name in versions
    ]
