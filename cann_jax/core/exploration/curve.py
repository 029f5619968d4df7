"""What if: the solution over many margins and many β, and how it moves with either."""

import jax
import jax.numpy as jnp

from cann_jax.core.dual import EXACT, Standardised, evaluate, feature_sums, pose, tilt_of, tilted_logits
from cann_jax.core.scores import Scores, accurate_sum
from cann_jax.core.solver.lanes import lanes, solve_lanes
from cann_jax.core.solver.solve import DualSolution
from cann_jax.core.table import standardise


def dual_curve(scores: Scores, margins: jax.Array, betas: float | jax.Array) -> DualSolution:
    """Solve for many settings in one batched call; neighbouring points cost two evaluations each.

    Args:
        scores: the table.
        margins: ``(points, m)``, or ``(m,)`` for every point.
        betas: ``(points,)``, or a scalar for every point.

    Returns:
        A ``DualSolution`` whose fields have a leading axis of points. Infeasible points say so in
        ``feasible`` and have infinite multipliers.
    """
    table = standardise(scores)
    return solve_lanes(table, lanes(table, margins, betas))


@jax.jit
def sensitivities(
    scores: Scores, margins: jax.Array, beta: float | jax.Array, multipliers: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """dλ*/db ``(m, m)`` and dλ*/dβ ``(m,)``, by differentiating the KKT conditions on the active constraints.

    dλ*/db = (∇²D)⁻¹ and dλ*/dβ = (∇²D)⁻¹·E_x Cov_{π_λ}(h, r + ⟨λ, h⟩)/β²; rows of inactive constraints,
    which stay at 0 under a small change, are 0.

    Args:
        scores: the table.
        margins: b ``(m,)``.
        beta: β > 0.
        multipliers: λ* ``(m,)``, finite.
    """
    table = standardise(scores)
    problem = pose(table, jnp.atleast_1d(margins), beta)
    tilt = tilt_of(multipliers, problem)
    active = multipliers > 0
    hessian = evaluate(problem, tilt).hessian
    identity = jnp.eye(tilt.shape[0], dtype=tilt.dtype)
    both = active[:, None] & active[None, :]
    inverse = jnp.where(both, jnp.linalg.inv(jnp.where(both, hessian, identity)), 0)
    by_margin = inverse * beta / (table.spread[:, None] * table.spread[None, :])
    by_beta = jnp.matmul(inverse, _covariance_with_logits(problem, tilt), precision=EXACT) / table.spread
    return by_margin, by_beta


def _covariance_with_logits(problem: Standardised, tilt: jax.Array) -> jax.Array:
    """``(m,)``: E_x Cov_{π_θ}(features, (r + ⟨λ, h⟩)/β)."""
    logits = tilted_logits(problem, tilt)
    policy = jax.nn.softmax(logits, axis=-1)
    finite = jnp.where(policy > 0, logits, 0)
    centred = policy * (finite - jnp.sum(policy * finite, axis=-1, keepdims=True))
    return accurate_sum(feature_sums(problem.table, centred) * problem.table.weights)
