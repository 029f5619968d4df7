"""Scores as features predict them on prompts that the fit has not seen: cross-fitted ridge regression.

A response's features say what a model can tell about it, so what they predict of its scores is what a trained
policy can tilt by. Folds are of prompts: no prediction has seen a response to its own prompt.

A fit needs the features' Gram matrix alone, and that of all folds but one is the whole less that fold's. So
features are read a few prompts at a time, and may be far larger than memory.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array
from cann_jax.core.compilation import jit, on_host
from cann_jax.core.features import (
    FeatureTable,
    StandardisedFeatures,
    at_once,
    check_finite,
    feature_table,
    part_of,
)
from cann_jax.core.objective import EXACT
from cann_jax.core.scores import Scores, check_scores, normalised_prompt_weights, response_mask
from cann_jax.core.table import centred
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


def folds_of(prompts: int, folds: int, seed: int) -> np.ndarray:
    """Return each prompt's fold ``(prompts,)``, at random; sizes of folds differ by one at most.

    Raises:
        InputError: Fewer prompts than folds, or fewer than two folds.
    """
    if not 2 <= folds <= prompts:
        advice = f"give 2 to {prompts}" if prompts > 1 else "there must be two prompts or more"
        raise InputError(f"{folds} folds of {prompts} prompts; {advice}")
    return np.random.default_rng(seed).permutation(np.arange(prompts) % folds)


@on_host
def predict_scores(
    features: FeatureTable,
    scores: Scores,
    folds: Array,
    *,
    strength: float | None = None,
    slopes: bool = True,
    members: Array | None = None,
) -> Predicted:
    """Predict each fold's scores by ridge regression on the prompts of the other folds.

    Prompt weights weigh the fit. Strengths are chosen by the least squared error over all folds. Runs
    on the host.

    Args:
        features: ``(prompts, responses, F)``, centred within each prompt (``standardise_features``); read in
            blocks, several times.
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
    features = feature_table(features)
    _check_shape(features, scores)
    if strength is not None and not 0 <= strength < np.inf:
        raise InputError(f"strength: {strength}; give a finite number that is not below 0")
    mask = response_mask(scores)
    present = None if mask is None else np.asarray(mask)
    if not isinstance(features, StandardisedFeatures):  # those were checked when they were standardised
        check_finite(features, present)
    targets = np.asarray(_targets(scores))
    inside = np.ones((targets.shape[1], targets.shape[0]), bool)
    if members is not None:
        inside[:, 1:] = np.asarray(members) > 0
    weights = np.asarray(normalised_prompt_weights(scores))[:, None] * scores.reward.shape[0]
    weights = np.broadcast_to(weights, scores.reward.shape) if present is None else weights * present
    blocks = _fold_blocks(np.asarray(folds), features)
    fitted, strengths = np.zeros_like(targets), np.zeros(targets.shape[0], targets.dtype)
    for group in np.unique(inside, axis=1).T:
        own = np.flatnonzero((inside == group[:, None]).all(0))
        table = _Table(features, present, np.moveaxis(targets[own], 0, -1), weights * group[:, None])
        found, strengths[own] = _cross_fit(table, blocks, strength)
        fitted[own] = found * group[:, None]
    if not np.all(np.isfinite(fitted)):
        raise InputError("features: ridge regression fails on them; standardise them or raise its strength")
    return _finished(fitted, targets, weights, strengths, slopes)


@jit()
def _targets(scores: Scores) -> Array:
    """Return reward and constraints ``(m + 1, prompts, responses)``, centred within each prompt."""
    rows = jnp.stack([scores.reward, *jnp.moveaxis(scores.constraints, -1, 0)])
    return centred(rows, response_mask(scores))


@jit(static_argnames="rescale")
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


