"""The gate's statistics against independent computations: roots of score equations, scipy, simulation and arithmetic by hand."""

from __future__ import annotations

import random
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from alignment.evals.statistics import (
    Calibration,
    Design,
    Kind,
    PairedCounts,
    cluster_bootstrap,
    corrected,
    corrected_rate,
    count,
    design_effect,
    detectable,
    difference,
    mcnemar,
    moved_out,
    paired_interval,
    wilson,
)

pytestmark = pytest.mark.fast

COUNTS = st.builds(PairedCounts, *[st.integers(0, 60)] * 4)


def score_bounds(failures: int, n: int, z: float) -> tuple[float, float]:
    """Wilson's interval from its definition: the rates at which the score statistic equals z."""

    def excess(rate: float) -> float:
        return (failures / n - rate) ** 2 - z * z * rate * (1 - rate) / n

    share = failures / n
    low = 0.0 if failures == 0 else optimize.brentq(excess, 0, min(share, 1 - 1e-12), xtol=1e-13)
    high = 1.0 if failures == n else optimize.brentq(excess, max(share, 1e-12), 1, xtol=1e-13)
    return low, high


def newcombe(counts: PairedCounts, z: float) -> tuple[float, float]:
    """Method 10 of Newcombe 1998 in his notation: e, f, g, h are the cells of the table, theta = (f - g) / n."""
    e, f, g, h = counts
    n = e + f + g + h
    p1, p2 = (e + f) / n, (e + g) / n
    (l1, u1), (l2, u2) = score_bounds(e + f, n, z), score_bounds(e + g, n, z)
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    q = e * h - f * g
    if q > 0:
        q = max(q - n / 2, 0)
    phi = q / sqrt(margins) if margins else 0.0
    down = sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    up = sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    return p1 - p2 - down, p1 - p2 + up


def test_the_interval_by_hand() -> None:
    """e, f, g, h = 20, 12, 2, 16; n = 50, z = 1.959964 (each end 97.5%).

    p1 = .64, Wilson (.501410, .758613); p2 = .44, Wilson (.311622, .576940); phi = (320 - 24 - 25) / sqrt(32 * 18 * 22 * 28) = .454954.
    Below: .138590 and .136940 give sqrt(.019207 + .018752 - 2 * .454954 * .018978) = .143844.
    Above: .118613 and .128378 give sqrt(.014069 + .016481 - 2 * .454954 * .015227) = .129207.
    """
    diff, low, high = difference(PairedCounts(20, 12, 2, 16), 0.975)
    assert diff == pytest.approx(0.2)
    assert low == pytest.approx(0.2 - 0.143844, abs=2e-6)
    assert high == pytest.approx(0.2 + 0.129207, abs=2e-6)


def test_the_wilson_interval_of_the_literature() -> None:
    # Newcombe 1998 (Statistics in Medicine 17: 857-872), table I, method 3.
    assert wilson(81, 263, 1.959964) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148, 1.959964) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20, 1.959964) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29, 1.959964) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(0, 0, 1.96) == (0.0, 1.0)


@given(st.integers(1, 200), st.floats(0, 1), st.sampled_from([1.2816, 1.6449, 1.96, 2.5758]))
def test_wilson_solves_the_score_equation(n: int, share: float, z: float) -> None:
    failures = round(share * n)
    assert wilson(failures, n, z) == pytest.approx(score_bounds(failures, n, z), abs=1e-9)


@given(COUNTS.filter(lambda counts: counts.n > 0), st.sampled_from([0.9, 0.95, 0.975]))
def test_the_interval_equals_an_independent_one(counts: PairedCounts, confidence: float) -> None:
    diff, low, high = difference(counts, confidence)
    assert diff == pytest.approx((counts.worse - counts.better) / counts.n)
    assert (low, high) == pytest.approx(newcombe(counts, stats.norm.ppf(confidence)), abs=1e-9)
    assert -1 <= low <= diff <= high <= 1


@given(COUNTS.filter(lambda counts: counts.n > 0))
def test_swapping_the_models_mirrors_the_interval(counts: PairedCounts) -> None:
    diff, low, high = difference(counts, 0.95)
    swapped = difference(counts._replace(worse=counts.better, better=counts.worse), 0.95)
    assert swapped == pytest.approx((-diff, -high, -low))


