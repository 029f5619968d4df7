"""Derivatives of λ* and of what it predicts, against differences; numbers of any type, and β in range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.dual import dual_value
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import METHODS, solve_dual
from cann_jax.files.errors import InputError

RNG = np.random.default_rng(0)
REWARD, CONSTRAINTS = RNG.normal(size=(30, 8)), RNG.normal(size=(30, 8, 2))
MASK = RNG.random((30, 8)) < 0.8
MASK[:, 0] = True
MARGINS, STEP = jnp.array([0.3, 0.1]), 1e-5
FIELDS = {"multipliers": jnp.array([1.0, 0.3]), "predicted_reward": 1.0, "kl": 1.0, "value": 1.0}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mask", [None, MASK], ids=["full", "ragged"])
@pytest.mark.parametrize("field", FIELDS)
def test_derivatives_are_those_of_differences(method, mask, field):
    with jax.enable_x64(True):

        def found(beta, margins, reward, constraints):
            scores = Scores(reward, constraints, mask)
            solution = solve_dual(scores, margins, beta, method, tolerance=1e-9)
            return jnp.sum(getattr(solution, field) * FIELDS[field])

        reward = jnp.asarray(np.where(True if mask is None else mask, REWARD, np.nan))
        constraints = jnp.asarray(
            CONSTRAINTS if mask is None else np.where(mask[..., None], CONSTRAINTS, np.nan)
        )
        given = (jnp.asarray(0.7), jnp.asarray(MARGINS, float), reward, constraints)
        ways = [jnp.asarray(np.random.default_rng(1).normal(size=jnp.shape(x))) for x in given]
        backward = jax.jit(jax.grad(found, argnums=(0, 1, 2, 3)))(*given)
        for place, way in enumerate(ways):
            ends = [found(*given[:place], given[place] + s * way, *given[place + 1 :]) for s in (STEP, -STEP)]
            expected = (ends[0] - ends[1]) / (2 * STEP)
            assert float(jnp.sum(backward[place] * way)) == pytest.approx(float(expected), abs=1e-6)
        forward = jax.jacfwd(found, argnums=(0, 1))(*given)
        np.testing.assert_allclose(forward[0], backward[0], atol=1e-9)
        np.testing.assert_allclose(forward[1], backward[1], atol=1e-9)


def test_a_multiplier_at_nothing_stays_there():
    scores = Scores(REWARD.astype(np.float32), CONSTRAINTS.astype(np.float32))
    moved = jax.jacfwd(lambda margins: solve_dual(scores, margins, 0.7).multipliers)(jnp.array([0.3, -5.0]))
    assert moved[0, 0] > 0 and not np.asarray(moved)[1].any() and not np.asarray(moved)[:, 1].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [np.int32, np.int8, np.uint8, np.float16, bool, list])
def test_numbers_of_any_type_are_computed_in_floating_point(kind, method):
    """Margins and β once took the scores' integer type: .831 where 1.366 was right, or NaN."""
    rng = np.random.default_rng(2)
    reward, constraints = rng.integers(0, 2 if kind is bool else 6, (2, 40, 8))
    expected = solve_dual(Scores(reward.astype("f4"), constraints[..., None].astype("f4")), 0.2, 0.7, method)
    assert expected.multipliers[0] > 0.05
    scores = Scores(
        *(x.tolist() if kind is list else x.astype(kind) for x in (reward, constraints[..., None]))
    )
    found = solve_dual(scores, 0.2, 0.7, method)
    np.testing.assert_allclose(found.multipliers, expected.multipliers, rtol=1e-6)
    assert dual_value(jnp.ones(1), scores, jnp.array([0.2]), 0.7).dtype == np.float32


@pytest.mark.parametrize("beta", [1e-45, 0.0, -1.0, 1e39, np.inf, np.nan])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(InputError, match=r"beta: .*; give a positive number"):
        solve_dual(Scores(REWARD.astype("f4"), CONSTRAINTS.astype("f4")), MARGINS, beta)


def test_what_lies_beneath_a_mask_moves_no_derivative():
    scores = Scores(np.where(MASK, REWARD, np.nan), np.where(MASK[..., None], CONSTRAINTS, np.nan), MASK)
    zeros = Scores(np.where(MASK, REWARD, 0), np.where(MASK[..., None], CONSTRAINTS, 0), MASK)
    found, expected = (jax.grad(dual_value)(jnp.ones(2), each, MARGINS, 0.7) for each in (scores, zeros))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, expected)