def _fold_blocks(folds: np.ndarray, features: FeatureTable) -> np.ndarray:
    """Return the prompts of each fold ``(folds, blocks, size)``, −1 where a fold is short of prompts."""
    prompts = features.shape[0]
    if folds.shape != (prompts,) or not np.issubdtype(folds.dtype, np.integer):
        raise InputError(f"folds have shape {folds.shape}, type {folds.dtype}; give ({prompts},) integers")
    names, sizes = np.unique(folds, return_counts=True)
    if len(names) < 2:
        raise InputError(f"folds: {len(names)} fold of {prompts} prompts; give at least two")
    largest = int(np.max(sizes))
    blocks = -(-largest // at_once(features))
    size = -(-largest // blocks)
    found = np.full((len(names), blocks * size), -1)
    for row, name, count in zip(found, names, sizes, strict=True):
        row[:count] = np.flatnonzero(folds == name)
    return found.reshape(len(names), blocks, size)


def _check_shape(features: FeatureTable, scores: Scores) -> None:
    expected = scores.reward.shape
    if features.shape[:2] != expected:
        raise InputError(
            f"features have shape {features.shape}; give {(*expected, 'F')}, F >= 1, like reward"
        )


class _Rows(NamedTuple):
    """Responses in one axis: features ``(n, F)``, T targets ``(n, T)`` and weights ``(n, 1)``."""

    features: Array
    targets: Array
    weights: Array


class _Table(NamedTuple):
    """Features, mask, targets ``(prompts, responses, T)`` and weights ``(prompts, responses)``."""

    features: FeatureTable
    mask: np.ndarray | None
    targets: np.ndarray
    weights: np.ndarray

    def rows(self, prompts: np.ndarray) -> _Rows:
        """Return the responses to some prompts; features are 0 where there is none, or the prompt is −1."""
        chosen = np.maximum(prompts, 0)
        features, mask = part_of(self.features, self.mask, chosen)
        there = np.broadcast_to((prompts >= 0)[:, None], self.weights[chosen].shape)
        there = there if mask is None else there & mask
        return _flat(features, self.targets[chosen], self.weights[chosen], there)


@jit()
def _flat(features: Array, targets: Array, weights: Array, there: Array) -> _Rows:
    values = jnp.where(there[..., None], features.astype(targets.dtype), 0)
    return _Rows(*(x.reshape(there.size, -1) for x in (values, targets, weights)))


class _System(NamedTuple):
    """A fold's ridge regression: it predicts ``rows(prompts) (matrix + αI)⁻¹ right``, a column a target."""

    matrix: Array
    right: Array
    rows: Callable[[np.ndarray], Array]


def _cross_fit(table: _Table, folds: np.ndarray, strength: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions ``(T, prompts, responses)`` and strengths ``(T,)``, by the blocks of all folds."""
    prompts, responses, count = table.targets.shape
    few = prompts * responses < table.features.shape[-1]
    scale, system_of = (_kernel if few else _primal)(table, folds)
    strengths = np.asarray(GRID) * (scale if scale > 0 else 1) if strength is None else np.array([strength])
    strengths = strengths.astype(table.targets.dtype)
    every = np.zeros((count, len(strengths), prompts, responses), table.targets.dtype)
    for blocks in folds:
        system = system_of(blocks)
        coefficients = _ridge(system.matrix, system.right, strengths)
        for block in blocks:
            rows = np.asarray(_product(system.rows(block), coefficients))  # (strengths, responses of all, T)
            fitted = np.moveaxis(rows, -1, 0).reshape(count, len(strengths), -1, responses)
            every[:, :, block[block >= 0]] = fitted[:, :, block >= 0]
    errors = np.sum(table.weights * (every - np.moveaxis(table.targets, -1, 0)[:, None]) ** 2, axis=(2, 3))
    best = np.argmin(np.where(np.isnan(errors), np.inf, errors), axis=1)  # a failed Cholesky gives NaN
    return every[np.arange(count), best], strengths[best]


class _Sums(NamedTuple):
    """Sums over responses: the Gram matrix ``(F, F)`` and the products with the targets ``(F, T)``."""

    gram: Array
    right: Array


def _primal(table: _Table, folds: np.ndarray) -> tuple[Array, Callable[[np.ndarray], _System]]:
    """Return the mean sum of squares of a feature, and the system ``(F, F)`` of the fold of some blocks."""
    width, count = table.features.shape[-1], table.targets.shape[-1]

    def sums(blocks: np.ndarray) -> _Sums:
        total = _Sums(*(jnp.zeros((width, n), table.targets.dtype) for n in (width, count)))
        for block in blocks:
            total = _added(total, table.rows(block))
        return total

    def system_of(blocks: np.ndarray) -> _System:
        gram, right = map(jnp.subtract, whole, sums(blocks))
        return _System(gram, right, lambda block: table.rows(block).features)

    whole = sums(folds.reshape(-1, folds.shape[-1]))
    return np.trace(np.asarray(whole.gram)) / width, system_of


@partial(jax.jit, donate_argnums=0)
def _added(sums: _Sums, rows: _Rows) -> _Sums:
    weighted = (rows.features * rows.weights).T
    gram, right = (_product(weighted, values) for values in (rows.features, rows.targets))
    return _Sums(sums.gram + gram, sums.right + right)


def _kernel(table: _Table, folds: np.ndarray) -> tuple[Array, Callable[[np.ndarray], _System]]:
    """Return the same as ``_primal``, with systems as large as the table has rows; it reads all at once."""
    prompts, responses, width = table.features.shape
    table_rows = table.rows(np.arange(prompts))
    kernel = np.asarray(_gram(table_rows.features))
    targets, weights = (np.asarray(values) for values in (table_rows.targets, table_rows.weights))
    root, prompt = np.sqrt(weights), np.repeat(np.arange(prompts), responses)
    positions = np.arange(prompts * responses).reshape(prompts, responses)

    def system_of(blocks: np.ndarray) -> _System:
        known = root * ~np.isin(prompt, blocks)[:, None]
        return _System(
            kernel * known * known.T,
            targets * known,
            lambda block: kernel[positions[np.maximum(block, 0)].ravel()] * known.T,
        )

    return np.sum(np.diag(kernel) * weights[:, 0]) / width, system_of


@jit()
def _ridge(matrix: Array, right: Array, strengths: Array) -> Array:
    """Return the coefficients ``(strengths, n, T)``."""

    def solved(strength: Array) -> Array:
        shifted = matrix + strength * jnp.eye(len(matrix), dtype=matrix.dtype)
        factor = jax.scipy.linalg.cho_factor(shifted, lower=True)
        found: Array = jax.scipy.linalg.cho_solve(factor, right)
        return found

    coefficients: Array = jax.lax.map(solved, strengths)
    return coefficients


@jit()
def _gram(features: Array) -> jax.Array:
    return jnp.matmul(features, features.T, precision=EXACT)


@jax.jit
def _product(left: Array, right: Array) -> jax.Array:
    return jnp.matmul(left, right, precision=EXACT)
