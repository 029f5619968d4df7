"""Which constraints conflict, and how far their margins must scale back: cutting planes in m variables.

s* = min over w ≥ 0, ⟨w, b⟩ = 1 of φ(w) = mean_x max_k ⟨w, g − ḡ⟩ is the largest s for which the margins s·b
are reachable on the sample; s* > 1 iff a finite λ* exists, and the minimiser's support names the conflict.
φ is convex and each evaluation gives a plane below it, so a linear program over m + 1 variables and a few
dozen planes closes the gap, whatever N·K is. Host code: scipy solves the linear programs.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.feasibility import Feasible, rounding
from cann_jax.core.scores import Scores
from cann_jax.core.survey import table_constants
from cann_jax.core.table import Table, mix_features, standardise

Cut = Callable[[np.ndarray], tuple[float, np.ndarray]]
WIDEST = 1e4  # where every margin is mild the cheapest combination may run off; that far s* is plainly large


@dataclasses.dataclass(frozen=True)
class Reachability:
    """Verdict on margins for any m.

    Attributes:
        feasible: ``Feasible`` verdict.
        scale: s*, the factor by which all margins can be multiplied and just be reached; inf if any.
        combination: ``(m,)``, the weights w of the tightest combination, summing to one over spreads.
        conflict: ``(m,)`` bool, the constraints in it: those to relax where the margins are out of reach.
        room: How far inside (> 0) or outside (< 0) the margins are along that combination, in spreads.
    """

    feasible: Feasible
    scale: float
    combination: np.ndarray
    conflict: np.ndarray
    room: float


def reachability(scores: Scores, margins: ArrayLike, rounds: int = 200) -> Reachability:
    """Decide feasibility for any number of constraints, name the conflict and the scale (theory: module).

    Args:
        scores: The table.
        margins: b ``(m,)``.
        rounds: The largest number of cutting planes.
    """
    table, wanted = standardise(scores), jnp.atleast_1d(jnp.asarray(margins, scores.reward.dtype))
    slope = np.asarray(table_constants(table, wanted, jnp.ones_like(table.spreads.reward)).drift, float)
    level = np.asarray(wanted / table.spreads.constraints, float)

    def cut(combination: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _best_response(table, jnp.asarray(combination, wanted.dtype))
        return float(value), np.asarray(gradient, float)

    def room_cut(combination: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = cut(combination)
        return value + slope @ combination, gradient + slope

    def level_cut(combination: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = room_cut(combination)
        return value + level @ combination, gradient + level

    small = rounding(wanted.dtype)
    room, combination = _minimise(room_cut, np.ones_like(level), 1.0, small, rounds)
    scale = np.inf
    if (level > 0).any():
        scale, tightest = _minimise(level_cut, level, WIDEST, small, rounds)
        combination = tightest / tightest.sum()
    code = Feasible.YES if room > small else Feasible.NO if room < -small else Feasible.UNDETERMINED
    return Reachability(code, scale, combination, combination > 1e-3, room)


@jax.jit
def _best_response(table: Table, combination: Array) -> tuple[Array, Array]:
    """Return φ(w) and its subgradient ``(m,)``: the mean features of the responses that attain it."""
    best = jnp.argmax(mix_features(table, combination), axis=-1)
    chosen = jnp.take_along_axis(table.features, best[None, :, None], axis=-1)[..., 0]
    gradient = accurate_sum(chosen * table.weights)
    return jnp.dot(combination, gradient), gradient


def _minimise(
    cut: Cut, equality: np.ndarray, widest: float, gap: float, rounds: int
) -> tuple[float, np.ndarray]:
    """Minimise a positively homogeneous convex function over w ≥ 0, ⟨w, equality⟩ = 1 (Kelley 1960)."""
    from scipy.optimize import linprog  # half a second of imports that feasible margins need not wait for

    count = len(equality)
    start = np.where(equality > 0, equality, 0)
    point = start / (start @ equality)
    planes, best, least = [], point, np.inf
    for _ in range(rounds):
        value, gradient = cut(point)
        if value < least:
            least, best = value, point
        planes.append(np.append(gradient, -1.0))
        program = linprog(
            np.append(np.zeros(count), 1.0),
            A_ub=np.array(planes),
            b_ub=np.zeros(len(planes)),
            A_eq=np.append(equality, 0.0)[None],
            b_eq=[1.0],
            bounds=[(0, widest)] * count + [(None, None)],
        )
        if not program.success or least - program.fun <= gap * max(1.0, abs(least)):
            break
        point = program.x[:-1]
    return least, best
