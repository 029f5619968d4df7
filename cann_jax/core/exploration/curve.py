"""The solution over many margins and many β, and how it moves with either."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.compilation import jit
from cann_jax.core.objective import EXACT, feature_sums, tilted_logits
from cann_jax.core.scores import Scores, check_is_scores
from cann_jax.core.solver.blocks import many_blocks, objective_of
from cann_jax.core.solver.lanes import lanes, solve_lanes
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.table import Table, standardise


def dual_curve(scores: Scores, margins: ArrayLike, betas: ArrayLike) -> DualSolution:
    """Solve for many settings in one batched call; neighbouring points cost two evaluations each.

    Args:
        scores: The table.
        margins: ``(points, m)``, or ``(m,)`` for every point.
        betas: ``(points,)``, or a scalar for every point.

    Returns:
        A ``DualSolution`` whose fields have a leading axis of points.
    """
    check_is_scores(scores)
    table = standardise(scores)
    return solve_lanes(table, lanes(table, margins, betas)).named(scores.names)


def sensitivities(
    scores: Scores, margins: Array, beta: float | Array, multipliers: Array
) -> tuple[Array, Array]:
    """Return dλ*/db ``(m, m)`` and dλ*/dβ ``(m,)``, by differentiating the KKT conditions.

    On the active constraints dλ*/db = (∇²D)⁻¹ and dλ*/dβ = (∇²D)⁻¹·E_x Cov_{π_λ}(h, r + ⟨λ, h⟩)/β²; rows of
    inactive constraints, which stay at 0 under a small change, are 0. ``multipliers`` are λ*, finite.
    """
    table, blocks = standardise(scores), many_blocks(scores.reward)
    given = np.atleast_1d(margins), np.asarray(beta, table.reward.dtype), multipliers
    by_margin, by_beta = _sensitivities(table, *given, blocks)
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