@given(COUNTS.filter(lambda counts: counts.n > 0))
def test_more_confidence_is_wider(counts: PairedCounts) -> None:
    _, low, high = difference(counts, 0.9)
    _, lower, higher = difference(counts, 0.99)
    assert lower <= low
    assert high <= higher


def test_agreement_is_no_certainty() -> None:
    """A bootstrap of identical answers shrinks to a point; this interval must not."""
    for n in (10, 100, 1000):
        diff, low, high = difference(PairedCounts(0, 0, 0, n), 0.95)
        assert diff == 0
        assert low < -1 / n < 1 / n < high
    assert difference(PairedCounts(0, 0, 0, 0), 0.95) == (0.0, -1.0, 1.0)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_against_scipy(worse: int, better: int) -> None:
    expected = stats.binomtest(better, worse + better, 0.5).pvalue if worse + better else 1.0
    assert mcnemar(PairedCounts(3, worse, better, 9)) == pytest.approx(expected)


@pytest.mark.parametrize(("worse", "better"), [(0, 5), (1, 9), (2, 12), (7, 7), (10, 3)])
def test_mcnemar_by_counting(worse: int, better: int) -> None:
    n = worse + better
    tail = sum(comb(n, k) for k in range(min(worse, better) + 1)) / 2**n
    assert mcnemar(PairedCounts(0, worse, better, 0)) == pytest.approx(min(2 * tail, 1.0))


@pytest.mark.parametrize("cells", [(0.05, 0.02, 0.08, 0.85), (0.0, 0.01, 0.01, 0.98), (0.3, 0.1, 0.1, 0.5), (0.02, 0.0, 0.3, 0.68)])
def test_each_end_covers_as_often_as_it_says(cells: tuple[float, ...]) -> None:
    """One-sided 95%: over 1,500 samples the standard error is 0.6 points; the method is allowed 2.5 points of its own."""
    rng = np.random.default_rng(5)
    true = cells[1] - cells[2]
    tables, times = np.unique(rng.multinomial(150, cells, size=1500), axis=0, return_counts=True)
    bounds = np.array([difference(PairedCounts(*map(int, table)), 0.95)[1:] for table in tables])
    for covered in (bounds[:, 0] <= true, true <= bounds[:, 1]):
        assert times[covered].sum() / 1500 >= 0.925


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=40))
def test_count(pairs: list[tuple[int, int]]) -> None:
    counts = count([a for a, _ in pairs], [b for _, b in pairs])
    assert counts.n == len(pairs)
    assert counts.both + counts.better == sum(a for a, _ in pairs)
    assert counts.both + counts.worse == sum(b for _, b in pairs)


def test_count_wants_pairs() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        count([1, 0], [1])


@pytest.mark.parametrize(
    ("kind", "cells"), [("superior", (30, 6, 6, 158)), ("non-inferior", (10, 8, 8, 274)), ("superior", (100, 3, 3, 94))]
)
def test_what_is_detectable_is_detected_four_times_in_five(kind: Kind, cells: tuple[int, ...]) -> None:
    """Draw tables with the noise that was seen and the effect that is said to show; count how often the rule passes."""
    counts = PairedCounts(*cells)
    n, noise = counts.n, max(counts.worse, 0.5) / counts.n
    effect = detectable(counts, 0.95, kind=kind)
    fall, margin = (effect, 0.0) if kind == "superior" else (0.0, effect)
    rest = 1 - 2 * noise - fall
    both = (counts.both + counts.better) / n - noise - fall
    rng = np.random.default_rng(11)
    tables, times = np.unique(rng.multinomial(n, (both, noise, noise + fall, rest - both), size=4000), axis=0, return_counts=True)
    ends = [moved_out(difference(PairedCounts(*map(int, table)), 0.95), n, Design(int(n))).high for table in tables]
    passed = np.array(ends) < margin
    assert times[passed].sum() / 4000 == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize("kind", ["superior", "non-inferior"])
