"""The closed-form table with features of the method's test vectors, for what training can attain."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.prediction import Predicted, predict_scores
from cann_jax.core.scores import Scores

PRECISIONS = pytest.mark.parametrize(
    "context, tolerance",
    [(lambda: jax.enable_x64(True), 1e-9), (contextlib.nullcontext, 1e-5)],
    ids=["float64", "float32"],
)
PROMPTS, RESPONSES, BETA = 24, 6, 0.5
_I, _K = np.arange(PROMPTS)[:, None], np.arange(RESPONSES)[None, :]
FOLDS = np.arange(PROMPTS) % 4


def within(values: np.ndarray) -> np.ndarray:
    """Centred within each prompt."""
    return values - values.mean(1, keepdims=True)


_PHI = np.stack(
    [np.sin(1 + 2 * _I + 3 * _K), np.cos(0.5 + 1.7 * _I - 1.3 * _K), np.sin(0.4 + 0.9 * _I + 1.1 * _K)],
    axis=-1,
)
FEATURES = within(_PHI)
REWARD = within(0.8 * _PHI[..., 0] - 0.5 * _PHI[..., 1] + 0.9 * np.sin(7.3 * _I + 5.1 * _K + 0.2))
CONSTRAINT = within(0.7 * _PHI[..., 1] + 0.4 * _PHI[..., 2] + 0.6 * np.cos(3.7 * _I - 8.9 * _K + 0.6))
DISTURBANCE = np.sin(2.2 * _I + 4.1 * _K)


def trained_table() -> Scores:
    return Scores(jnp.asarray(REWARD), jnp.asarray(CONSTRAINT[..., None]))


def predicted(scores: Scores) -> Predicted:
    """The table's predictions, as the vectors have them."""
    return predict_scores(jnp.asarray(FEATURES), scores, FOLDS, strength=1.0, slopes=False)
