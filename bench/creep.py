"""Measure small rises that add up: each night's challenger is a little worse, and is gated against the champion alone or the base too.

Observations of a model differ between times as two samplings of one model do (from `bench/outcomes.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.evals.gate import Evidence, decide_on
from alignment.evals.rules import Anchor, Rule, cumulative, rules
from alignment.sections import Gate
from bench.gate import SEED, Pool, measured, pool

Ints = npt.NDArray[np.int64]
NIGHTS, POINTS = 8, 0.04
BASE = Anchor("base", "base")


class Model(NamedTuple):
    """A model: two samplings of its outcomes, and the prompts it fails beyond them, (clusters, prompts per cluster) each."""

    samplings: Pool
    planted: Ints

    @property
    def rate(self) -> float:
        """Its true failure rate."""
        both = np.stack([np.maximum(one, self.planted) for one in self.samplings])
        return float(both.mean())

    def observe(self, rng: np.random.Generator) -> Ints:
        """Return one observation: each cluster from one sampling or the other."""
        first = np.less(rng.random(len(self.planted)), 0.5)[:, None]
        return np.maximum(np.where(first, self.samplings.old, self.samplings.new), self.planted)

    def worse(self, points: float, rng: np.random.Generator) -> Model:
        """Return a model that fails more of its prompts, by `points`."""
        hit = np.less(rng.random(self.planted.shape), points / (1 - self.rate)).astype(np.int64)
        return self._replace(planted=np.maximum(self.planted, hit))


def resampled(source: Pool, rng: np.random.Generator) -> Model:
    """Return a model on clusters drawn with replacement."""
    at = rng.integers(0, len(source.old), len(source.old))
    return Model(Pool(source.old[at], source.new[at]), np.zeros_like(source.old))


def evidence(old: Ints, new: Ints) -> Evidence:
    """Pair two models' outcomes, (clusters, prompts per cluster) each."""
    clusters = np.arange(len(old)).repeat(old.shape[1]).astype(str).tolist()
    return Evidence(old.ravel().tolist(), new.ravel().tolist(), clusters, 0, ())


def word(claims: Sequence[Rule], champion: Mapping[str, Ints], new: Mapping[str, Ints], base: Mapping[str, Ints] | None, gate: Gate) -> str:
    """Return the decision on outcomes by suite, also against the base if given."""
    asked, found = list(claims), {rule.evidence: evidence(champion[rule.suite], new[rule.suite]) for rule in claims}
    if base:
        asked += (further := cumulative(claims, BASE, gate.cumulative_margin))
        found |= {rule.evidence: evidence(base[rule.suite], new[rule.suite]) for rule in further}
    return decide_on("champion", "challenger", asked, found, gate).decision


def creep(trials: int, *, anchored: bool) -> dict[str, Any]:
    """Return how far over-refusal on look-alikes rises in eight nights of +4 points each."""
    gate = Gate()
    [rule] = [one for one in rules(gate) if one.metric == "over_refusal_lookalike"]
    source, rng = pool(rule.suite, "1", "2"), np.random.default_rng(SEED)
    rises, released = [], []
    for _ in range(trials):
        first = model = resampled(source, rng)
        base = champion = {rule.suite: model.observe(rng)}
        promoted = 0
        for _ in range(NIGHTS):
            worse = model.worse(POINTS, rng)
            new = {rule.suite: worse.observe(rng)}
            against = base if anchored and champion is not base else None
            if word([rule], champion, new, against, gate) == "promote":
                champion, model, promoted = new, worse, promoted + 1
        rises.append(100 * (model.rate - first.rate))
        released.append(promoted)
    allowed = 100 * gate.cumulative_margin * rule.margin
    beyond = float(np.mean(np.array(rises) > allowed))
    return {
        "case": f"+4 points a night on look-alikes, {'base and champion' if anchored else 'champion alone'}",
        "nights_released": float(np.mean(released)),
        "rise_median": float(np.median(rises)),
        "rise_95": float(np.quantile(rises, 0.95)),
        "beyond_margin": beyond,
        "claim": f"over {allowed:g} points in at most 5%" if anchored else "(shows what nights add up to)",
        "held": not anchored or beyond <= 0.05,
    }


def identical(trials: int, risen: float = 0.0) -> list[dict[str, Any]]:
    """Return how often a challenger equal to its champion is held back, if both decline `risen` more look-alikes than the base model."""
    gate = Gate(target="non-inferior", target_margin=0.05)
    claims = measured(rules(gate))
    pools = {rule.suite: pool(rule.suite, "1", "2") for rule in claims}
    rng = np.random.default_rng(SEED)
    found: dict[bool, list[str]] = {False: [], True: []}
    for _ in range(trials):
        first = {suite: resampled(one, rng) for suite, one in pools.items()}
        now = {suite: one.worse(risen if suite == "lookalike" else 0.0, rng) for suite, one in first.items()}
        base, champion, new = ({suite: one.observe(rng) for suite, one in models.items()} for models in (first, now, now))
        for anchored, words in found.items():
            words.append(word(claims, champion, new, base if anchored else None, gate))
    rates = {anchored: {one: words.count(one) / trials for one in ("promote", "block")} for anchored, words in found.items()}
    what = f"identical models, both {100 * risen:g} points over the base" if risen else "identical models"
    return [
        {
            "case": f"{what}, {'base and champion' if anchored else 'champion alone'}",
            **rates[anchored],
            "claim": "blocked no more often than against the champion alone" if anchored else "(to compare with)",
            "held": rates[anchored]["block"] <= rates[False]["block"],
        }
        for anchored in (False, True)
    ]


def run(trials: int) -> list[dict[str, Any]]:
    """Return all measurements, each with the claim that it must support."""
    return [creep(trials, anchored=False), creep(trials, anchored=True), *identical(trials), *identical(trials, 0.05)]