def test_what_can_be_shown_is_a_whole_number_of_prompts(kind: Kind) -> None:
    shown = 320 * detectable(PairedCounts(30, 6, 6, 278), 0.95, kind=kind)
    assert shown == pytest.approx(round(shown))


def test_detectable_difference() -> None:
    """FACTS: with 5% discordant pairs, one-sided .05 and power 80%, 344 prompts show 3 points and 773 show 2 (Newcombe: a little more)."""
    for n, points in ((344, 0.03), (773, 0.02)):
        flips = n * 0.025
        assert detectable(PairedCounts(0.1 * n, flips, flips, n * 0.85), 0.95, kind="non-inferior") == pytest.approx(
            points + 1 / n, abs=2e-3
        )
    assert detectable(PairedCounts(0, 0, 0, 0), 0.95) == 1.0
    assert 0 < detectable(PairedCounts(0, 0, 0, 100), 0.95) < 1
    assert detectable(PairedCounts(0, 1, 0, 0), 0.95) == 1.0
    counts = PairedCounts(20, 10, 10, 160)
    assert detectable(counts, 0.95, Design(50, 4.0, 49)) > 1.8 * detectable(counts, 0.95)
    assert detectable(counts, 0.95, margin=0.05) > detectable(counts, 0.95) + 0.05


def draw_clusters(rng: np.random.Generator, clusters: int, size: int, net: float = 0.0) -> tuple[list[int], list[int], list[int]]:
    """Draw outcomes whose clusters change as one: a fifth of them fall apart and as many, less `net`, come right."""
    kind = rng.choice(3, size=clusters, p=[0.2, 0.2 - net, 0.6 + net])
    old = np.where(kind == 1, 1, 0).repeat(size)
    new = np.where(kind == 0, 1, 0).repeat(size)
    return old.tolist(), new.tolist(), np.arange(clusters).repeat(size).tolist()


def test_clusters_that_change_as_one_are_covered_and_naive_intervals_miss_them() -> None:
    rng = np.random.default_rng(7)
    missed, naive = 0, 0
    for _ in range(600):
        old, new, names = draw_clusters(rng, 60, 5)
        found, design = paired_interval(old, new, names, 0.95)
        missed += found.low > 0
        naive += difference(count(old, new), 0.95).low > 0
        assert design.effect == pytest.approx(5, abs=0.5)
    assert missed / 600 <= 0.065
    assert naive / 600 >= 0.15


