"""Bets gain nothing on average where nothing changes, whenever one looks; and e-detectors keep their run length."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.statistics.betting import BETS, interval, log_capital, log_gains, log_mean, restarted

pytestmark = pytest.mark.fast
DIFFERENCES = np.array([0.5, -0.25, 1.0, 0.0, 0.75])


@pytest.mark.parametrize(
    ("supposed", "capital"),
    [
        (0.0, [1.1092313, 1.04024143, 1.27748212, 1.27748212, 1.55079748]),
        (0.02, [1.10280593, 1.03065311, 1.25374909, 1.24686597, 1.49520266]),
        (-0.1, [1.14564174, 1.09645422, 1.42290604, 1.47267982, 1.92476341]),
    ],
)
def test_the_capital_is_that_of_another_implementation(supposed: float, capital: list[float]) -> None:
    """Computed with ville 0.1.0: the mean over BETS of exp(BettingTest(m0=supposed, bounds=(-1, 1), alternative="greater", c=bet)
    .fit(DIFFERENCES).log_e_values_). In so few rounds its own bet is larger than its cap, which is ours.
    """
    assert np.exp(log_capital(DIFFERENCES, supposed)) == pytest.approx(capital, abs=1e-7)


@pytest.mark.parametrize("mean", [0.0, 0.05])
def test_a_true_supposition_is_hardly_ever_refuted_however_often_one_looks(mean: float) -> None:
    """Ville: of 400 runs looked at 300 times each, at most 10% ever reach 10; 3 standard errors above that are 58 runs."""
    draw = np.random.default_rng(1)
    hit = sum(bool((log_capital(np.where(draw.random(300) < (1 + mean) / 2, 1.0, -1.0), mean) >= np.log(10)).any()) for _ in range(400))
    assert hit <= 58


def test_a_detector_by_hand() -> None:
    """One bet of a half on D = 1, -1, 1: 1.5, then 1.5 x 0.5 = 0.75, then it begins anew at 1: 1.5."""
    value, seen = np.zeros(1), []
    for difference in (1.0, -1.0, 1.0):
        value = restarted(value, log_gains(np.array([difference]), 0.0, np.array([0.5])).sum(axis=0))
        seen.append(float(np.exp(value[0])))
    assert seen == pytest.approx([1.5, 0.75, 1.5])


def test_detectors_alarm_no_more_often_than_their_run_length_allows() -> None:
    """Fair differences of 1 and -1, 2,000 days, alarm at the mean of 8 bets of 20: at most 100 alarms on average, over 20 runs."""
    draw, bets, alarms = np.random.default_rng(2), np.geomspace(0.05, 0.9, 8), 0
    for _ in range(20):
        value = np.zeros(8)
        for gained in log_gains(draw.choice([-1.0, 1.0], 2000), 0.0, bets):
            value = restarted(value, gained)
            if log_mean(value) >= np.log(20):
                alarms, value = alarms + 1, np.zeros(8)
    assert 0 < alarms / 20 <= 100


def test_without_a_difference_the_interval_is_everything() -> None:
    assert interval(np.empty(0), 0.05) == (0, 0.0, -1.0, 1.0)


def test_bets_never_lose_everything() -> None:
    assert np.isfinite(log_gains(np.array([-1.0]), 0.2, BETS)).all()
