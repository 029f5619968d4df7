"""Can the margins be reached on the sampled responses, and how far would they have to scale back?

A finite λ* exists iff ⟨w, b⟩ < φ(w) = mean_x max_k ⟨w, g − ḡ⟩ for every w ≥ 0 that is not zero: the best
that any weighting of the sampled responses can do for the combination w.
"""

import enum

import jax
import jax.numpy as jnp

from cann_jax.core.dual import Standardised
from cann_jax.core.scores import (
    Scores,
    accurate_sum,
    normalised_prompt_weights,
    reference_mean,
    valid_mask,
)


class Feasible(enum.IntEnum):
    """Verdict on the margins; an int code, so that it lives in a jitted solution."""

    UNDETERMINED = -1
    NO = 0
    YES = 1


@jax.jit
def largest_margin(scores: Scores) -> jax.Array:
    """``(m,)``: for each constraint alone, the margin that picking every prompt's best response reaches.

    For m = 1 this is b_max, above which no finite multiplier exists (paper, section 3, on K samples).
    """
    best = best_combination(scores, jnp.eye(scores.constraints.shape[-1], dtype=scores.constraints.dtype))
    return best - reference_mean(scores)


def best_combination(scores: Scores, combinations: jax.Array) -> jax.Array:
    """``(c,)``: mean_x max_k ⟨w, g⟩ for each of the combinations w ``(c, m)``."""
    weights = normalised_prompt_weights(scores)

    def one(combination):
        mixed = scores.constraints @ combination
        if scores.mask is None:
            return accurate_sum(jnp.max(mixed, axis=-1) * weights)
        mask = valid_mask(scores)
        best = jnp.max(jnp.where(mask, mixed, -jnp.inf), axis=-1)
        return accurate_sum(jnp.where(jnp.any(mask, axis=-1), best, 0) * weights)

    return jax.lax.map(one, combinations)


def rounding(problem: Standardised) -> float:
    """What an expectation of standardised scores can be off by in the table's precision."""
    return 64 * float(jnp.finfo(problem.table.reward.dtype).eps)


def proves_infeasible(problem: Standardised, tilt: jax.Array, value: jax.Array) -> jax.Array:
    """Weak duality: F(θ) below the worst value of any weighting proves that no weighting meets the margins.

    F(θ) ≥ E_x[min_k reward]/β + φ(θ) − ⟨θ, b⟩, so F under the floor shows φ(θ) < ⟨θ, b⟩. If the margins are
    strictly out of reach, F falls without bound and the proof is found after finitely many steps.
    """
    return value < problem.floor - rounding(problem) * (jnp.sum(tilt) + jnp.abs(problem.floor))


def direction(tilt: jax.Array) -> jax.Array:
    """w = θ/Σθ ``(m,)``; one constraint has only w = 1."""
    if tilt.shape[0] == 1:
        return jnp.ones_like(tilt)
    total = jnp.sum(tilt)
    return jnp.where(total > 0, tilt / jnp.where(total > 0, total, 1), 0)


def reach_along(problem: Standardised, tilt: jax.Array) -> jax.Array:
    """φ(w) − ⟨w, b⟩ at w = ``direction(tilt)``, in units of the spread."""
    along = direction(tilt)
    mixed = jnp.zeros_like(problem.table.reward)
    for j in range(tilt.shape[0]):
        mixed = mixed + along[j] * problem.table.features[j]
    best = jnp.max(jnp.where(jnp.isfinite(problem.table.reward), mixed, -jnp.inf), axis=-1)
    return accurate_sum(best * problem.table.weights) + jnp.dot(along, problem.drift)


def verdict(
    problem: Standardised,
    reach: jax.Array,
    tilt: jax.Array,
    value: jax.Array,
    residual: jax.Array,
    tolerance: float,
) -> jax.Array:
    """``Feasible`` code at the point where a solver stopped, given ``reach_along`` there.

    YES needs a policy on the sample that meets the margins and room beyond it, so that λ* is finite;
    NO needs a combination w whose best falls short; on the edge itself, within rounding, neither is had.
    """
    short = (reach < -rounding(problem)) | proves_infeasible(problem, tilt, value)
    met = residual <= tolerance
    # where λ = 0 is optimal the reference's own tilt meets the margins, room or not
    room = (reach > rounding(problem)) | (met & ~jnp.any(tilt > 0))
    if tilt.shape[0] > 1:
        room = room & met  # one combination has room; only a policy shows that all have
    return jnp.where(room, Feasible.YES, jnp.where(short, Feasible.NO, Feasible.UNDETERMINED))