def test_where_clusters_change_independently_little_is_lost() -> None:
    rng = np.random.default_rng(8)
    old, new = rng.binomial(1, 0.3, size=(2, 400)).tolist()
    found, design = paired_interval(old, new, [i // 4 for i in range(400)], 0.95)
    naive = difference(count(old, new), 0.95)
    assert design.effect < 1.5
    assert naive.high <= found.high < naive.high + 0.02


def test_prompts_that_are_their_own_clusters_are_independent() -> None:
    old, new = [1, 1, 0, 0] * 30, [1, 0, 1, 0] * 30
    found, design = paired_interval(old, new, range(120), 0.95)
    plain = difference(count(old, new), 0.95)
    assert found == pytest.approx((plain.diff, plain.low - 1 / 120, plain.high + 1 / 120))
    assert design == Design(120)


@pytest.mark.parametrize("n", [60, 100, 300])
@pytest.mark.parametrize("cells", [(0.55, 0.05, 0.0, 0.4), (0.3, 0.05, 0.0, 0.65), (0.04, 0.11, 0.06, 0.79), (0.2, 0.05, 0.0, 0.75)])
def test_a_harm_of_just_the_margin_seldom_passes(n: int, cells: tuple[float, ...]) -> None:
    """Each passes in at most 5% (standard error 0.3 points); Newcombe's interval alone lets one in nine through at n = 100."""
    rng = np.random.default_rng(9)
    tables, times = np.unique(rng.multinomial(n, cells, size=4000), axis=0, return_counts=True)
    likely = np.argsort(-times)[:700]
    passed = [times[at] for at in likely if moved_out(difference(PairedCounts(*map(int, tables[at])), 0.95), n, Design(n)).high < 0.05]
    assert sum(passed) / times[likely].sum() <= 0.057


def test_the_design_effect_by_hand() -> None:
    """Three clusters of two; differences (1, 1), (0, 0), (-1, 0): mean 1/6, squares 3 - 6/36 = 17/6.

    Sums less size times mean: 5/3, -1/3, -4/3; squares 25/9 + 1/9 + 16/9 = 14/3; times 3/2: 7. Over 17/6 * 6/5 = 17/5: 2.0588.
    Two clusters changed, five more are taken to have changed as one (effect 2): (2 * 35/17 + 5 * 2) / 7.
    """
    counts = PairedCounts(0, 2, 1, 3)
    found = design_effect(np.array([2, 0, -1]), np.array([2, 2, 2]), counts)
    assert found.effect == pytest.approx((2 * 35 / 17 + 10) / 7)
    assert (found.clusters, found.df) == (3, 2)


def test_agreement_in_few_clusters_is_no_certainty() -> None:
    """Nothing changed in 300 prompts of 30 clusters: that is worth 30 prompts, not 300."""
    found, design = paired_interval([0] * 300, [0] * 300, [i // 10 for i in range(300)], 0.95)
    assert design.effect == 10
    assert found.high > difference(PairedCounts(0, 0, 0, 30), 0.95).high


def test_the_bootstrap_against_scipy() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 9, size=80)
    sums = rng.binomial(sizes, 0.4) - rng.binomial(sizes, 0.3)
    mine = cluster_bootstrap(sums, sizes, 0.95)
    ratio = stats.bootstrap(
        (sums, sizes),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        confidence_level=0.9,
        method="percentile",
        rng=rng,
    )
    assert mine == pytest.approx(tuple(ratio.confidence_interval), abs=0.006)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 9)), min_size=2, max_size=60), st.randoms(use_true_random=False)
)
def test_clusters_widen_and_order_does_not_count(rows: list[tuple[int, int, int]], rng: random.Random) -> None:
    found, design = paired_interval(*zip(*rows, strict=True), 0.95)
    assert design.effect >= 1
    assert found.low - 1e-12 <= found.diff <= found.high + 1e-12
    rng.shuffle(rows)
    again, same = paired_interval(*zip(*rows, strict=True), 0.95)
    assert again == pytest.approx(found, abs=1e-12)
    assert same == pytest.approx(design, abs=1e-9)


def test_rogan_gladen_by_hand() -> None:
    """Sensitivity 90.5/101, specificity 80.5/101: (0.3 + 0.797 - 1) / (0.896 + 0.797 - 1) = 0.097 / 0.693."""
    assert corrected_rate(0.3, Calibration(90, 10, 80, 20)) == pytest.approx((0.3 + 80.5 / 101 - 1) / (171 / 101 - 1))
    assert corrected_rate(0.1, Calibration(90, 10, 80, 20)) == 0.0
    assert corrected_rate(0.3, Calibration(10, 30, 10, 30)) == 0.3


def test_a_corrected_interval_covers_the_true_difference() -> None:
    """Outcomes through a scorer with sensitivity 0.8 and specificity 0.9, calibrated on 80 answers; true rates 0.4 and 0.3."""
    rng = np.random.default_rng(4)
    below = above = 0
    for _ in range(400):
        truth = rng.random((2, 300)) < np.array([[0.4], [0.3]])
        seen = np.where(truth, rng.random((2, 300)) < 0.8, rng.random((2, 300)) < 0.1).astype(int)
        checked = Calibration(*(hits := int(rng.binomial(40, 0.8)), 40 - hits), *(clear := int(rng.binomial(40, 0.9)), 40 - clear))
        found = corrected(difference(count(*seen.tolist()), 0.95), checked, 0.95)
        below += found.high < -0.1
        above += found.low > -0.1
    assert below / 400 <= 0.07
    assert above / 400 <= 0.07


def test_no_calibration_narrows_nothing() -> None:
    found = difference(PairedCounts(10, 20, 40, 130), 0.95)
    assert corrected(found, Calibration(20, 20, 20, 20), 0.95)[1:] == (-1.0, 1.0)
    fixed = corrected(found, Calibration(4000, 1, 4000, 1), 0.95)
    assert fixed == pytest.approx(found, abs=0.006)
