"""Curves, sensitivities and uncertainty, on tables whose truth is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.dual import tilted_weights
from cann_jax.core.exploration.curve import dual_curve, sensitivities
from cann_jax.core.exploration.finite_sample import correct_multipliers, kl_limit
from cann_jax.core.exploration.means import interval, mean_and_error
from cann_jax.core.exploration.resampling import bootstrap, draw_weights
from cann_jax.core.exploration.uncertainty import (
    conservative_solution,
    cross_fit,
)
from cann_jax.core.feasibility import Feasible, largest_margin
from cann_jax.core.implicit import implicit_scores
from cann_jax.core.preference import preference_probability, pseudo_reward
from cann_jax.core.problem import Constraint, make_targets
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import solve_dual
from cann_jax.core.table import standardise
from tests.core.tables import gaussian_oracle, margin_problem, random_table, vector_table

BETA = 0.5


def test_curve_equals_single_solves_and_marks_what_is_out_of_reach():
    table = random_table(0)
    top = float(largest_margin(table)[0])
    margins = np.linspace(-0.5, 1.2 * top, 70)[:, None]
    curve = dual_curve(table, margins, BETA)
    np.testing.assert_array_equal(curve.feasible == Feasible.YES, margins[:, 0] < top)
    np.testing.assert_array_equal(np.isinf(curve.multipliers[:, 0]), margins[:, 0] > top)
    assert curve.converged[margins[:, 0] < top].all()
    for point in (5, 30, 50):
        alone = solve_dual(table, margins[point], BETA, "newton")
        np.testing.assert_allclose(curve.multipliers[point], alone.multipliers, rtol=1e-3, atol=1e-5)
    assert (np.diff(curve.multipliers[curve.converged, 0]) >= -1e-4).all()


def test_curve_over_beta():
    table, betas = random_table(0), np.geomspace(0.1, 2, 9)
    curve = dual_curve(table, np.array([0.4]), betas)
    for point in (0, 8):
        alone = solve_dual(table, 0.4, betas[point], "newton")
        np.testing.assert_allclose(curve.multipliers[point], alone.multipliers, rtol=1e-3)


def test_sensitivities_equal_finite_differences():
    with jax.enable_x64(True):
        table, margins, step = vector_table(2), jnp.array([0.2, 0.1]), 1e-4

        def solve(margins, beta):
            return np.asarray(solve_dual(table, margins, beta, "newton", tolerance=1e-9).multipliers)

        by_margin, by_beta = sensitivities(table, margins, BETA, jnp.asarray(solve(margins, BETA)))
        for j in range(2):
            moved = np.eye(2)[j] * step
            difference = (solve(margins + moved, BETA) - solve(margins - moved, BETA)) / (2 * step)
            np.testing.assert_allclose(by_margin[:, j], difference, rtol=1e-4)
        difference = (solve(margins, BETA + step) - solve(margins, BETA - step)) / (2 * step)
        np.testing.assert_allclose(by_beta, difference, rtol=1e-4)


def test_inactive_constraints_do_not_move():
    table, margins = vector_table(2), jnp.array([0.2, -3.0])
    solution = solve_dual(table, margins, BETA, "newton")
    by_margin, by_beta = sensitivities(table, margins, BETA, solution.multipliers)
    assert by_margin[0, 0] > 0 and by_beta[1] == 0
    np.testing.assert_array_equal(np.asarray(by_margin)[[0, 1, 1], [1, 0, 1]], 0)


def test_bootstrap_interval_holds_the_answer_and_counts_what_is_out_of_reach():
    table = random_table(1)
    easy = margin_problem(table, 0.4)
    solution = solve_dual(table, 0.4, BETA, "newton")
    draws = bootstrap(easy.scores, easy.targets, BETA, solution.multipliers, resamples=100)
    low, high = interval(draws.multipliers)
    assert low[0] < solution.multipliers[0] < high[0] and draws.infeasible_share == 0
    low, high = interval(draws.predicted_improvement)
    assert low[0] < 0.4 < high[0]
    edge = margin_problem(table, 0.99 * largest_margin(table)[0])
    solution = solve_dual(table, edge.margins, BETA, "newton")
    draws = bootstrap(edge.scores, edge.targets, BETA, solution.multipliers, resamples=100)
    assert 0.1 < draws.infeasible_share < 0.9
    assert np.isinf(interval(draws.multipliers)[1]).all()
    assert np.isinf(draws.multipliers).mean() == pytest.approx(draws.infeasible_share)


def test_conservative_margin_holds_in_the_population_as_often_as_asked():
    """λ from 32 of 3,200 prompts, judged on all; 90 % asked, 60 draws."""
    population = random_table(2, prompts=3200)
    truth = solve_dual(population, 0.4, BETA, "newton").multipliers[0]
    held = []
    for part in range(60):
        rows = slice(32 * part, 32 * part + 32)
        sample = Scores(population.reward[rows], population.constraints[rows])
        problem = margin_problem(sample, 0.4)
        solution, _ = conservative_solution(problem.scores, problem.targets, BETA, confidence=0.9)
        held.append(solution.multipliers[0] >= truth)
    assert 0.8 <= np.mean(held) <= 1.0


def test_a_conservative_level_allows_for_the_error_of_the_reference():
    """Prompts' levels differ by more than a tilt moves them; the error of improvements alone is too small."""
    population = random_table(4, prompts=6400)
    shift = np.random.default_rng(4).normal(size=(6400, 1, 1)).astype(np.float32)
    population = dataclasses.replace(population, constraints=population.constraints + shift)
    level = float(np.mean(population.constraints)) + 0.3
    held = []
    for part in range(60):
        rows = slice(100 * part, 100 * part + 100)
        sample = Scores(population.reward[rows], population.constraints[rows])
        targets = make_targets([Constraint("c", at_least=level)], np.float32)
        solution, _ = conservative_solution(sample, targets, BETA, confidence=0.9)
        policy = tilted_weights(solution.multipliers, population, BETA)
        reached = np.mean(np.sum(np.asarray(policy) * population.constraints[..., 0], axis=1))
        held.append(np.all(np.isfinite(solution.multipliers)) and reached >= level - 1e-3)
    assert 0.82 <= np.mean(held) <= 1.0


