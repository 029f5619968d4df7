"""What if: the solution over many margins and many β, and how it moves with either."""

from functools import partial

import jax
import jax.numpy as jnp

from cann_jax.core.dual import (
    EXACT,
    Standardised,
    evaluate,
    feature_sums,
    pose,
    ready,
    tilt_of,
    tilted_logits,
)
from cann_jax.core.feasibility import Feasible
from cann_jax.core.scores import Scores, accurate_sum
from cann_jax.core.solve import DualSolution, solve_table


@partial(jax.jit, static_argnames="method")
def dual_curve(
    scores: Scores, margins: jax.Array, betas: float | jax.Array, method: str = "newton"
) -> DualSolution:
    """Solve for many settings in one compiled call, each from its predecessor's answer.

    The next answer is predicted to first order, so that neighbouring points cost Newton two evaluations;
    memory is that of one solve.

    Args:
        scores: the table.
        margins: ``(points, m)``, or ``(m,)`` for every point.
        betas: ``(points,)``, or a scalar for every point.
        method: as in ``solve_dual``.

    Returns:
        A ``DualSolution`` whose fields have a leading axis of points. Infeasible points say so in
        ``feasible`` and have infinite multipliers.
    """
    margins, betas = jnp.asarray(margins, scores.reward.dtype), jnp.asarray(betas, scores.reward.dtype)
    points = margins.shape[0] if margins.ndim == 2 else betas.shape[0]
    margins = jnp.broadcast_to(margins, (points, scores.constraints.shape[-1]))
    betas = jnp.broadcast_to(betas, (points,))
    table = ready(scores)

    def step(path, setting):
        solution = solve_table(table, *setting, initial=_predict(path, setting), method=method)
        here = (jnp.append(*setting), solution.multipliers)
        # an infeasible point has nothing to predict from
        known = solution.feasible != Feasible.NO
        path = jax.tree.map(lambda old, new: jnp.where(known, new, old), path, (path[1], here))
        return path, solution

    start = (jnp.append(margins[0], betas[0]), jnp.zeros_like(margins[0]))
    return jax.lax.scan(step, (start, start), (margins, betas))[1]


def _predict(path, setting: tuple[jax.Array, jax.Array]) -> jax.Array:
    """λ ``(m,)`` on the line through the last two answers, as far along it as the settings have moved."""
    (older, first), (newer, second) = path
    moved, ahead = newer - older, jnp.append(*setting) - newer
    length = jnp.dot(moved, moved)
    share = jnp.where(length > 0, jnp.dot(ahead, moved) / jnp.where(length > 0, length, 1), 0)
    return jnp.maximum(second + jnp.clip(share, -1, 2) * (second - first), 0)


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
    table = ready(scores)
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


def margin_grid(largest: jax.Array, lowest: jax.Array, points: int) -> jax.Array:
    """``(points, 1)`` margins from ``lowest`` to just under the largest reachable one."""
    return jnp.linspace(lowest, lowest + 0.98 * (largest - lowest), points)[:, None]
