"""Losses against formulas written out by hand, with labels at and between the ends."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.losses import (
    bradley_terry_loss,
    cost_loss,
    dpo_loss,
    ipo_loss,
    listwise_floor,
    listwise_loss,
    regression_loss,
    smoothed,
)

CASES = [(1.3, 0.4, 1.0, 0.5), (-2.0, 1.0, 0.0, 0.1), (0.7, 0.7, 0.5, 2.0), (5.0, -3.0, 0.3, 0.25)]


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


@pytest.mark.parametrize("policy, reference, label, beta", CASES)
def test_dpo_and_ipo_by_hand(policy, reference, label, beta):
    z, h = beta * (policy - reference), policy - reference
    expected = -label * log_sigmoid(z) - (1 - label) * log_sigmoid(-z)
    assert dpo_loss(policy, reference, label, beta) == pytest.approx(expected, rel=1e-5)
    expected = label * (h - 1 / (2 * beta)) ** 2 + (1 - label) * (h + 1 / (2 * beta)) ** 2
    assert ipo_loss(policy, reference, label, beta) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("policy, reference, label, beta", CASES)
def test_an_offset_is_what_the_first_must_win_by(policy, reference, label, beta):
    z = beta * (policy - reference) - 0.75
    expected = -label * log_sigmoid(z) - (1 - label) * log_sigmoid(-z)
    assert dpo_loss(policy, reference, label, beta, 0.75) == pytest.approx(expected, rel=1e-5)
    swapped = dpo_loss(-policy, -reference, 1 - label, beta, -0.75)  # the pair the other way round
    assert swapped == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [dpo_loss, ipo_loss])
def test_a_soft_label_is_the_mean_over_its_draws(loss):
    hard = [float(loss(1.3, 0.2, label, 0.4)) for label in (1.0, 0.0)]
    assert loss(1.3, 0.2, 0.3, 0.4) == pytest.approx(0.3 * hard[0] + 0.7 * hard[1], rel=1e-6)


@pytest.mark.parametrize("loss", [dpo_loss, ipo_loss])
def test_turning_a_pair_round_changes_nothing(loss):
    assert loss(1.3, 0.2, 0.3, 0.4) == pytest.approx(float(loss(-1.3, -0.2, 0.7, 0.4)), rel=1e-6)


def test_ipo_is_least_at_a_finite_margin_even_for_certain_labels():
    for label in (1.0, 0.8):
        best = (label - 0.5) / 0.25
        assert jax.grad(ipo_loss)(best, 0.0, label, 0.25) == pytest.approx(0, abs=1e-5)
        assert ipo_loss(best + 1, 0.0, label, 0.25) > ipo_loss(best, 0.0, label, 0.25)


def test_regression_is_zero_exactly_at_the_closed_form():
    """log-ratios r_λ/β − ln Z of three responses, whatever Z."""
    reward, beta = jnp.array([0.3, -1.2, 2.0]), 0.4
    ratio = reward / beta - jax.nn.logsumexp(reward / beta)
    margins, differences = ratio[:, None] - ratio[None, :], reward[:, None] - reward[None, :]
    np.testing.assert_allclose(regression_loss(margins, 0.0, differences, beta), 0, atol=1e-10)
    assert regression_loss(1.3, 0.4, 0.2, 0.5) == pytest.approx((0.9 - 0.4) ** 2, rel=1e-6)


def test_listwise_loss_by_hand():
    """−Σ w ln p of two lists of three, written out."""
    rewards, ratios, beta = [[0.3, -1.2, 2.0], [1.0, 1.0, 0.0]], [[0.5, 0.1, -0.4], [0.0, 2.0, 1.0]], 0.4
    for reward, ratio in zip(rewards, ratios, strict=True):
        w, p = (np.exp(values) / np.sum(np.exp(values)) for values in (np.array(reward) / beta, ratio))
        found = listwise_loss(jnp.array(ratio), jnp.array(reward), beta)
        assert found == pytest.approx(-np.sum(w * np.log(p)), rel=1e-5)
    found = listwise_loss(jnp.array(ratios), jnp.array(rewards), beta)
    assert found.shape == (2,)
    np.testing.assert_allclose(
        listwise_loss(jnp.zeros((2, 3)), jnp.array(rewards), beta), np.log(3), rtol=1e-6
    )


def test_listwise_loss_is_least_at_the_tilted_policy_and_there_the_floor():
    reward, beta = jnp.array([0.3, -1.2, 2.0]), 0.4
    tilted = reward / beta - 7.0  # whatever the normalizer
    np.testing.assert_allclose(jax.grad(listwise_loss)(tilted, reward, beta), 0, atol=1e-6)
    assert listwise_loss(tilted, reward, beta) == pytest.approx(float(listwise_floor(reward, beta)), rel=1e-5)
    assert listwise_loss(tilted + jnp.array([0.5, 0, 0]), reward, beta) > listwise_floor(reward, beta) + 1e-3


def test_smoothing_is_conservative_dpo():
    """(1 − ε)·loss(label) + ε·loss(1 − label), Mitchell's note on cDPO."""
    plain, turned = (float(dpo_loss(1.3, 0.2, label, 0.4)) for label in (0.9, 0.1))
    conservative = dpo_loss(1.3, 0.2, smoothed(0.9, 0.2), 0.4)
    assert conservative == pytest.approx(0.8 * plain + 0.2 * turned, rel=1e-6)
    assert smoothed(jnp.array([0.0, 0.5, 1.0]), 0.1).tolist() == pytest.approx([0.1, 0.5, 0.9])


def test_bradley_terry_stays_finite():
    losses = bradley_terry_loss(jnp.array([1e6, -1e6, 0.0]), jnp.array([1.0, 1.0, 0.2]))
    np.testing.assert_allclose(losses, [0.0, 1e6, math.log(2)], rtol=1e-6)


@pytest.mark.parametrize("safer, safe", [(0, (1, 0)), (1, (0, 0)), (1, (1, 1)), (0, (-1, 0)), (1, (-1, -1))])
def test_cost_by_hand(safer, safe):
    costs = (0.7, -1.1)
    expected = -log_sigmoid(costs[1 - safer] - costs[safer])
    for cost, is_safe in zip(costs, safe, strict=True):
        if is_safe >= 0:
            expected -= log_sigmoid(-cost if is_safe else cost)
    got = cost_loss(jnp.array(costs), jnp.array(safer), jnp.array(safe))
    assert got == pytest.approx(expected, rel=1e-5)