@pytest.mark.parametrize("weights", [[1, 0, 0, 0], [1, 1e-6, 1e-6, 0]])
def test_one_prompt_tells_no_error_so_nothing_rests_on_one(weights):
    """Neither a conservative λ, which would be the plain one, nor halves; dust beside it changes nothing."""
    table = dataclasses.replace(random_table(8, prompts=4), prompt_weights=np.float32(weights))
    problem = margin_problem(table, 0.1)
    assert solve_dual(table, 0.1, BETA, "newton").converged and not problem.tells_errors
    assert conservative_solution(problem.scores, problem.targets, BETA) is None
    assert cross_fit(problem.scores, problem.targets, BETA) is None


def test_the_error_of_a_group_is_that_of_a_ratio():
    """Prepared scores carry 1/p; against resamples in which the group's share moves."""
    rng = np.random.default_rng(5)
    members = (rng.random((400, 1)) < 0.3).astype(np.float32)
    share = members.mean()
    values = members * (2 + rng.normal(size=(400, 1))).astype(np.float32) / share
    drawn = rng.multinomial(400, np.full(400, 1 / 400), size=4000) / 400
    means = (drawn @ values)[:, 0] / (drawn @ members)[:, 0] * share
    _, error = mean_and_error(values.T, np.full(400, 1 / 400, np.float32), members)
    assert float(error[0]) == pytest.approx(means.std(), rel=0.05)


def test_two_prompts_with_weight_are_resampled_alone():
    table = random_table(6, prompts=50)
    weights = np.zeros(50, np.float32)
    weights[[3, 30]] = 1
    drawn = draw_weights(
        standardise(dataclasses.replace(table, prompt_weights=weights)), 200, np.random.default_rng(0)
    )
    np.testing.assert_allclose(drawn.sum(1), 1, rtol=1e-6)
    assert set(np.flatnonzero(drawn.sum(0))) == {3, 30}


