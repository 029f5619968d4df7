"""Intervals of the forecast, of λ and of the ceiling: by hand, for groups, and above the ceiling."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from cann_jax.core.attainable import attained, solve_attainable
from cann_jax.core.exploration.forecast import attainable_intervals, forecast
from cann_jax.core.prediction import predict_scores
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Constraint
from cann_jax.core.scores import Scores
from tests.core.tables import margin_problem
from tests.core.trained import BETA, CONSTRAINT, FEATURES, FOLDS, PROMPTS, REWARD, trained_table


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def solved():
    scores = trained_table()
    predicted = predict_scores(FEATURES, scores, FOLDS, strength=1.0, slopes=False)
    return scores, predicted, solve_attainable(scores, predicted, 0.2, BETA)


def test_means_have_t_intervals(solved):
    scores, predicted, found = solved
    problem = margin_problem(scores, 0.2)
    seen = forecast(scores, predicted, problem.targets, found.multipliers, BETA)
    each = attained(scores, predicted, found.multipliers, BETA)
    for estimate, values in [(seen.improvement, each.improvement[:, 0]), (seen.kl, each.kl)]:
        # two slopes and a multiplier were fitted
        reach = stats.t.ppf(0.975, PROMPTS - 4) * np.std(values) / np.sqrt(PROMPTS - 4)
        plain = np.mean(values) + np.array([-reach, reach])
        np.testing.assert_allclose([np.squeeze(end) for end in estimate[1:]], plain)
    np.testing.assert_allclose(seen.improvement.value, 0.2, rtol=0, atol=1e-9)
    np.testing.assert_allclose(seen.reward.value, 0.36525717348269954, rtol=0, atol=1e-9)


def test_intervals_of_the_solution_hold_it(solved):
    scores, _, found = solved
    seen = attainable_intervals(scores, found, margin_problem(scores, 0.2).targets, BETA, resamples=50)
    for estimate, value in [(seen.multipliers, found.multipliers), (seen.ceiling, found.ceiling)]:
        assert estimate.value == value and estimate.low < value < estimate.high


def test_resamples_are_a_function_of_the_seed(solved):
    scores, _, found = solved
    targets = margin_problem(scores, 0.2).targets
    first, again, other = (
        attainable_intervals(scores, found, targets, BETA, resamples=20, seed=seed).multipliers
        for seed in (0, 0, 1)
    )
    assert first.low == again.low != other.low


def test_a_resample_meets_its_margin(solved):
    """With one resample the interval is a point: that of the table with these prompts repeated."""
    scores, predicted, found = solved
    targets = margin_problem(scores, 0.2).targets
    seen = attainable_intervals(scores, found, targets, BETA, resamples=1)
    counts = np.bincount(np.random.default_rng(0).integers(PROMPTS, size=PROMPTS), minlength=PROMPTS)
    again = solve_attainable(dataclasses.replace(scores, prompt_weights=counts * 1.0), predicted, 0.2, BETA)
    np.testing.assert_allclose(seen.multipliers.low, again.multipliers, rtol=1e-5)
    reflected = 2 * np.asarray(found.ceiling) - again.ceiling
    np.testing.assert_allclose(seen.ceiling.high, reflected, rtol=1e-2)


def test_what_tells_nothing_has_no_ceiling_above_0():
    """A maximum of noise is above 0: its percentiles excluded 0 in 4 of these 20 tables."""
    excluded = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        reward, gain, features = rng.normal(size=(3, 100, 6))
        scores = Scores(reward, gain[..., None])
        predicted = Scores(reward, features[..., None])
        found = solve_attainable(scores, predicted, 0.01, BETA)
        targets = margin_problem(scores, 0.01).targets
        excluded += attainable_intervals(scores, found, targets, BETA).ceiling.low[0] > 0
    assert excluded <= 1


def test_a_margin_near_the_ceiling_is_unreachable_in_some_resamples(solved):
    scores, predicted, found = solved
    high = 0.98 * found.ceiling
    near = solve_attainable(scores, predicted, high, BETA)
    assert near.converged
    targets = margin_problem(scores, high).targets
    seen = attainable_intervals(scores, near, targets, BETA, resamples=40)
    assert 0.1 < seen.unreachable_share < 0.9
    assert np.isinf(seen.multipliers.high)


def test_a_margin_above_the_ceiling_leaves_the_ceilings_interval(solved):
    """The ceiling does not depend on the margin, and so does not its interval."""
    scores, predicted, found = solved
    far = solve_attainable(scores, predicted, 1.02 * found.ceiling, BETA)
    assert not far.converged and np.isinf(far.multipliers)
    seen, known = (
        attainable_intervals(scores, each, margin_problem(scores, margin).targets, BETA, resamples=40)
        for each, margin in [(far, 1.02 * found.ceiling), (found, 0.2)]
    )
    np.testing.assert_array_equal(seen.ceiling, known.ceiling)
    assert np.isfinite(seen.multipliers.low) and np.isinf(seen.multipliers.high)
    assert 0.1 < seen.unreachable_share < 0.9


def test_a_group_is_as_sure_as_its_own_prompts():
    inside = np.arange(PROMPTS) % 3 == 0
    constraints = [Constraint("g", margin=0.1, group="a"), Constraint("g", at_least=0.1)]
    problem = prepare(REWARD, {"g": CONSTRAINT + 1.0}, constraints, {"a": inside})
    members = problem.targets.members
    predicted = predict_scores(FEATURES, problem.scores, FOLDS, strength=1.0, members=members)
    assert np.all(np.asarray(predicted.constraints)[~inside, :, 0] == 0)
    multipliers = np.array([1.0, 0.5])
    seen = forecast(problem.scores, predicted, problem.targets, multipliers, BETA)
    each = attained(problem.scores, predicted, multipliers, BETA)
    own = np.asarray(each.improvement)[inside, 0] * inside.mean()
    reach = stats.t.ppf(0.975, len(own) - 6) * np.std(own) / np.sqrt(len(own) - 6)
    ends = [seen.improvement.low[0], seen.improvement.high[0]]
    np.testing.assert_allclose(ends, np.mean(own) + np.array([-reach, reach]))
