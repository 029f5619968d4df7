"""The smallest scale that meets the targets: by weights alone, corrected by policies, and out of reach."""

import dataclasses

import numpy as np
import pytest

from cann_jax.core.scale import ENOUGH, Try, choose_scale, shape
from cann_jax.core.scores import Scores


@pytest.fixture(scope="module")
def linear():
    """Gaussian log-ratios that tell half of one score, and nothing of another."""
    random = np.random.default_rng(0)
    ratios = random.normal(size=(4000, 16)) * 0.4
    told = 0.5 * ratios + random.normal(size=ratios.shape) * 0.1
    blind = random.normal(size=ratios.shape)
    return shape(ratios, Scores(np.zeros_like(ratios), np.stack([told, blind], -1)), 4.0)


def test_improvement_of_gaussian_log_ratios_is_known(linear):
    """E[f·softmax(s·ℓ)] of jointly normal f, ℓ is s·Cov(f, ℓ), and the KL s²·Var(ℓ)/2, at small scales."""
    at_one = np.searchsorted(linear.scales, 1.0)
    assert linear.improvements[at_one, 0] == pytest.approx(0.5 * 0.16, rel=0.1)
    assert linear.kl[at_one] == pytest.approx(0.16 / 2, rel=0.1)
    assert abs(linear.improvements[at_one, 1]) < 0.02
    assert linear.effective[0] == 1 and linear.kl[0] == 0


def test_the_smallest_scale_is_chosen(linear):
    found = choose_scale(linear, [], np.array([0.08, -0.1]), 9.0)
    assert found.met and found.scale == pytest.approx(1.07, abs=0.1)
    assert found.improvement[0] == pytest.approx(0.08, abs=1e-3)


def test_a_target_that_the_reference_meets_allows_the_whole_step(linear):
    """Scale 0 would meet it too, and return the reference as the aligned model."""
    found = choose_scale(linear, [], np.array([-0.01, -0.1]), 9.0)
    assert found.met and found.scale == pytest.approx(1.0)
    near = choose_scale(linear, [], np.array([-0.01, -0.1]), linear.kl[np.searchsorted(linear.scales, 0.5)])
    assert near.met and near.scale == pytest.approx(0.5, abs=0.01)
    worse = dataclasses.replace(linear, improvements=-linear.improvements)
    least = worse.improvements[np.searchsorted(linear.scales, 0.4)]
    assert choose_scale(worse, [], least, 9.0).scale == pytest.approx(0.4, abs=0.01)


def test_a_policy_that_was_sampled_corrects_the_size(linear):
    """It gave half of what the weights say, so that the scale must about double; the KL alike."""
    at_one = np.searchsorted(linear.scales, 1.0)
    half = linear.improvements[at_one] / 2
    seen = Try(1.0, half, np.array([0.01, 0.01]), 2 * linear.kl[at_one])
    found = choose_scale(linear, [seen], np.array([half[0], -0.5]), 9.0)
    assert found.scale == pytest.approx(1.0, abs=0.01)
    twice = choose_scale(linear, [seen], np.array([2 * half[0], -0.5]), 9.0)
    assert twice.scale == pytest.approx(2.1, abs=0.2)
    assert twice.kl > 4 * linear.kl[at_one]


def test_where_the_weights_have_the_wrong_sign_only_what_was_seen_tells(linear):
    turned = dataclasses.replace(linear, improvements=-np.abs(linear.improvements))
    seen = [Try(1.0, np.array([0.05, 0.1]), np.array([0.01, 0.01]), 0.1)]
    found = choose_scale(turned, seen, np.array([0.0, 0.05]), 9.0)
    step = linear.scales[1]  # 0.05 of the 0.1 that was seen at scale 1
    assert found.met and 0.5 <= found.scale <= 0.5 + step + 1e-9


def test_beyond_what_was_seen_it_grows_on_though_the_weights_have_the_wrong_sign(linear):
    """Flat beyond the only try, at scale 1, no scale reached a margin of four times what that gave."""
    turned = dataclasses.replace(linear, improvements=-np.abs(linear.improvements))
    seen = [Try(1.0, np.array([0.05, 0.1]), np.array([0.01, 0.01]), 0.1)]
    found = choose_scale(turned, seen, np.array([0.15, 0.0]), 9.0)
    assert found.met and found.scale == pytest.approx(3.0, abs=0.01)


def test_the_nearest_scale_is_kept_where_the_kl_limit_binds(linear):
    found = choose_scale(linear, [], np.array([0.3, -0.1]), 0.05)
    assert not found.met and found.kl <= 0.05 and found.kl == pytest.approx(0.05, rel=0.05)


def test_beyond_what_the_weights_tell_the_curve_goes_on():
    """Importance weights saturate at the best of K; a policy does not."""
    ratios = np.random.default_rng(1).normal(size=(2000, 8))
    known = shape(ratios, Scores(np.zeros_like(ratios), ratios[..., None]), 6.0)
    last = known.scales[np.flatnonzero(known.effective >= ENOUGH)[-1]]
    assert last < 4
    far = choose_scale(known, [], np.array([known.improvements[-1, 0] * 1.2]), 99.0)
    assert far.met and far.scale > last


@pytest.mark.parametrize("count", [2, 4])
def test_few_responses_tell_the_slope_without_bias(count):
    ratios = np.random.default_rng(2).normal(size=(40_000, count)) * 0.4
    known = shape(ratios, Scores(np.zeros_like(ratios), 0.5 * ratios[..., None]), 1.0)
    small = np.searchsorted(known.scales, 0.25)
    assert known.improvements[small, 0] == pytest.approx(0.25 * 0.5 * 0.16, rel=0.03)
    assert known.kl[small] == pytest.approx(0.25**2 * 0.16 / 2, rel=0.03)


def test_a_target_of_nothing_counts_by_what_the_constraint_can_move(linear):
    """A shortfall divided by the target itself let a target of 0 outweigh every other."""
    turned = dataclasses.replace(linear, improvements=linear.improvements * [1, 0] + [0, -1e-6])
    found = choose_scale(turned, [], np.array([0.2, 0.0]), 9.0)
    assert not found.met and found.improvement[0] == pytest.approx(0.2, abs=0.01)


def test_weights_that_tell_of_no_scale_leave_a_line_to_correct():
    """Large log-ratios leave one effective response at the first step of the grid already."""
    ratios = 300 * np.random.default_rng(3).normal(size=(50, 2))
    known = shape(ratios, Scores(np.zeros_like(ratios), ratios[..., None]), 4.0)
    assert known.effective[1] < ENOUGH
    seen = Try(1.0, np.array([0.1]), np.array([0.01]), 0.2)
    found = choose_scale(known, [seen], np.array([0.2]), 9.0)
    assert found.met and found.scale == pytest.approx(2.0, abs=0.01)


def test_a_kl_below_nothing_lifts_no_limit(linear):
    seen = Try(1.0, np.array([0.08, 0.0]), np.array([0.01, 0.01]), -1e-3)
    found = choose_scale(linear, [seen], np.array([0.3, -0.1]), 0.05)
    assert not found.met and 0 < found.kl <= 0.05
