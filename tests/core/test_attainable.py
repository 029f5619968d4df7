"""What training can attain: the method's test vectors, complementarity, and the ceiling."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.attainable import attainable, attained, solve_attainable
from cann_jax.core.prediction import predict_scores
from cann_jax.core.scores import normalised_prompt_weights
from cann_jax.core.solver.solve import solve_dual
from tests.core.trained import BETA, FEATURES, FOLDS, trained_table

PRECISIONS = pytest.mark.parametrize(
    "context, tolerance", [(lambda: jax.enable_x64(True), 1e-9), (contextlib.nullcontext, 1e-5)]
)
AT = {  # λ: constraint, reward, KL
    0.0: (-0.3401419082128975, 0.724575977911963, 0.6113793293690662),
    1.0: (0.20316295569564358, 0.3629234737712587, 0.4639357955190075),
    2.0: (0.4960187015791057, 0.09879746339825678, 0.8055424788705778),
}
GREEDY = 0.633907336325994


def predicted(scores):
    return predict_scores(jnp.asarray(FEATURES), scores, FOLDS, strength=1.0, slopes=False)


def means(scores, found):
    return [float(np.squeeze(x)) for x in found.mean(normalised_prompt_weights(scores))]


@PRECISIONS
def test_attained_vectors(context, tolerance):
    with context():
        scores = trained_table()
        for multiplier, expected in AT.items():
            seen = attained(scores, predicted(scores), jnp.asarray([multiplier]), BETA)
            np.testing.assert_allclose(means(scores, seen), expected, atol=tolerance)


@PRECISIONS
def test_multipliers_vectors(context, tolerance):
    with context():
        scores = trained_table()
        found = attainable(jnp.asarray(FEATURES), scores, 0.2, BETA, FOLDS, strength=1.0, slopes=False)
        assert found.converged
        seen = [*found.multipliers, *found.improvement, found.reward, found.kl]
        expected = [0.9934364632477287, 0.2, 0.36525717348269954, 0.4621188043923046]
        np.testing.assert_allclose(seen, expected, atol=tolerance)
        np.testing.assert_allclose(found.greedy, GREEDY, atol=tolerance)
        further = solve_attainable(scores, found.predicted, 0.5, BETA)
        np.testing.assert_allclose(further.multipliers, 2.0263112799839886, atol=3 * tolerance)


def test_plug_in_vectors():
    with jax.enable_x64(True):
        scores = trained_table()
        found = solve_dual(scores, 0.2, BETA, tolerance=1e-12)
        np.testing.assert_allclose(found.multipliers, 0.7719374690813936, atol=1e-9)
        np.testing.assert_allclose(found.predicted_reward, 0.9757200718865668, atol=1e-9)
        further = solve_dual(scores, 0.5, BETA, tolerance=1e-12)
        np.testing.assert_allclose(further.multipliers, 1.3377713516662924, atol=1e-9)


def test_the_ceiling_is_the_highest_improvement_and_can_lie_above_the_greedy_one():
    with jax.enable_x64(True):
        scores = trained_table()
        found = solve_attainable(scores, predicted(scores), 0.2, BETA)
        grid = np.concatenate([np.linspace(0, 30, 601), np.geomspace(30, 1e5, 60)])
        each = jax.vmap(lambda x: jnp.mean(attained(scores, found.predicted, x[None], BETA).improvement))
        highest = float(np.max(each(jnp.asarray(grid))))
        assert highest > GREEDY + 0.02
        np.testing.assert_allclose(found.ceiling, highest, atol=1e-4)
        assert found.ceiling >= highest
