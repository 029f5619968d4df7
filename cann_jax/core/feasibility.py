"""Can the margins be reached on the sampled responses?

A finite λ* exists iff ⟨w, b⟩ < φ(w) = mean_x max_k ⟨w, g − ḡ⟩ for every w ≥ 0 that is not zero: the best
that any weighting of the sampled responses can do for the combination w.
"""

import enum

import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array
from cann_jax.core.compilation import jit
from cann_jax.core.objective import Statistics, natural_residual
from cann_jax.core.scores import Scores, check_is_scores
from cann_jax.core.survey import Constants, survey, table_constants
from cann_jax.core.table import standardise


class Feasible(enum.IntEnum):
    """Verdict on the margins; an int code, so that it lives in a jitted solution."""

    UNDETERMINED = -1
    NO = 0
    YES = 1

    @property
    def word(self) -> str:
        """The verdict in words: yes, no or undetermined."""
        return self.name.lower()


def largest_margin(scores: Scores) -> Array:
    """Return, for each constraint alone, the margin ``(m,)`` that every prompt's best response reaches.

    For m = 1 this is b_max, above which no finite multiplier exists (paper, section 3, on K samples).
    """
    check_is_scores(scores)
    return _largest_margin(scores)


@jit()
def _largest_margin(scores: Scores) -> Array:
    table = standardise(scores)
    nothing = jnp.zeros_like(table.spreads.constraints)
    drift = table_constants(table, nothing, jnp.ones_like(table.spreads.reward)).drift
    largest: Array = (survey(table).best + drift) * table.spreads.constraints
    return largest


def rounding(dtype: np.dtype) -> float:
    """Return by how much an expectation of standardised scores can be off in this precision."""
    return 64 * float(np.finfo(dtype).eps)


def proves_infeasible(constants: Constants, tilt: Array, value: Array) -> Array:
    """Return whether F(θ) lies below the worst value of any weighting: then none meets the margins.

    By weak duality F(θ) ≥ E_x[min_k reward]/β + φ(θ) − ⟨θ, b⟩, so F under the floor shows φ(θ) < ⟨θ, b⟩. If
    the margins are strictly out of reach, F falls without bound and the proof is found after finitely many
    steps.
    """
    floor = constants.floor
    return value < floor - rounding(tilt.dtype) * (jnp.sum(tilt) + jnp.abs(floor))


def verdict(constants: Constants, tilt: Array, seen: Statistics, tolerance: float) -> Array:
    """Return the ``Feasible`` code at the point θ ``(m,)`` where a solver stopped.

    YES needs a policy on the sample that meets the margins and room beyond it, so that λ* is finite;
    NO needs a combination w whose best falls short; on the edge itself, within rounding, neither is found.
    """
    small = rounding(tilt.dtype)
    short = (seen.room < -small) | proves_infeasible(constants, tilt, seen.value)
    met = natural_residual(tilt, seen.gradient) <= tolerance
    # where λ = 0 is optimal the reference's own tilt meets the margins, room or not
    room = (seen.room > small) | (met & ~jnp.any(tilt > 0))
    if tilt.shape[0] > 1:
        room = room & met  # one combination has room; only a policy shows that all have
    return jnp.where(room, Feasible.YES, jnp.where(short, Feasible.NO, Feasible.UNDETERMINED))
