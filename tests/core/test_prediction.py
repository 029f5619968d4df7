"""Cross-fitted ridge regression against the method's vectors and against plain NumPy, prompt by prompt."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core import features as features_module
from cann_jax.core.features import standardise_features
from cann_jax.core.prediction import GRID, folds_of, predict_scores
from cann_jax.core.scores import Scores
from cann_jax.files.errors import InputError
from tests.core.trained import CONSTRAINT, FEATURES, FOLDS, PROMPTS, RESPONSES, REWARD, trained_table

RNG = np.random.default_rng(3)
MASK = RNG.random((PROMPTS, RESPONSES)) < 0.7
MASK[:, 0] = True
WEIGHTS = RNG.integers(0, 3, PROMPTS).astype(float)
WIDE = RNG.normal(size=(PROMPTS, RESPONSES, 200))


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_vectors():
    found = predict_scores(jnp.asarray(FEATURES), trained_table(), FOLDS, strength=1.0, slopes=False)
    np.testing.assert_allclose(
        found.correlations, [0.737296764644872, 0.7936390606660194], rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(found.slopes, [1.0081289929982893, 1.0010061078401002], rtol=0, atol=1e-12)
    assert found.strengths.tolist() == [1.0, 1.0]


def test_vectors_in_float32():
    with jax.enable_x64(False):
        found = predict_scores(jnp.asarray(FEATURES), trained_table(), FOLDS, strength=1.0, slopes=False)
    np.testing.assert_allclose(found.correlations, [0.737296764644872, 0.7936390606660194], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.slopes, [1.0081289929982893, 1.0010061078401002], rtol=0, atol=1e-5)


def plain_ridge(features, values, mask, weights, folds, strength):
    """One row after the other, with loops."""
    found = np.zeros(values.shape)
    for fold in np.unique(folds):
        gram, right = strength * np.eye(features.shape[-1]), 0
        for i, k in np.argwhere(mask & (folds != fold)[:, None]):
            gram = gram + weights[i] * np.outer(features[i, k], features[i, k])
            right = right + weights[i] * features[i, k] * values[i, k]
        beta = np.linalg.solve(gram, right) if np.ndim(right) else np.zeros(features.shape[-1])
        for i, k in np.argwhere(mask & (folds == fold)[:, None]):
            found[i, k] = features[i, k] @ beta
    return found


def masked_centre(values, mask):
    mean = (values * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True)
    return (values - mean) * mask


@pytest.mark.parametrize("features", [FEATURES, WIDE], ids=["more rows", "more features"])
def test_masks_weights_and_groups_against_loops(features):
    members = np.stack([np.ones(PROMPTS), np.arange(PROMPTS) % 2], axis=-1)
    second = CONSTRAINT[::-1] * members[:, 1, None]
    scores = Scores(REWARD, np.stack([CONSTRAINT, second], -1), MASK, WEIGHTS)
    features = np.array(standardise_features(features, MASK)[np.arange(PROMPTS)])
    features[~MASK] = np.nan
    found = predict_scores(features, scores, FOLDS, strength=2.0, slopes=False, members=members)
    weights = WEIGHTS / WEIGHTS.sum() * PROMPTS
    tables = zip([REWARD, CONSTRAINT, second], [np.ones(PROMPTS), *members.T], strict=True)
    for fitted, (values, inside) in zip(
        [found.reward, *np.moveaxis(found.constraints, -1, 0)], tables, strict=True
    ):
        values = masked_centre(values, MASK)
        plain = plain_ridge(features, values, MASK, weights * inside, FOLDS, 2.0) * inside[:, None]
        np.testing.assert_allclose(fitted, plain, rtol=0, atol=1e-10)
    again = predict_scores(features, scores, FOLDS, strength=2.0, members=members)
    np.testing.assert_allclose(again.reward, found.reward * max(found.slopes[0], 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("features", [FEATURES, WIDE], ids=["more rows", "more features"])
def test_the_strength_with_the_least_error_is_chosen(features):
    features, scores = standardise_features(features), trained_table()
    unit = float(np.sum(np.square(features[np.arange(PROMPTS)])) / features.shape[-1])
    found = predict_scores(features, scores, FOLDS)
    for target, (values, strength) in enumerate(zip([REWARD, CONSTRAINT], found.strengths, strict=True)):
        errors = []
        for ratio in GRID:
            plain = predict_scores(features, scores, FOLDS, strength=ratio * unit, slopes=False)
            fitted = [plain.reward, plain.constraints[..., 0]][target]
            errors.append(float(np.sum((fitted - values) ** 2)))
        assert float(strength) == pytest.approx(GRID[int(np.argmin(errors))] * unit)


def test_prompts_of_a_fold_do_not_move_their_own_predictions():
    first = predict_scores(FEATURES, trained_table(), FOLDS, strength=1.0, slopes=False)
    moved = dataclasses.replace(trained_table(), reward=REWARD + 5 * WIDE[..., 0] * (FOLDS == 2)[:, None])
    second = predict_scores(FEATURES, moved, FOLDS, strength=1.0, slopes=False)
    same = np.isclose(first.reward, second.reward, atol=1e-12).all(1)
    assert same.tolist() == (FOLDS == 2).tolist()


class Spied:
    """Features of which the most prompts that were asked for at once are known."""

    def __init__(self, values):
        self.values, self.shape, self.most = values, values.shape, 0

    def __getitem__(self, prompts):
        self.most = max(self.most, len(prompts))
        return self.values[prompts]


@pytest.mark.parametrize("held, most", [(3, 3), (7, 6), (1000, 24)])
def test_features_are_read_a_few_prompts_at_a_time(monkeypatch, held, most):
    """In folds of 8, 8, 7 and 1 prompts, masked; the block leaves no trace in what comes out."""
    folds = np.repeat(np.arange(4), [8, 8, 7, 1])
    scores = Scores(REWARD, CONSTRAINT[..., None], MASK, WEIGHTS)
    whole = predict_scores(standardise_features(FEATURES, MASK), scores, folds)
    monkeypatch.setattr(features_module, "BLOCK", held * RESPONSES * FEATURES.shape[-1])
    spied = Spied(FEATURES)
    parts = predict_scores(standardise_features(spied, MASK), scores, folds)
    assert spied.most == most
    for name in ("reward", "constraints", "slopes", "correlations", "strengths"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-11)


def test_folds_are_balanced_and_a_function_of_the_seed():
    folds = folds_of(30, 8, 1)
    assert sorted(np.bincount(folds).tolist()) == [3, 3, 4, 4, 4, 4, 4, 4]
    assert folds.tolist() == folds_of(30, 8, 1).tolist() != folds_of(30, 8, 2).tolist()


def test_a_constant_score_is_predicted_as_zero():
    scores = Scores(np.ones((PROMPTS, RESPONSES)), CONSTRAINT[..., None])
    found = predict_scores(FEATURES, scores, FOLDS)
    assert np.all(found.reward == 0)
    assert (found.correlations[0], found.slopes[0]) == (0, 1)
    nothing = predict_scores(np.zeros_like(FEATURES), trained_table(), FOLDS)
    assert np.all(nothing.constraints == 0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"folds": np.zeros(PROMPTS, int)}, "folds: 1 fold of 24 prompts; give at least two"),
        ({"folds": FOLDS[1:]}, r"folds have shape \(23,\)"),
        ({"folds": FOLDS * 1.0}, r"give \(24,\) integers"),
        ({"features": FEATURES[1:]}, r"features have shape \(23, 6, 3\); give \(24, 6, 'F'\)"),
        ({"features": np.where(FEATURES[2, 1] == FEATURES, np.nan, FEATURES)}, "1 responses .prompt 2 resp"),
        (
            {"scores": Scores(np.ones((PROMPTS, RESPONSES)), np.ones((PROMPTS, RESPONSES, 1)))},
            "score the same",
        ),
    ],
)
def test_errors(change, message):
    given = {"features": FEATURES, "scores": trained_table(), "folds": FOLDS} | change
    with pytest.raises(InputError, match=message):
        predict_scores(**given)


@pytest.mark.parametrize(
    "prompts, count, advice",
    [(24, 1, "give 2 to 24"), (24, 25, "give 2 to 24"), (1, 2, "there must be two prompts or more")],
)
def test_fewer_prompts_than_folds(prompts, count, advice):
    with pytest.raises(InputError, match=advice):
        folds_of(prompts, count, 0)
