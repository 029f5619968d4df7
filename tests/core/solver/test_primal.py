"""The dual's answer against an independent solve of the primal over the simplex."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from cann_jax.core.dual import tilted_weights
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import solve_dual

PROMPTS, RESPONSES, BETA = 4, 5, 0.5


def solve_primal(reward, constraints, margins):
    """max Σ w r/N − β·KL(w ‖ uniform)/N over N simplices with E_w[g] − E_ref[g] ≥ b, by scipy's SLSQP."""
    baseline = constraints.mean((0, 1))

    def loss(flat):
        w = np.maximum(flat.reshape(PROMPTS, RESPONSES), 1e-12)
        return -(w * (reward - BETA * np.log(w * RESPONSES))).sum() / PROMPTS

    def slope(flat):
        w = np.maximum(flat.reshape(PROMPTS, RESPONSES), 1e-12)
        return -((reward - BETA * (np.log(w * RESPONSES) + 1)) / PROMPTS).ravel()

    simplex = {"type": "eq", "fun": lambda w: w.reshape(PROMPTS, RESPONSES).sum(1) - 1}
    reach = {
        "type": "ineq",
        "fun": lambda w: (
            np.einsum("nk,nkm->m", w.reshape(PROMPTS, RESPONSES), constraints) / PROMPTS - baseline - margins
        ),
    }
    start = np.full(PROMPTS * RESPONSES, 1 / RESPONSES)
    options = {"maxiter": 500, "ftol": 1e-13}
    found = minimize(
        loss, start, jac=slope, bounds=[(0, 1)] * start.size, constraints=[simplex, reach], options=options
    )
    assert found.success, found.message
    return found.x.reshape(PROMPTS, RESPONSES), -found.fun


@pytest.mark.parametrize("count", [1, 2, 4])
def test_value_and_policy_equal_the_primals(count):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        reward, constraints = (
            rng.normal(size=(PROMPTS, RESPONSES)),
            rng.normal(size=(PROMPTS, RESPONSES, count)),
        )
        margins = np.linspace(0.3, 0.05, count)
        with jax.enable_x64(True):
            table = Scores(jnp.asarray(reward), jnp.asarray(constraints))
            solution = solve_dual(table, jnp.asarray(margins), BETA, "newton")
            policy = tilted_weights(solution.multipliers, table, BETA)
            assert solution.converged
        weights, value = solve_primal(reward, constraints, margins)
        assert solution.value == pytest.approx(value, abs=1e-6)
        np.testing.assert_allclose(policy, weights, atol=2e-3)
