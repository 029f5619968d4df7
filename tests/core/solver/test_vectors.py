"""The method's test vectors, closed forms and strong duality, by both solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.dual import dual_value, tilted_weights
from cann_jax.core.feasibility import Feasible, largest_margin
from cann_jax.core.scores import Scores, reference_mean
from cann_jax.core.solver.solve import METHODS, solve_dual
from tests.core.tables import FIRST, REWARD, SECOND, random_table, vector_table

VECTORS = {
    0.1: (0.0845451749851793, 0.34164371962254164, 1.242300262452145),
    0.3: (0.2503116637241881, 0.30837637321548494, 1.1473923503131023),
    0.5: (0.444447285367614, 0.2396964386870785, 0.8962234246647921),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_table_means():
    assert REWARD.mean() == pytest.approx(0.013554264845612137)
    assert FIRST.mean() == pytest.approx(0.015785366808622813)
    assert SECOND.mean() == pytest.approx(0.027521411010324532)
    np.testing.assert_allclose(reference_mean(vector_table()), [FIRST.mean()])
    np.testing.assert_allclose(largest_margin(vector_table()), [0.9347877018554113], rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("margin", VECTORS)
def test_one_constraint(method, margin):
    multiplier, value, curvature = VECTORS[margin]
    solution = solve_dual(vector_table(), margin, 0.5, method)
    assert solution.multipliers[0] == pytest.approx(multiplier, abs=1e-6)
    assert solution.value == pytest.approx(value, abs=1e-10)
    assert solution.converged and solution.feasible == Feasible.YES
    hessian = jax.hessian(dual_value)(solution.multipliers, vector_table(), jnp.array([margin]), 0.5)
    assert hessian[0, 0] == pytest.approx(curvature, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_strong_duality_and_policy_statistics(method):
    solution = solve_dual(vector_table(), 0.3, 0.5, method)
    assert solution.predicted_reward == pytest.approx(0.5616996579861737, abs=1e-6)
    assert solution.kl == pytest.approx(0.5066465695413778, abs=1e-6)
    assert solution.duality_gap == pytest.approx(0, abs=1e-7)
    assert solution.predicted_improvement[0] == pytest.approx(0.3, abs=1e-6)
    weights = tilted_weights(solution.multipliers, vector_table(), 0.5)
    np.testing.assert_allclose(weights.sum(-1), 1)
    assert (weights * REWARD).sum(-1).mean() == pytest.approx(float(solution.predicted_reward))
    assert (1 / (weights**2).sum(-1)).mean() == pytest.approx(float(solution.effective_sample_size))


def test_value_and_slope_away_from_the_optimum():
    table, margin = vector_table(), jnp.array([0.3])
    value_and_slope = jax.value_and_grad(dual_value)
    for multiplier, value, slope in [
        (0.0, 0.34608668245109175, -0.3050093565352081),
        (1.0, 0.5378001906472638, 0.49175599538121073),
    ]:
        got, gradient = value_and_slope(jnp.array([multiplier]), table, margin, 0.5)
        assert got == pytest.approx(value, abs=1e-13)
        assert gradient[0] == pytest.approx(slope, abs=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_two_constraints(method):
    solution = solve_dual(vector_table(2), jnp.array([0.2, 0.1]), 0.5, method)
    np.testing.assert_allclose(solution.multipliers, [0.18257015, 0.19573939], atol=1e-6)
    assert solution.value == pytest.approx(0.3152582058742721, abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_threshold_out_of_reach(method):
    solution = solve_dual(vector_table(), 5 - FIRST.mean(), 0.5, method)
    assert solution.feasible == Feasible.NO and not solution.converged
    assert np.isposinf(solution.multipliers[0])


@pytest.mark.parametrize("method", METHODS)
def test_the_edge_itself_is_undetermined(method):
    table = vector_table()
    solution = solve_dual(table, largest_margin(table), 0.5, method)
    assert solution.feasible == Feasible.UNDETERMINED and not solution.converged


def test_two_responses_closed_form():
    # with y1 safer by d and better by e, E[h] = d(σ((e + λd)/β) − 1/2) − b
    d, e, margin, beta = 2.0, -1.0, 0.4, 0.5
    table = Scores(jnp.array([[0.0, e]]), jnp.array([[[0.0], [d]]]))
    share = 0.5 + margin / d
    expected = (beta * np.log(share / (1 - share)) - e) / d
    assert solve_dual(table, margin, beta, "newton").multipliers[0] == pytest.approx(expected, rel=1e-6)


def plain_value(multipliers, scores, margins, beta):
    """The definition, for autodiff to go through."""
    h = scores.constraints - reference_mean(scores) - margins
    logits = (scores.reward + h @ multipliers) / beta
    per_prompt = jax.nn.logsumexp(logits, axis=-1) - jnp.log(logits.shape[-1])
    weights = scores.prompt_weights / scores.prompt_weights.sum()
    return beta * jnp.sum(weights * per_prompt)


def test_every_derivative_equals_autodiff_of_the_definition():
    table = random_table(3, constraints=2)
    weights = jnp.linspace(0.5, 2, 32)
    arguments = (jnp.array([0.3, 0.7]), jnp.array([0.2, 0.1]), 0.4)

    def both(function):
        def of(multipliers, margins, beta, reward, constraints):
            return function(multipliers, Scores(reward, constraints, None, weights), margins, beta)

        gradients = jax.value_and_grad(of, argnums=(0, 1, 2, 3, 4))
        derive = jax.jit(lambda *a: (gradients(*a), jax.hessian(of)(*a)))
        return jax.tree.leaves(derive(*arguments, table.reward, table.constraints))

    for ours, theirs in zip(both(dual_value), both(plain_value), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_conflicting_margins_are_infeasible_and_not_converged(method):
    """jaxopt alone calls most such tables converged."""
    table = vector_table(2)
    opposed = Scores(table.reward, jnp.stack([table.constraints[..., 0], -table.constraints[..., 0]], -1))
    solution = solve_dual(opposed, jnp.array([0.2, 0.1]), 0.5, method)
    assert solution.feasible == Feasible.NO and not solution.converged
    assert np.all(np.isposinf(solution.multipliers))
