"""The solver inside someone else's jit, vmap and grad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import METHODS, solve_dual
from tests.core.tables import random_table

TABLE = random_table(0)


@pytest.mark.parametrize("method", METHODS)
def test_vmap_over_margins_and_beta(method):
    margins, betas = jnp.array([[0.0], [0.4], [0.8]]), jnp.array([1.0, 0.5, 2.0])
    batch = jax.jit(jax.vmap(lambda b, beta: solve_dual(TABLE, b, beta, method)))(margins, betas)
    single = [
        solve_dual(TABLE, b, beta, "newton").multipliers for b, beta in zip(margins, betas, strict=True)
    ]
    np.testing.assert_allclose(batch.multipliers, np.stack(single), rtol=1e-4, atol=1e-5)
    assert np.all(batch.converged)


def test_jit_at_a_beta_that_is_a_number():
    found = jax.jit(lambda b: solve_dual(TABLE, b, 0.5, "newton").multipliers)(jnp.array([0.4]))
    np.testing.assert_allclose(found, solve_dual(TABLE, 0.4, 0.5, "newton").multipliers, rtol=1e-5)


def test_vmap_over_bootstrap_weights():
    weights = jnp.asarray(np.random.default_rng(1).multinomial(32, np.full(32, 1 / 32), size=4), jnp.float32)
    axes = Scores(None, None, None, 0, None)

    def solve(scores):
        return solve_dual(scores, 0.4, 0.5, "newton").multipliers

    batch = jax.vmap(solve, in_axes=(axes,))(Scores(TABLE.reward, TABLE.constraints, None, weights, None))
    repeated = np.repeat(np.arange(32), np.asarray(weights[2], int))
    by_hand = solve(Scores(TABLE.reward[repeated], TABLE.constraints[repeated]))
    np.testing.assert_allclose(batch[2], by_hand, rtol=1e-4)


def test_a_rough_start_on_a_part_of_a_large_table_changes_no_answer():
    table = random_table(5, prompts=8192, responses=4)
    from_part = solve_dual(table, 0.3, 0.5, "newton")
    from_zero = solve_dual(table, 0.3, 0.5, "newton", initial=jnp.zeros(1))
    assert from_part.converged and from_part.iterations <= from_zero.iterations
    np.testing.assert_allclose(from_part.multipliers, from_zero.multipliers, rtol=1e-4)
