"""The collapse guard: does a self-rewarding labeler still agree with other judges, and are the model's answers still diverse?

A model that labels its own training data can drift with its labels. It is therefore compared with a judge that does not change, with
people, and with the base model's answers. When it crosses a limit it is halted and abstains.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from alignment.reasoning import apart
from alignment.sections import SelfReward

ORDERS = (1, 2, 3)
_WORD = re.compile(r"\w+")


class Agreement(NamedTuple):
    """The share of agreement in 0..1 over the `n` comparisons that both decided; None if there are none."""

    share: float | None
    n: int


class Answers(NamedTuple):
    """Statistics of a model's answers: distinct n-grams for n = 1, 2, 3 in 0..1 (None without any), mean words, and their number."""

    distinct: tuple[float | None, ...]
    mean_length: float | None
    n: int


class Health(NamedTuple):
    """The health of a self-rewarding labeler at one release. `margin` is the mean over its `votes`."""

    anchor: Agreement
    human: Agreement
    answers: Answers
    margin: float | None
    votes: int


def agreement(votes: Mapping[Hashable, str], others: Mapping[Hashable, str]) -> Agreement:
    """Return how often two judges prefer the same answer; both mappings are from comparisons to ids of preferred answers.

    >>> agreement({1: "a", 2: "b"}, {1: "a", 2: "c", 3: "d"})
    Agreement(share=0.5, n=2)
    """
    both = votes.keys() & others.keys()
    return Agreement(sum(votes[one] == others[one] for one in both) / len(both) if both else None, len(both))


def distinct_n(texts: Iterable[str], n: int) -> float | None:
    """Return the share of distinct word n-grams among all n-grams of the texts, in 0..1; None without any.

    It falls with the amount of text, so compare it only on the same prompts.
    Source: Li et al. 2016 (arXiv:1510.03055), section 5.

    >>> distinct_n(["a b a b"], 2)
    0.6666666666666666
    """
    grams = [gram for text in texts for gram in _grams(_WORD.findall(text.casefold()), n)]
    return len(set(grams)) / len(grams) if grams else None


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def describe(texts: Sequence[str]) -> Answers:
    """Return the statistics of answers, without their thinking. Empty answers count, with length 0."""
    answers = [apart(text).answer for text in texts]
    lengths = [len(_WORD.findall(text)) for text in answers]
    return Answers(tuple(distinct_n(answers, n) for n in ORDERS), sum(lengths) / len(lengths) if lengths else None, len(answers))


def halting(now: Health, settings: SelfReward, *, base: Answers, first: Health | None = None) -> tuple[str, ...]:
    """Return why the labeler must be silent; empty if it need not.

    `base` describes the base model's answers to the same prompts, `first` is the labeler's health at its first release. An unknown
    agreement with the anchor, or unknown statistics of answers, halts the labeler; people's verdicts count from `min_cases` on.
    """
    found = []
    if now.anchor.share is None or now.anchor.n < settings.min_cases:
        found.append(f"agreement with the anchor judge is unknown: {now.anchor.n} comparisons, {settings.min_cases} are needed")
    elif now.anchor.share < settings.min_anchor_agreement:
        found.append(_below("agreement with the anchor judge", now.anchor.share, settings.min_anchor_agreement, now.anchor.n))
    if now.human.share is not None and now.human.n >= settings.min_cases and now.human.share < settings.min_human_agreement:
        found.append(_below("agreement with people", now.human.share, settings.min_human_agreement, now.human.n))
    found += _words_lost(now.answers, base, settings)
    if first is not None and now.margin is not None and first.margin is not None:
        rise = now.margin - first.margin
        if rise > settings.max_margin_rise:
            found.append(f"mean margin rose by {rise:.2f} since the first release, more than {settings.max_margin_rise}")
    return tuple(found)


def _below(what: str, share: float, limit: float, n: int) -> str:
    return f"{what} is {share:.2f} on {n} comparisons, below {limit}"


def _words_lost(now: Answers, base: Answers, settings: SelfReward) -> list[str]:
    if now.n != base.n or now.n < settings.min_cases or now.mean_length is None or not base.mean_length:
        return [
            f"the champion's answers cannot be compared with the base's: {now.n} and {base.n} answers to the same harmless prompts, "
            f"{settings.min_cases} are needed"
        ]
    found = []
    for n, share, before in zip(ORDERS, now.distinct, base.distinct, strict=True):
        if before and (share or 0.0) / before < settings.min_distinct:
            found.append(f"distinct-{n} of its answers is {share or 0.0:.2f}, less than {settings.min_distinct} of the base's {before:.2f}")
    change = now.mean_length / base.mean_length - 1
    if abs(change) > settings.max_length_change:
        found.append(f"mean length of its answers changed by {change:+.0%}, more than {settings.max_length_change:.0%}")
    return found
