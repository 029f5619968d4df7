"""Scores as features predict them on prompts that the fit has not seen: cross-fitted ridge regression.

A response's features say what a model can tell about it, so what they predict of its scores is what a trained
policy can tilt by. Folds are of prompts: no prediction has seen a response to its own prompt.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array
from cann_jax.core.objective import EXACT
from cann_jax.core.scores import Scores, check_scores, normalised_prompt_weights, response_mask
from cann_jax.core.table import centred, unit
from cann_jax.files.errors import InputError

# Ridge strengths to choose from, in units of the features' mean sum of squares.
GRID = tuple(10.0**power for power in range(-3, 4))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Predicted:
    """Predicted scores of a table's responses, centred within each prompt; a pytree.

    Targets are ordered: the reward, then the m constraints.

    Attributes:
        reward: r̂ ``(prompts, responses)``; 0 for missing responses, as below.
        constraints: ĝ ``(prompts, responses, m)``; 0 outside a constraint's group.
        slopes: ``(m + 1,)``, Σ sŝ / Σ ŝ² of the predictions as fitted. They have been multiplied by it unless
            ``predict_scores`` was told not to; where it is negative, by 0.
        correlations: ``(m + 1,)``, between scores and predictions; 0 where either never varies.
        strengths: ``(m + 1,)``, the ridge strength used for each target.
    """

    reward: Array
    constraints: Array
    slopes: Array
    correlations: Array
    strengths: Array


@jax.jit
def standardise_features(features: Array, mask: Array | None = None) -> Array:
    """Return features centred within each prompt, then divided by their deviation over the table.

    Args:
        features: ``(prompts, responses, F)``, of any floating-point type.
        mask: ``(prompts, responses)`` bool, False for missing responses, whose features become 0.

    Returns:
        ``(prompts, responses, F)``, float32 or wider; 0 for features that never vary within a prompt.
    """
    values = jnp.moveaxis(jnp.asarray(features, jnp.promote_types(features.dtype, jnp.float32)), -1, 0)
    mask = None if mask is None else mask.astype(bool)
    present = values if mask is None else jnp.where(mask, values, 0)
    size = jnp.max(jnp.abs(present), axis=(1, 2), keepdims=True)
    size = jnp.where(size > 0, size, 1)
    deviations = centred(present / size, mask)
    count = deviations[0].size if mask is None else jnp.maximum(jnp.sum(mask), 1)
    spread = jnp.sqrt(jnp.sum(deviations**2, axis=(1, 2), keepdims=True) / count)
    varies = spread > 4 * np.finfo(values.dtype).eps  # less is the rounding of equal values
    scaled = jnp.where(varies, deviations / jnp.where(varies, spread, 1), 0)
    return jnp.moveaxis(scaled, 0, -1)


def folds_of(prompts: int, folds: int, seed: int) -> np.ndarray:
    """Return each prompt's fold ``(prompts,)``, at random; sizes of folds differ by one at most.

    Raises:
        InputError: Fewer prompts than folds, or fewer than two folds.
    """
    if not 2 <= folds <= prompts:
        advice = f"give 2 to {prompts}" if prompts > 1 else "there must be two prompts or more"
        raise InputError(f"{folds} folds of {prompts} prompts; {advice}")
    return np.random.default_rng(seed).permutation(np.arange(prompts) % folds)


def predict_scores(
    features: Array,
    scores: Scores,
    folds: Array,
    *,
    strength: float | None = None,
    slopes: bool = True,
    members: Array | None = None,
) -> Predicted:
    """Predict each fold's scores by ridge regression on the prompts of the other folds.

    Prompt weights weigh the fit. Strengths are chosen by the least squared error over all folds.

    Args:
        features: ``(prompts, responses, F)``, centred within each prompt (``standardise_features``).
        scores: The table; its scores are centred within each prompt here.
        folds: ``(prompts,)`` integers, concrete (``folds_of``).
        strength: The multiple of the identity added to the Gram matrix; None: chosen for each target among
            ``GRID`` times the features' mean sum of squares.
        slopes: Whether to multiply predictions by their slope, so that E[s | ŝ] = ŝ to first order.
        members: ``(prompts, m)``, 1 in the constraint's group (``Targets.members``): a constraint is fitted
            on these prompts only. None: all prompts.

    Raises:
        InputError: Features or folds that do not fit the scores or are not finite, or scores that
            ``check_scores`` refuses.
    """
    check_scores(scores)
    places = _places(np.asarray(folds), scores.reward.shape[0])
    _check_features(features, scores)
    mask = response_mask(scores)
    targets = centred(jnp.stack([scores.reward, *jnp.moveaxis(scores.constraints, -1, 0)]), mask)
    if mask is not None:
        features = jnp.where(mask[..., None], features, 0)
    inside = np.ones((targets.shape[1], targets.shape[0]), bool)
    if members is not None:
        inside[:, 1:] = np.asarray(members) > 0
    weights = normalised_prompt_weights(scores)[:, None] * scores.reward.shape[0]
    weights = jnp.broadcast_to(weights, scores.reward.shape) if mask is None else weights * mask
    fitted, strengths = jnp.zeros_like(targets), np.zeros(targets.shape[0], targets.dtype)
    for group in np.unique(inside, axis=1).T:
        own = np.flatnonzero((inside == group[:, None]).all(0))
        found: _Fit = _cross_fit(features, targets[own], weights * group[:, None], places, strength)
        fitted = fitted.at[own].set(found.fitted * group[:, None])
        strengths[own] = found.strengths
    if not jnp.all(jnp.isfinite(fitted)):
        raise InputError("features: ridge regression fails on them; standardise them or raise its strength")
    return cast(Predicted, _finished(fitted, targets, weights, jnp.asarray(strengths), slopes))


@partial(jax.jit, static_argnames="rescale")
def _finished(fitted: Array, targets: Array, weights: Array, strengths: Array, rescale: bool) -> Predicted:
    both, own, score = (
        jnp.sum(weights * product, axis=(1, 2)) for product in (fitted * targets, fitted**2, targets**2)
    )
    slopes = jnp.where(own > 0, both / jnp.where(own > 0, own, 1), 1)
    varies = (own > 0) & (score > 0)
    correlations = jnp.where(varies, both / jnp.sqrt(jnp.where(varies, own * score, 1)), 0)
    if rescale:
        # a negative slope is what folds give by chance where the features tell nothing
        fitted = fitted * jnp.maximum(slopes, 0)[:, None, None]
    return Predicted(fitted[0], jnp.moveaxis(fitted[1:], 0, -1), slopes, correlations, strengths)


class _Places(NamedTuple):
    """Where the prompts of each fold are: ``prompts (folds, size)``, and its inverse ``place (prompts,)``.

    Short folds are padded with a prompt beyond the last.
    """

    prompts: np.ndarray
    place: np.ndarray


def _places(folds: np.ndarray, prompts: int) -> _Places:
    if folds.shape != (prompts,) or not np.issubdtype(folds.dtype, np.integer):
        raise InputError(f"folds have shape {folds.shape}, type {folds.dtype}; give ({prompts},) integers")
    names, index, sizes = np.unique(folds, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise InputError(f"folds: {len(names)} fold of {prompts} prompts; give at least two")
    rank = np.zeros(prompts, int)
    for fold in range(len(names)):
        rank[index == fold] = np.arange(sizes[fold])
    padded = np.full((len(names), sizes.max()), prompts)
    padded[index, rank] = np.arange(prompts)
    return _Places(padded, index * sizes.max() + rank)


def _check_features(features: Array, scores: Scores) -> None:
    expected = scores.reward.shape
    if features.ndim != 3 or features.shape[:2] != expected or features.shape[2] == 0:
        raise InputError(
            f"features have shape {features.shape}; give {(*expected, 'F')}, F >= 1, like reward"
        )
    bad = ~np.asarray(jnp.all(jnp.isfinite(jnp.asarray(features)), axis=-1))
    if scores.mask is not None:
        bad &= np.asarray(scores.mask, bool)
    if bad.any():
        first = "prompt {} response {}".format(*np.argwhere(bad)[0])
        raise InputError(f"features: NaN or infinite for {bad.sum()} responses ({first}); fix or mask them")


class _Fit(NamedTuple):
    """Predictions ``(T, prompts, responses)`` and strengths ``(T,)`` of T targets."""

    fitted: Array
    strengths: Array


class _System(NamedTuple):
    """A fold's ridge regression: predictions are ``rows (matrix + αI)⁻¹ right``, a column a target."""

    matrix: Array
    right: Array
    rows: Array


