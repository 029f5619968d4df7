"""One step for each resample of many prompts tells what solving each of them does."""

import numpy as np
import pytest

from cann_jax.core.exploration import resampling
from cann_jax.core.exploration.means import interval
from cann_jax.core.exploration.resampling import bootstrap
from cann_jax.core.feasibility import largest_margin
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Constraint
from cann_jax.core.solver.solve import solve_dual

BETA, PROMPTS, RESPONSES = 0.5, 5000, 64
GOALS = {
    "a margin": [Constraint("a", margin=0.8)],
    "a level, a group and one that is free": [
        Constraint("a", at_least=0.6),
        Constraint("b", margin=0.5, group="some"),
        Constraint("c", margin=-1.0),
    ],
}


def problem_of(goals):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, PROMPTS, RESPONSES)) + rng.normal(size=(3, PROMPTS, 1))
    reward = rng.normal(size=values.shape[1:]) - 0.5 * values[0]
    values, reward = values.astype(np.float32), reward.astype(np.float32)
    weights = rng.random(PROMPTS).astype(np.float32)
    scores = dict(zip("abc", values, strict=True))
    inside = rng.random(PROMPTS) < 0.3
    return prepare(reward, scores, goals, groups={"some": inside}, prompt_weights=weights)


def both_ways(problem, monkeypatch, resamples):
    solution = solve_dual(problem.scores, problem.margins, BETA, "newton")
    given = problem.scores, problem.targets, BETA, solution.multipliers, resamples
    quick = bootstrap(*given)
    monkeypatch.setattr(resampling, "MANY", PROMPTS + 1)
    return quick, bootstrap(*given)


@pytest.mark.parametrize("goals", GOALS)
def test_one_step_gives_the_interval_of_all_solutions(goals, monkeypatch):
    quick, full = both_ways(problem_of(GOALS[goals]), monkeypatch, 60)
    assert not np.array_equal(quick.multipliers, full.multipliers)  # they are found in two ways
    spread = full.multipliers.std(axis=0)
    error = np.abs(quick.multipliers - full.multipliers)
    assert np.all(error <= 0.1 * spread) and np.all(np.mean(error, axis=0) <= 0.01 * spread)
    for ours, theirs in zip(interval(quick.multipliers), interval(full.multipliers), strict=True):
        np.testing.assert_array_less(np.abs(ours - theirs), 0.03 * spread + 1e-30)
    np.testing.assert_array_equal(quick.predicted_improvement, full.predicted_improvement)
    assert quick.infeasible_share == full.infeasible_share == 0


def test_near_the_largest_margin_each_resample_is_solved(monkeypatch):
    """There one step does not do, and some of the resamples cannot reach the margin."""
    largest = largest_margin(problem_of([Constraint("a", margin=0.0)]).scores)
    quick, full = both_ways(problem_of([Constraint("a", margin=0.999 * float(largest[0]))]), monkeypatch, 20)
    assert 0 < full.infeasible_share < 1
    np.testing.assert_array_equal(quick.multipliers, full.multipliers)
