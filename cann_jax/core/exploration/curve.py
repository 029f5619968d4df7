"""The solution over many margins and many β, and how it moves with either."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arguments import finite_multipliers, required_beta, required_margins
from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.compilation import jit, on_host
from cann_jax.core.objective import EXACT, feature_sums, tilted_logits
from cann_jax.core.scores import Scores
from cann_jax.core.solver.blocks import many_blocks, objective_of
from cann_jax.core.solver.lanes import lanes, solve_lanes
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.table import Table, standardise
from cann_jax.files.errors import InputError


@on_host
def dual_curve(scores: Scores, margins: ArrayLike | Mapping[str, float], betas: ArrayLike) -> DualSolution:
    """Solve for many settings in one batched call; neighbouring points cost two evaluations each.

    Runs on the host; under ``jit``, map ``solve_dual`` instead.

    Args:
        scores: The table.
        margins: ``(points, m)``, or as in ``solve_dual`` for every point; for m = 1 ``(points,)`` too.
        betas: ``(points,)``, or a scalar for every point.

    Returns:
        A ``DualSolution`` whose fields have a leading axis of points.

    Raises:
        InputError: As ``solve_dual``, or margins and β of different numbers of points.
    """
    required = required_margins(margins, scores, points=True)
    counts = {*required.shape[:-1], *np.shape(betas)} - {1}
    if np.ndim(betas) > 1 or len(counts) > 1 or 0 in counts:
        shapes = f"betas have shape {np.shape(betas)} and margins {required.shape}"
        raise InputError(f"{shapes}; give as many β as points, or one, and one point at least")
    table = standardise(scores)
    return solve_lanes(table, lanes(table, required, betas)).named(scores.names)


def sensitivities(
    scores: Scores, margins: ArrayLike | Mapping[str, float], beta: float | Array, multipliers: ArrayLike
) -> tuple[Array, Array]:
    """Return dλ*/db ``(m, m)`` and dλ*/dβ ``(m,)``, by differentiating the KKT conditions.

    On the active constraints dλ*/db = (∇²D)⁻¹ and dλ*/dβ = (∇²D)⁻¹·E_x Cov_{π_λ}(h, r + ⟨λ, h⟩)/β²; rows of
    inactive constraints, which stay at 0 under a small change, are 0. ``multipliers`` are λ*, finite.
    """
    required, beta = required_margins(margins, scores), required_beta(beta, scores.dtype)
    found, blocks = finite_multipliers(multipliers, scores), many_blocks(scores.reward)
    by_margin, by_beta = _sensitivities(standardise(scores), required, beta, found, blocks)
    return by_margin, by_beta


@jit(static_argnames="blocks")
def _sensitivities(
    table: Table, margins: Array, beta: Array, multipliers: Array, blocks: bool
) -> tuple[Array, Array]:
    objective = objective_of(table, margins, beta, blocks)
    tilt = multipliers / objective.constants.multiplier_unit
    spread, active = table.spreads.constraints, multipliers > 0
    hessian = objective.evaluate(tilt).hessian
    identity = jnp.eye(tilt.shape[0], dtype=tilt.dtype)
    both = active[:, None] & active[None, :]
    inverse = jnp.where(both, jnp.linalg.inv(jnp.where(both, hessian, identity)), 0)
    by_margin = inverse * (beta / spread[:, None]) / spread  # a product of spreads may leave float32's range
    covariance = objective.total(_covariance_with_logits, beta, tilt)
    return by_margin, jnp.matmul(inverse, covariance, precision=EXACT) / spread


def _covariance_with_logits(part: Table, beta: Array, tilt: Array) -> Array:
    """Return a part's share of E_x Cov_{π_θ}(features, logits) ``(m,)``."""
    logits = tilted_logits(part, beta, tilt)
    policy = jax.nn.softmax(logits, axis=-1)
    finite = jnp.where(policy > 0, logits, 0)
    centred = policy * (finite - jnp.sum(policy * finite, axis=-1, keepdims=True))
    return accurate_sum(feature_sums(part, centred) * part.weights)