@jax.jit
def _cross_fit(
    features: Array, targets: Array, weights: Array, places: _Places, strength: float | None
) -> _Fit:
    """Fit T targets ``(T, prompts, responses)`` under weights of rows ``(prompts, responses)``."""
    prompts, responses, width = features.shape
    table = _Rows(features, jnp.moveaxis(targets, 0, -1), weights)
    scale, system_of = (_primal if prompts * responses >= width else _kernel)(table, places.prompts)
    strengths = jnp.asarray(GRID) * unit(scale) if strength is None else jnp.asarray(strength).reshape(1)
    strengths = strengths.astype(targets.dtype)

    def fold_predictions(inside: Array) -> Array:
        found: Array = jax.lax.map(partial(_ridge, system_of(inside)), strengths)
        return found

    folds = jax.lax.map(fold_predictions, places.prompts)  # (folds, strengths, size · responses, T)
    every = jnp.moveaxis(folds, (3, 1), (0, 1)).reshape(len(targets), len(strengths), -1, responses)
    every = every[:, :, places.place]  # (T, strengths, prompts, responses)
    errors = jnp.sum(weights * (every - targets[:, None]) ** 2, axis=(2, 3))
    best = jnp.argmin(jnp.where(jnp.isnan(errors), jnp.inf, errors), axis=1)  # a failed Cholesky gives NaN
    return _Fit(jnp.take_along_axis(every, best[:, None, None, None], axis=1)[:, 0], strengths[best])


