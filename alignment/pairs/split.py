"""Assign pairs to the training or held-out split: near-duplicate prompts stay together, and so do the turns of one conversation.

A later turn contains the text of the earlier turns, so a conversation in both splits would be held out in name only. Splits are assigned
pair by pair, not to whole connected groups of clusters and conversations: a turn like "go on" occurs in so many conversations that it
would tie most of the traffic into one group.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from alignment.ids import unit_interval
from alignment.records import Pair

Split = Literal["train", "eval"]

_CONVERSATION = "conversation "
LONG = 10
"""Up to this many exchanges with one conversation id always count as one conversation."""


def placeholders(conversations: Iterable[str], eval_share: float) -> frozenset[str]:
    """Return conversation ids (given once per exchange) shared by more than LONG exchanges and more than the held-out share of all.

    Otherwise, a log that gives every line the same conversation id would lie in one split as a whole.

    >>> sorted(placeholders(["all"] * 12 + ["a", "a", ""], 0.1))
    ['all']
    """
    counts = Counter(conversations)
    most = max(LONG, eval_share * counts.total())
    return frozenset(name for name, number in counts.items() if name and number > most)


def ties(cluster: str, conversation: str, unnamed: Collection[str]) -> list[str]:
    """Return what must not lie in both splits: the cluster, and the conversation if its id identifies one."""
    return [cluster, _CONVERSATION + conversation] if conversation and conversation not in unnamed else [cluster]


def sides_of(tied: Sequence[Sequence[str]], splits: Sequence[Split]) -> dict[str, set[Split]]:
    """Return the splits in which each cluster and conversation lies.

    An older store may have both. Such a conversation continues in training, where some of it was learnt (`drop_half_trained`).
    """
    found: defaultdict[str, set[Split]] = defaultdict(set)
    for keys, split in zip(tied, splits, strict=True):
        for key in keys:
            found[key].add(split)
    return {key: {"train"} if len(both) > 1 and key.startswith(_CONVERSATION) else both for key, both in found.items()}


def side(tied: Sequence[str], sides: Mapping[str, set[Split]], eval_share: float) -> Split | None:
    """Return the split of what is `tied` to clusters and conversations in the known `sides`, None if these differ.

    New ones are drawn by their conversation, else by their cluster: the draw stays the same if other pairs are gone or come first.
    """
    found = {split for key in tied for split in sides.get(key, ())}
    if len(found) > 1:
        return None
    return found.pop() if found else "eval" if unit_interval("split", tied[-1]) < eval_share else "train"


def drop_half_trained(pairs: Sequence[Pair], conversations: Mapping[str, str], unnamed: Collection[str]) -> list[Pair]:
    """Drop held-out pairs whose conversation (by exchange id) is also trained on: older stores split by prompts alone."""
    trained = {conversations.get(pair.interaction_id, "") for pair in pairs if pair.split == "train"} - {"", *unnamed}
    return [pair for pair in pairs if pair.split == "train" or conversations.get(pair.interaction_id, "") not in trained]