def test_the_kl_limit_follows_the_weights():
    """Ragged: half of the prompts have 2 responses, and weigh nothing."""
    table = random_table(7, prompts=40)
    mask = np.ones(table.reward.shape, bool)
    mask[:20, 2:] = False
    weights = np.repeat(np.float32([0, 1]), 20)
    weighed = dataclasses.replace(table, mask=mask, prompt_weights=weights)
    limit = kl_limit(weighed, solve_dual(weighed, 0.2, BETA, "newton"))
    assert float(limit.log_count) == pytest.approx(np.log(table.reward.shape[1]), rel=1e-6)


def test_cross_fit_measures_on_prompts_it_has_not_seen():
    problem = margin_problem(random_table(3, prompts=3200), 0.4)
    found = cross_fit(problem.scores, problem.targets, BETA)
    assert found.multipliers.shape == found.improvement.shape == found.error.shape == (2, 1)
    assert (np.abs(found.improvement - 0.4) < 4 * np.sqrt(2) * found.error).all()
    assert (found.error > 0).all()


@pytest.mark.parametrize("responses", [32, 128])
def test_correction_halves_the_error_of_the_gaussian_oracle(responses):
    table = gaussian_oracle(0, responses)
    solution = solve_dual(table, 1.0, BETA, "newton")
    found = correct_multipliers(table, np.array([1.0]), BETA, solution)
    assert not found.reason
    before, after = solution.multipliers[0] - 1.0, found.multipliers[0] - 1.0
    assert before > 0 and abs(after) <= 0.5 * abs(before)


def test_prompts_that_weigh_nothing_change_no_correction():
    """One with a single response has none in most quarters, which gave their solver no numbers."""
    table = gaussian_oracle(0, 64)
    reward, constraints = np.asarray(table.reward), np.asarray(table.constraints)
    prompts, responses = reward.shape
    mask = np.ones((prompts + 1, responses), bool)
    mask[-1, 1:] = False
    weights = np.append(np.ones(prompts, np.float32), 0)
    rows = (np.vstack([each, each[:1]]) for each in (reward, constraints))
    more = Scores(*rows, mask, weights, table.baseline)
    alone, beside = (
        correct_multipliers(each, np.array([1.0]), BETA, solve_dual(each, 1.0, BETA, "newton"))
        for each in (table, more)
    )
    np.testing.assert_allclose(beside.quarters, alone.quarters, rtol=1e-4)
    np.testing.assert_allclose(beside.multipliers, alone.multipliers, rtol=1e-4)


def test_correction_declines_where_the_sample_is_strained():
    table = gaussian_oracle(0, 32)
    solution = solve_dual(table, 1.9, BETA, "newton")
    found = correct_multipliers(table, np.array([1.9]), BETA, solution)
    assert kl_limit(table, solution).strained and "K is too small" in found.reason
    np.testing.assert_array_equal(found.multipliers, solution.multipliers)


def test_implicit_scores_reproduce_pecan():
    i, j = np.arange(4)[:, None], np.arange(6)[None, :]
    with jax.enable_x64(True):
        reference = jnp.asarray(-20 + 3.0 * np.cos(i + 2 * j))
        helpful = reference + 0.8 * np.sin(0.3 + 1.1 * i + 0.7 * j)
        safer = reference + 0.6 * np.cos(0.2 + 0.9 * i - 0.6 * j)
        table = implicit_scores(reference, helpful, safer, 0.1)
        for margin, expected in [(0.01, 0.3653943383127857), (0.02, 1.496643843879249)]:
            solution = solve_dual(table, margin, 0.1, "newton")
            assert solution.multipliers[0] == pytest.approx(expected, rel=1e-5)
        kl = float(jnp.mean(reference - safer))
        assert solution.baseline[0] == pytest.approx(-0.1 * kl)
        scaled = implicit_scores(reference, helpful, safer, 0.1, helpful_beta=0.2, safer_beta=0.3)
        np.testing.assert_allclose(scaled.reward, 2 * table.reward)
        np.testing.assert_allclose(scaled.constraints, 3 * table.constraints)
        r = pseudo_reward(table, solution.multipliers)
        ours = preference_probability(r[:, 0], r[:, 1])
        authors = preference_probability(r[:, 0], r[:, 1], temperature=0.1)
        logit = jnp.log(ours / (1 - ours))
        np.testing.assert_allclose(authors, jax.nn.sigmoid(10 * logit))
