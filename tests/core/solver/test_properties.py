"""What must hold on any table, by hypothesis."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cann_jax.core.dual import dual_value
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import solve_dual

SHAPE = (6, 5)
BETA = 0.5
seeds = st.integers(0, 2**31)
quick = settings(max_examples=25, deadline=None, derandomize=True)


def table(seed):
    """reward and constraint of ``SHAPE``."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=SHAPE)
    return reward, rng.normal(size=(*SHAPE, 1)) - 0.5 * reward[..., None]


@jax.jit
def multiplier(reward, constraints, margin, beta=BETA):
    return solve_dual(Scores(reward, constraints), margin[None], beta, "newton").multipliers[0]


def solve(reward, constraints, margin, beta=BETA):
    return float(
        multiplier(
            jnp.asarray(reward, jnp.float32), jnp.asarray(constraints, jnp.float32), jnp.float32(margin), beta
        )
    )


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)


@quick
@given(seeds, st.floats(-50, 50), st.floats(-0.5, 0.5))
def test_shifts_of_a_prompts_reward_change_nothing(seed, shift, margin):
    reward, constraints = table(seed)
    moved = reward + shift * np.arange(SHAPE[0])[:, None]
    close(solve(moved, constraints, margin), solve(reward, constraints, margin))


@quick
@given(seeds, st.floats(0.01, 100), st.floats(-0.5, 0.5))
def test_scaling_constraint_and_margin_divides_the_multiplier(seed, scale, margin):
    reward, constraints = table(seed)
    close(scale * solve(reward, scale * constraints, scale * margin), solve(reward, constraints, margin))


@quick
@given(seeds, st.floats(0.01, 100), st.floats(-0.5, 0.5))
def test_only_the_ratio_to_beta_matters(seed, scale, margin):
    reward, constraints = table(seed)
    scaled = solve(scale * reward, scale * constraints, scale * margin, scale * BETA)
    close(scaled, solve(reward, constraints, margin))


@quick
@given(seeds, st.floats(-0.5, 0.5))
def test_order_of_prompts_and_responses_does_not_matter(seed, margin):
    reward, constraints = table(seed)
    rng = np.random.default_rng(seed)
    n, k = rng.permutation(SHAPE[0]), rng.permutation(SHAPE[1])
    close(solve(reward[n][:, k], constraints[n][:, k], margin), solve(reward, constraints, margin))


@quick
@given(seeds, st.floats(-0.5, 0.4), st.floats(0, 0.2))
def test_multiplier_grows_with_the_margin(seed, margin, more):
    reward, constraints = table(seed)
    assert solve(reward, constraints, margin + more) >= solve(reward, constraints, margin) - 1e-4


@quick
@given(seeds, st.floats(0, 1))
def test_multiplier_is_zero_where_the_constraint_holds_already(seed, ease):
    reward, constraints = table(seed)
    weights = np.exp(reward / BETA) / np.exp(reward / BETA).sum(-1, keepdims=True)
    improvement = ((weights - 1 / SHAPE[1]) * constraints[..., 0]).sum(-1).mean()
    assert solve(reward, constraints, improvement - ease - 1e-5) == 0


@quick
@given(seeds, st.floats(0, 3), st.floats(0, 3), st.floats(0, 1))
def test_the_dual_is_convex(seed, one, other, share):
    reward, constraints = (jnp.asarray(x, jnp.float32) for x in table(seed))

    def value(multiplier):
        point = jnp.asarray([multiplier], jnp.float32)
        return float(dual_value(point, Scores(reward, constraints), jnp.array([0.3]), BETA))

    between = value(share * one + (1 - share) * other)
    assert between <= share * value(one) + (1 - share) * value(other) + 1e-5
