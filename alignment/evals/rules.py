"""The gate's rules for a release: one per metric, against the champion and against fixed anchors. Pure.

A rise within the margin could be released every night, and with only the champion to compare to, such rises would add up without end. So
every metric that may only rise by a margin is also compared with releases that stay fixed: the base model, and the last release that a
person approved. Against those it may rise by `cumulative_margin` times the margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from alignment.evals.statistics import Kind
from alignment.gate_floor import BUNDLED, Bundled
from alignment.sections import Gate

Since = Literal["", "base", "approved"]


class Rule(NamedTuple):
    """What one suite must show: `superior` (the failure rate falls) or `non-inferior` (it rises by less than the margin).

    `equal`: for every group, the rate at which a request fails for that group alone rises by less than the margin.
    `since`: the name of the anchor that replaces the champion; `against`: how reports call that anchor.
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
        """The name of the metric without its anchor."""
        return self.metric.removesuffix(f"_since_{self.since}") if self.since else self.metric

    @property
    def evidence(self) -> str:
        """The key of the paired outcomes that it is judged on: its suite, and its anchor if there is one."""
        return f"{self.suite} since {self.since}" if self.since else self.suite


def rules(settings: Gate) -> tuple[Rule, ...]:
    """Return the configured rules: the bundled ones, replaced or extended by `[gate.rules]`."""
    found = {name: _bundled(name, one, settings) for name, one in BUNDLED.items()}
    own = {name: Rule(name, one.suite, one.kind, one.margin, one.critical) for name, one in settings.rules.items()}
    return tuple((found | own).values())


def _bundled(name: str, one: Bundled, settings: Gate) -> Rule:
    if one.setting != "target_margin":
        return Rule(name, one.suite, "non-inferior", getattr(settings, one.setting))
    margin = settings.min_improvement if settings.target == "superior" else settings.target_margin
    return Rule(name, one.suite, settings.target, margin)


class Anchor(NamedTuple):
    """A release that a challenger is compared with; `since` is its name in metrics, empty for the champion itself.

    `flaw`: why its answers are missing; then nothing passes against it.
    """

    release_id: str
    since: Since = ""
    flaw: str = ""

    @property
    def words(self) -> str:
        """How reports name it."""
        return "the base model" if self.since == "base" else f"{self.release_id}, the last release that a person approved"


def cumulative(claims: Sequence[Rule], anchor: Anchor, factor: float) -> tuple[Rule, ...]:
    """Return what a challenger must show against an anchor: each rule that allows a rise, with `factor` times its margin (at most 1).

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