class _Rows(NamedTuple):
    """Features, targets ``(prompts, responses, ·)`` and weights ``(prompts, responses)``."""

    features: Array
    targets: Array
    weights: Array

    def of(self, prompts: Array) -> "_Rows":
        """Return the responses of these prompts in one axis; zeros for a prompt beyond the last."""
        flat = (jnp.asarray(x).at[prompts].get(mode="fill", fill_value=0) for x in self)
        features, targets, weights = (x.reshape(x.shape[0] * x.shape[1], -1) for x in flat)
        return _Rows(features.astype(targets.dtype), targets, weights)


def _primal(table: _Rows, folds: Array) -> tuple[Array, Callable[[Array], _System]]:
    """Return the mean sum of squares of a feature, and the system ``(F, F)`` of the fold of some prompts."""

    def sums(prompts: Array) -> tuple[jax.Array, jax.Array, Array]:
        rows = table.of(prompts)
        weighted = (rows.features * rows.weights).T
        return _product(weighted, rows.features), _product(weighted, rows.targets), rows.features

    def add(total: tuple[jax.Array, jax.Array], prompts: Any) -> tuple[tuple[jax.Array, jax.Array], None]:
        gram, right, _ = sums(prompts)
        return (total[0] + gram, total[1] + right), None

    def system_of(prompts: Array) -> _System:
        own_gram, own_right, rows = sums(prompts)
        return _System(gram - own_gram, right - own_right, rows)

    width, dtype = table.features.shape[-1], table.targets.dtype
    nothing = jnp.zeros((width, width), dtype), jnp.zeros((width, table.targets.shape[-1]), dtype)
    (gram, right), _ = jax.lax.scan(add, nothing, folds)
    return jnp.trace(gram) / width, system_of


def _kernel(table: _Rows, folds: Array) -> tuple[Array, Callable[[Array], _System]]:
    """Return the same as ``_primal``, with systems as large as the table has rows."""
    prompts, responses, width = table.features.shape
    rows = table.of(jnp.arange(prompts))
    kernel, root = _product(rows.features, rows.features.T), jnp.sqrt(rows.weights)
    positions = jnp.arange(prompts * responses).reshape(prompts, responses)

    def system_of(inside: Array) -> _System:
        own = positions.at[inside].get(mode="fill", fill_value=prompts * responses).ravel()
        known = jnp.asarray(root).at[own].set(0)
        between = jnp.asarray(kernel).at[own].get(mode="fill", fill_value=0)
        return _System(kernel * known * known.T, rows.targets * known, between * known.T)

    return jnp.sum(jnp.diag(kernel) * rows.weights[:, 0]) / width, system_of


def _ridge(system: _System, strength: Array) -> Array:
    matrix = system.matrix + strength * jnp.eye(len(system.matrix), dtype=system.matrix.dtype)
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    return _product(system.rows, jax.scipy.linalg.cho_solve(factor, system.right))


def _product(left: Array, right: Array) -> jax.Array:
    return jnp.matmul(left, right, precision=EXACT)
