"""Log-ratios, and the listwise loss on them, against the method's test vectors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.log_ratios import calibration, calibration_slope, reweighted
from cann_jax.core.losses import listwise_floor, listwise_loss
from cann_jax.core.scores import Scores
from tests.core.trained import (
    BETA,
    CONSTRAINT,
    DISTURBANCE,
    PRECISIONS,
    REWARD,
    predicted,
    trained_table,
    within,
)

TARGET = (REWARD + CONSTRAINT) / BETA
BY_SCALE = {  # s: constraint, reward, KL
    0.5: (-0.052325738077057114, 0.11871051687549668, 0.02024585397145411),
    1.0: (-0.10396475517524313, 0.23242874939690336, 0.07825954898412583),
    2.0: (-0.197774983057604, 0.42674502602091335, 0.2732936303275289),
}


def log_ratios() -> jax.Array:
    found = predicted(trained_table())
    return jnp.asarray(within(0.5 * np.asarray(found.reward) + 0.3 * DISTURBANCE))


@PRECISIONS
def test_calibration_vectors(context, tolerance):
    with context():
        found = calibration(log_ratios(), TARGET)
        np.testing.assert_allclose(found.slope, 1.6399381484458897, rtol=0, atol=tolerance)
        np.testing.assert_allclose(found.correlation, 0.33741242929943965, rtol=0, atol=tolerance)
        assert calibration_slope(log_ratios() + 3.0, TARGET) == pytest.approx(1.63993815, abs=1e-5)


@PRECISIONS
def test_listwise_vectors(context, tolerance):
    with context():
        loss = jnp.mean(listwise_loss(log_ratios(), jnp.asarray(TARGET), 1.0))
        np.testing.assert_allclose(loss, 1.7309078251120515, rtol=0, atol=tolerance)
        floor = jnp.mean(listwise_floor(jnp.asarray(REWARD + CONSTRAINT), BETA))
        np.testing.assert_allclose(floor, 0.8933971098181838, rtol=0, atol=tolerance)
        start = listwise_loss(jnp.zeros_like(log_ratios()), jnp.asarray(TARGET), 1.0)
        np.testing.assert_allclose(start, math.log(6), rtol=0, atol=tolerance)


def test_the_listwise_loss_is_least_at_the_tilted_policy():
    tilt = jnp.asarray(TARGET, jnp.float32)
    slope = jax.grad(lambda x: jnp.sum(listwise_loss(x, tilt, 1.0)))(tilt + 2.0)
    np.testing.assert_allclose(slope, 0, rtol=0, atol=1e-6)


@PRECISIONS
@pytest.mark.parametrize("scale", BY_SCALE)
def test_reweighted_vectors(context, tolerance, scale):
    with context():
        found = reweighted(scale * log_ratios(), trained_table())
        means = [np.mean(found.improvement), np.mean(found.reward), np.mean(found.kl)]
        np.testing.assert_allclose(means, BY_SCALE[scale], rtol=0, atol=tolerance)
        assert 1 < found.effective_sample_size < 6


def test_missing_responses_weigh_nothing():
    mask = np.ones(REWARD.shape, bool)
    mask[:, 4:] = False
    ratios = np.asarray(log_ratios())
    whole = Scores(REWARD[:, :4], CONSTRAINT[:, :4, None])
    masked = Scores(REWARD, CONSTRAINT[..., None], mask)
    for short, full in zip(reweighted(ratios[:, :4], whole), reweighted(ratios, masked), strict=True):
        np.testing.assert_allclose(short, full, rtol=1e-5, atol=1e-6)
    short, full = calibration(ratios[:, :4], TARGET[:, :4]), calibration(ratios, TARGET, mask)
    np.testing.assert_allclose(short, full, rtol=1e-5)


def test_log_ratios_that_never_vary():
    assert calibration(jnp.zeros((3, 4)), TARGET[:3, :4]) == (0, 0, 0)
    flat = reweighted(jnp.zeros(REWARD.shape), trained_table())
    np.testing.assert_allclose(flat.improvement, 0, rtol=0, atol=1e-6)
    assert flat.effective_sample_size == pytest.approx(6)
