"""A large table on a CPU is solved block by block; the answer is that of the whole table at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from cann_jax.core.feasibility import Feasible
from cann_jax.core.scores import Scores
from cann_jax.core.solver.blocks import many_blocks
from cann_jax.core.solver.solution import TOLERANCE
from cann_jax.core.solver.solve import _solve, _Way, solve_dual

PROMPTS, RESPONSES = 9001, 33  # the last block shares prompts with the one before


def large_table(constraints: int, ragged: bool, level: float = 0.0, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(PROMPTS, RESPONSES)) + rng.normal(size=(PROMPTS, 1)) + level
    values = 3 * rng.normal(size=(PROMPTS, RESPONSES, constraints)) - reward[..., None]
    mask = rng.random((PROMPTS, RESPONSES)) < 0.7 if ragged else None
    if ragged:
        mask[5] = False
    weights = rng.random(PROMPTS) if ragged else None
    table = Scores(reward.astype(np.float32), values.astype(np.float32), mask, weights)
    return jax.tree.map(jnp.asarray, jax.tree.map(lambda x: x.astype(np.float32), table))


@pytest.mark.parametrize(
    ("constraints", "ragged", "level"), [(1, False, 0.0), (1, False, 1e4), (2, True, 0.0)]
)
def test_same_answer(constraints, ragged, level):
    table = large_table(constraints, ragged, level)
    margins = jnp.array([2.0, 1.0])[:constraints]
    assert many_blocks(table.reward)
    blocks = solve_dual(table, margins, 0.5, "newton")
    zero = jnp.zeros_like(margins)
    whole = _solve(
        table, margins, jnp.float32(0.5), zero, _Way("newton", TOLERANCE, rough=False, blocks=False)
    )
    assert blocks.converged and whole.converged
    for field in ("multipliers", "predicted_constraints", "kl", "effective_sample_size", "spread"):
        np.testing.assert_allclose(getattr(blocks, field), getattr(whole, field), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(blocks.value - level, whole.value - level, atol=1e-3 + 1e-6 * level)


def test_verdicts_in_blocks():
    table = large_table(1, False)
    assert solve_dual(table, 30.0, 0.5, "newton").feasible == Feasible.NO
    free = solve_dual(table, -5.0, 0.5, "newton")
    assert free.converged and free.multipliers[0] == 0


@pytest.mark.parametrize("method", ["newton", "lbfgsb"])
@pytest.mark.parametrize("margin", [0.3, 1.5, 3.0])
def test_multiplier_agrees_with_float64_where_the_dual_is_curved(method, margin):
    """λ to 1e-4 relative where β·D″/spread² ≥ 1e-2, against a root of the float64 gradient by bisection."""
    rng = np.random.default_rng(3)
    beta, prompts, responses = 0.5, 300, 24
    reward = (2 * rng.normal(size=(prompts, responses))).astype(np.float32)
    values = (2 * rng.normal(size=(prompts, responses)) - 0.3 * reward).astype(np.float32)
    h = values.astype(float) - values.astype(float).mean() - margin

    def moments(multiplier):
        logits = (reward + multiplier * h) / beta
        policy = np.exp(logits - logits.max(-1, keepdims=True))
        policy /= policy.sum(-1, keepdims=True)
        mean = (policy * h).sum(-1)
        return mean.mean(), ((policy * h**2).sum(-1) - mean**2).mean() / beta

    truth = brentq(lambda x: moments(x)[0], 0, 100, xtol=1e-12, rtol=1e-12)
    spread = np.sqrt(values.astype(float).var(-1).mean())
    assert beta * moments(truth)[1] / spread**2 >= 1e-2
    found = solve_dual(Scores(jnp.asarray(reward), jnp.asarray(values)[..., None]), margin, beta, method)
    assert found.converged
    assert abs(float(found.multipliers[0]) / truth - 1) < 1e-4
    assert abs(moments(float(found.multipliers[0]))[0]) <= 1e-5 * spread  # the float64 KKT residual
