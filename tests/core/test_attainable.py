"""What training can attain: the method's test vectors, complementarity, and the ceiling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.attainable import attainable, attained, solve_attainable
from cann_jax.core.prediction import Predicted
from cann_jax.core.scores import Scores, normalised_prompt_weights
from cann_jax.core.solver.solve import solve_dual
from cann_jax.files.errors import InputError
from tests.core.trained import (
    BETA,
    CONSTRAINT,
    FEATURES,
    FOLDS,
    PRECISIONS,
    REWARD,
    predicted,
    trained_table,
    within,
)

AT = {  # λ: constraint, reward, KL
    0.0: (-0.3401419082128975, 0.724575977911963, 0.6113793293690662),
    1.0: (0.20316295569564358, 0.3629234537712751, 0.4639357955190075),
    2.0: (0.4960187015791057, 0.09879746339825678, 0.8055424788705778),
}
GREEDY = 0.633907336325994


def means(scores, found):
    return [float(np.squeeze(x)) for x in found.mean(normalised_prompt_weights(scores))]


@PRECISIONS
def test_attained_vectors(context, tolerance):
    with context():
        scores = trained_table()
        for multiplier, expected in AT.items():
            seen = attained(scores, predicted(scores), jnp.asarray([multiplier]), BETA)
            np.testing.assert_allclose(means(scores, seen), expected, rtol=0, atol=tolerance)


@PRECISIONS
def test_multipliers_vectors(context, tolerance):
    with context():
        scores = trained_table()
        found = attainable(jnp.asarray(FEATURES), scores, 0.2, BETA, FOLDS, strength=1.0, slopes=False)
        assert found.converged
        seen = [*found.multipliers, *found.improvement, found.reward, found.kl]
        expected = [0.9934364632477287, 0.2, 0.36525717348269954, 0.4621188043923046]
        np.testing.assert_allclose(seen, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(found.greedy, GREEDY, rtol=0, atol=tolerance)
        further = solve_attainable(scores, found.predicted, 0.5, BETA)
        np.testing.assert_allclose(further.multipliers, 2.0263112799839886, rtol=0, atol=tolerance)


@PRECISIONS
@pytest.mark.parametrize("method", ["lbfgsb", "newton"])
def test_plug_in_vectors(context, tolerance, method):
    with context():
        scores = trained_table()
        precise = {"tolerance": 1e-12} if tolerance < 1e-5 else {}
        found = solve_dual(scores, 0.2, BETA, method, **precise)
        np.testing.assert_allclose(found.multipliers, 0.7719374690813936, rtol=0, atol=tolerance)
        np.testing.assert_allclose(found.predicted_reward, 0.9757200718865668, rtol=0, atol=tolerance)
        further = solve_dual(scores, 0.5, BETA, method, **precise)
        np.testing.assert_allclose(further.multipliers, 1.3377713516662924, rtol=0, atol=tolerance)


def test_the_ceiling_is_the_highest_improvement_and_can_lie_above_the_greedy_one():
    with jax.enable_x64(True):
        scores = trained_table()
        found = solve_attainable(scores, predicted(scores), 0.2, BETA)
        grid = np.concatenate([np.linspace(0, 30, 601), np.geomspace(30, 1e5, 60)])
        each = jax.vmap(lambda x: jnp.mean(attained(scores, found.predicted, x[None], BETA).improvement))
        highest = float(np.max(each(jnp.asarray(grid))))
        assert highest > GREEDY + 0.02
        np.testing.assert_allclose(found.ceiling, highest, rtol=0, atol=1e-4)
        assert found.ceiling >= highest


def two_constraints():
    """A second constraint, against the first; masked, weighted."""
    rng = np.random.default_rng(5)
    mask = rng.random(REWARD.shape) < 0.8
    mask[:, 0] = True
    second = within(0.8 * FEATURES[..., 0] - 0.3 * CONSTRAINT + 0.4 * rng.normal(size=REWARD.shape))
    weights = jnp.asarray(rng.random(len(REWARD)) + 0.5)
    return Scores(jnp.asarray(REWARD), jnp.asarray(np.stack([CONSTRAINT, second], -1)), mask, weights)


@pytest.mark.parametrize("margins", [(0.2, 0.1), (0.3, -1.0), (-1.0, 0.5), (-1.0, -1.0)])
def test_complementarity(margins):
    with jax.enable_x64(True):
        scores = two_constraints()
        found = attainable(FEATURES, scores, margins, BETA, FOLDS)
        assert found.converged
        seen = attained(scores, found.predicted, found.multipliers, BETA)
        improvement = seen.mean(normalised_prompt_weights(scores)).improvement
        np.testing.assert_allclose(improvement, found.improvement, rtol=0, atol=1e-12)
        slack = improvement - np.asarray(margins)
        np.testing.assert_allclose(np.minimum(found.multipliers, slack), 0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("margins, short", [((1.5, -1.0), (True, False)), ((0.55, 0.55), (True, True))])
def test_margins_out_of_reach(margins, short):
    found = attainable(FEATURES, two_constraints(), margins, BETA, FOLDS)
    assert not found.converged
    assert np.any(np.isinf(found.multipliers))
    assert np.isinf(found.multipliers).tolist() == list(short)


def test_a_baseline_from_elsewhere_moves_the_improvement():
    scores = trained_table()
    moved = dataclasses.replace(scores, baseline=jnp.asarray([0.05]))
    plain = solve_attainable(scores, predicted(scores), 0.2, BETA)
    found = solve_attainable(moved, predicted(scores), 0.15, BETA)
    np.testing.assert_allclose(found.multipliers, plain.multipliers, rtol=1e-4)
    np.testing.assert_allclose(found.ceiling, plain.ceiling - 0.05, rtol=1e-4)


def test_predictions_that_are_the_scores_give_the_dual():
    scores = two_constraints()
    nothing = np.ones(3)
    own = Predicted(scores.reward, scores.constraints, nothing, nothing, nothing)
    found = solve_attainable(scores, own, (0.4, 0.2), BETA)
    dual = solve_dual(scores, (0.4, 0.2), BETA)
    np.testing.assert_allclose(found.multipliers, dual.multipliers, rtol=2e-3)
    np.testing.assert_allclose(found.kl, dual.kl, rtol=1e-3)


def test_features_that_tell_nothing_reach_nothing():
    scores = trained_table()
    found = attainable(np.zeros_like(FEATURES), scores, 0.1, BETA, FOLDS)
    assert not found.converged and np.isinf(found.multipliers[0])
    np.testing.assert_allclose([found.ceiling[0], found.improvement[0], found.kl], 0, rtol=0, atol=1e-7)


def test_under_jit_and_vmap():
    scores = trained_table()
    fitted = predicted(scores)
    solve = jax.jit(jax.vmap(lambda b: solve_attainable(scores, fitted, b, BETA).multipliers))
    many = solve(jnp.asarray([[0.1], [0.2], [5.0]]))
    one = solve_attainable(scores, fitted, 0.2, BETA).multipliers
    np.testing.assert_allclose(many[1], one, rtol=1e-5)
    assert np.isinf(many[2, 0])


@pytest.mark.parametrize(
    "margins, beta, message",
    [([0.1, 0.2], 0.5, "give one for each"), (np.nan, 0.5, "finite"), (0.1, 0.0, "positive")],
)
def test_errors(margins, beta, message):
    scores = trained_table()
    with pytest.raises(InputError, match=message):
        solve_attainable(scores, predicted(scores), margins, beta)
