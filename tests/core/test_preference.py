"""Labels and the preference loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.dual import tilted_weights
from cann_jax.core.losses import dpo_loss
from cann_jax.core.preference import preference_probability, pseudo_reward
from cann_jax.core.solver.solve import solve_dual
from tests.core.tables import vector_table


def test_pseudo_reward_is_linear_in_the_multipliers():
    table = vector_table(2)
    got = pseudo_reward(table, jnp.array([2.0, 0.5]))
    np.testing.assert_allclose(
        got, table.reward + 2 * table.constraints[..., 0] + 0.5 * table.constraints[..., 1], rtol=1e-5
    )


def test_label_is_bradley_terry_and_temperature_sharpens():
    assert preference_probability(2.0, 1.0) == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-6)
    assert preference_probability(2.0, 1.0, temperature=0.1) == pytest.approx(1 / (1 + np.exp(-10)), rel=1e-6)
    assert preference_probability(1.0, 2.0) + preference_probability(2.0, 1.0) == pytest.approx(1)


def test_loss_at_no_margin_is_ln2_and_stays_finite():
    assert dpo_loss(3.0, 3.0, 0.7, 0.1) == pytest.approx(np.log(2), rel=1e-6)
    extreme = dpo_loss(jnp.array([1e6, -1e6]), jnp.zeros(2), jnp.array([1.0, 1.0]), 1.0)
    np.testing.assert_allclose(extreme, [0.0, 1e6])


def test_loss_is_least_where_the_margin_is_the_labels_log_odds():
    label, beta = 0.8, 0.25
    best = np.log(label / (1 - label)) / beta
    assert jax.grad(dpo_loss)(best, 0.0, label, beta) == pytest.approx(0, abs=1e-6)


def test_labels_of_the_optimum_point_dpo_at_the_tilted_policy():
    """Bradley-Terry labels of r_λ under DPO at the same β are stationary exactly at π_λ."""
    table = vector_table()
    solution = solve_dual(table, 0.3, 0.5, "newton")
    log_ratio = jnp.log(tilted_weights(solution.multipliers, table, 0.5) * 6)[0]
    reward = pseudo_reward(table, solution.multipliers)[0]

    def loss(ratio):
        margins = ratio[:, None] - ratio[None, :]
        labels = preference_probability(reward[:, None], reward[None, :])
        return jnp.mean(dpo_loss(margins, 0.0, labels, 0.5))

    np.testing.assert_allclose(jax.grad(loss)(log_ratio), 0, atol=1e-6)
