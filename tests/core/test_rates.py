"""Rates against independent formulas, and a win rate at equal length against one known by construction."""

import numpy as np
import pytest
from scipy import special, stats

from cann_jax.core.rates import length_controlled, rate


@pytest.mark.parametrize("won, n", [(0, 10), (3, 10), (10, 10), (41, 83)])
def test_interval_is_wilsons(won, n):
    values = np.repeat([1.0, 0.0], [won, n - won])
    found = rate(values, 0.9)
    expected = stats.binomtest(won, n).proportion_ci(0.9, method="wilson")
    assert found.value == pytest.approx(won / n)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_counted_has_no_rate():
    assert rate(np.array([]), 0.95) == (None, None)


def drawn(a, b, n=4000, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.normal(30, 50, n)
    return (rng.random(n) < special.expit(a + b * np.tanh(lengths / lengths.std()))).astype(float), lengths


def test_length_is_taken_out():
    """Longer wins, and the model is longer: its rate is 61 %, and 50 % at equal length."""
    wins, lengths = drawn(0.0, 1.5)
    found = length_controlled(wins, lengths, 0.95)
    assert wins.mean() > 0.6
    assert found.interval[0] < 0.5 < found.interval[1] and found.value == pytest.approx(0.5, abs=0.03)
    assert found.slope == pytest.approx(1.5, abs=0.2)


def test_interval_covers_as_often_as_it_says():
    rates = [length_controlled(*drawn(0.4, -1.0, 120, seed), 0.9) for seed in range(300)]
    covered = [low < special.expit(0.4) < high for _, (low, high), _ in rates]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.05)


def test_weights_are_the_minimum_of_the_stated_loss():
    wins, lengths = drawn(0.3, 0.8, 60)
    wins[:20] = 0.5
    found = length_controlled(wins, lengths, 0.95)
    x = np.tanh(lengths / lengths.std())

    def loss(a, b):
        p = special.expit(a + b * x)
        return -np.sum(wins * np.log(p) + (1 - wins) * np.log(1 - p)) + b**2 / 2

    a, b = special.logit(found.value), found.slope
    assert all(loss(a, b) <= loss(a + da, b + db) for da in (-0.01, 0, 0.01) for db in (-0.01, 0, 0.01))


def test_lengths_that_tell_every_win_leave_it_finite():
    lengths = np.array([-3.0, -2, -1, 1, 2, 3])
    found = length_controlled((lengths > 0).astype(float), lengths, 0.95)
    assert np.isfinite(found.slope) and 0 < found.interval[0] < 0.5 < found.interval[1] < 1


def test_equal_lengths_change_nothing():
    found = length_controlled(np.array([1.0, 1, 0, 0.5]), np.full(4, 7.0), 0.95)
    assert found.value == pytest.approx(0.625, abs=1e-6)


@pytest.mark.parametrize("wins", [[1.0, 1, 1], [0.0, 0, 0], [0.5]])
def test_no_finite_estimate_is_none(wins):
    assert length_controlled(np.array(wins), np.arange(len(wins)), 0.95) is None
