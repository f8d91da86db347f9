"""What the gate asks of a release: one rule a metric, against the champion and, so that small rises do not add up, against anchors. Pure.

A rise within the margin may come every night; with the champion alone to compare, nights add up without end. So whatever may only rise by a
margin is compared with releases that do not move along: the base model, and the last release that a person approved. Against those it may
rise by `cumulative_margin` times the margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from alignment.evals.statistics import Kind
from alignment.gate_floor import BUNDLED, Bundled
from alignment.sections import Gate

Since = Literal["", "base", "approved"]


class Rule(NamedTuple):
    """What one suite has to show: `superior` (the failure rate falls) or `non-inferior` (it rises by less than the margin).

    `equal`: the rate at which a request fails for one group alone rises by less than the margin, for every group.
    `since`: the name of an anchor that stands in the champion's place, and `against` the words for it.
    """

    metric: str
    suite: str
    kind: Kind | Literal["equal"]
    margin: float
    critical: bool = True
    since: str = ""
    against: str = ""

    @property
    def of(self) -> str:
        """The metric that it is about, whatever it is compared with."""
        return self.metric.removesuffix(f"_since_{self.since}") if self.since else self.metric

    @property
    def evidence(self) -> str:
        """Which paired outcomes it is judged on: those of its suite, with the champion's or an anchor's."""
        return f"{self.suite} since {self.since}" if self.since else self.suite


def rules(settings: Gate) -> tuple[Rule, ...]:
    """Return the configured rules: the bundled ones of every gate, those of `[gate.rules]` in their place or after them."""
    found = {name: _bundled(name, one, settings) for name, one in BUNDLED.items()}
    own = {name: Rule(name, one.suite, one.kind, one.margin, one.critical) for name, one in settings.rules.items()}
    return tuple((found | own).values())


def _bundled(name: str, one: Bundled, settings: Gate) -> Rule:
    if one.setting != "target_margin":
        return Rule(name, one.suite, "non-inferior", getattr(settings, one.setting))
    margin = settings.min_improvement if settings.target == "superior" else settings.target_margin
    return Rule(name, one.suite, settings.target, margin)


class Anchor(NamedTuple):
    """A release that stands in the champion's place; `since` is its name in metrics, empty for the champion itself.

    `flaw`: why its answers are not there; then nothing passes against it.
    """

    release_id: str
    since: Since = ""
    flaw: str = ""

    @property
    def words(self) -> str:
        """What people call it."""
        return "the base model" if self.since == "base" else f"{self.release_id}, the last release that a person approved"


def cumulative(claims: Sequence[Rule], anchor: Anchor, factor: float) -> tuple[Rule, ...]:
    """Return what a challenger has to show against an anchor: each rule that allows a rise, with `factor` times its margin (at most 1).

    >>> cumulative([Rule("m", "s", "superior", 0.0), Rule("n", "t", "non-inferior", 0.1)], Anchor("base", "base"), 1.5)[0][:4]
    ('n_since_base', 't', 'non-inferior', 0.15)
    """
    return tuple(
        rule._replace(
            metric=f"{rule.metric}_since_{anchor.since}",
            margin=min(round(rule.margin * factor, 6), 1.0),
            since=anchor.since,
            against=anchor.words,
        )
        for rule in claims
        if rule.kind != "superior"
    )
