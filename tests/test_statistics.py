"""The gate's statistics against independent computations: roots of score equations, scipy, simulation and arithmetic by hand."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from alignment.evals.statistics import PairedCounts, count, detectable, difference, mcnemar, wilson

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


def test_detectable_difference() -> None:
    """FACTS: with 5% discordant pairs, one-sided .05 and power 80%, 344 prompts show 3 points and 773 show 2."""
    assert detectable(344, 0.05, 0.95) == pytest.approx(0.03, abs=2e-4)
    assert detectable(773, 0.05, 0.95) == pytest.approx(0.02, abs=2e-4)
    assert detectable(0, 0.0, 0.95) == 1.0
    assert 0 < detectable(100, 0.0, 0.95) < 1
    assert detectable(1, 1.0, 0.95) == 1.0
