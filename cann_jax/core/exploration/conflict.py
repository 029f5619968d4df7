"""Which constraints conflict, and how far their margins must scale back: cutting planes in m variables.

s* = min over w ≥ 0, ⟨w, b⟩ = 1 of φ(w) = mean_x max_k ⟨w, g − ḡ⟩ is the largest s for which the margins s·b
are reachable on the sample; s* > 1 iff a finite λ* exists, and the minimiser's support names the conflict.
φ is convex and each evaluation gives a plane below it, so a linear program over m + 1 variables and a few
dozen planes closes the gap, whatever N·K is. Each plane is a sum over prompts, so that the table may lie in
memory or be streamed. Host code: scipy solves the linear programs.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arguments import required_margins
from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.compilation import jit, on_host
from cann_jax.core.feasibility import Feasible, rounding
from cann_jax.core.objective import Objective, table_objective
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.table import Table, best_features, standardise

PLANES = 200  # at the most
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


@on_host
def reachability(scores: Scores, margins: ArrayLike | Mapping[str, float]) -> Reachability:
    """Decide whether margins b ``(m,)`` are in reach, and find the conflict and s* (theory: module).

    Runs on the host. Margins and errors are those of ``solve_dual``.
    """
    wanted = required_margins(margins, scores)
    return reachability_of(table_objective(standardise(scores), wanted, np.ones((), scores.dtype)))


def reachability_of(objective: Objective) -> Reachability:
    """Return ``reachability`` at the objective's margins, by one pass over its parts for each plane."""
    constants = objective.constants
    slope = np.asarray(constants.drift, float)
    level = np.asarray(constants.margins, float) / np.asarray(constants.spreads.constraints)
    dtype = constants.drift.dtype

    def best(point: np.ndarray) -> np.ndarray:
        return np.asarray(objective.total(_best_response, np.asarray(point, dtype)), float)

    small = rounding(dtype)
    room, least, combination = _minimise(best, slope, np.ones_like(level), 1.0, small)
    scale = np.inf
    if (level > 0).any():
        _, scale, tightest = _minimise(best, slope + level, level, WIDEST, small)
        combination = tightest / tightest.sum()
    code = Feasible.YES if least > small else Feasible.NO if room < -small else Feasible.UNDETERMINED
    return Reachability(code, scale, combination, combination > 1e-3, room)


def settle(solution: DualSolution, found: Reachability) -> DualSolution:
    """Return the solution with the verdict of cutting planes, and λ = ∞ on what they find in conflict.

    A solver that is left with margins barely out of reach may stop at a finite λ without a verdict.
    """
    out_of_reach = found.feasible == Feasible.NO
    if solution.feasible == Feasible.YES and not out_of_reach:
        return solution  # a λ that meets the margins is proof enough, also where the planes' room is 0
    return dataclasses.replace(
        solution,
        feasible=np.asarray(found.feasible, np.int32),
        multipliers=np.where(found.conflict & out_of_reach, np.inf, solution.multipliers),
        converged=np.asarray(solution.converged) & (not out_of_reach),
    )


@jit()
def _best_response(part: Table, combination: Array) -> Array:
    """Return a part's share of ∇φ(w) ``(m,)``: the mean features of the responses that attain φ(w)."""
    return accurate_sum(best_features(part, combination) * part.weights)


def _minimise(
    best_response: Callable[[np.ndarray], np.ndarray],
    slope: np.ndarray,
    equality: np.ndarray,
    widest: float,
    gap: float,
) -> tuple[float, float, np.ndarray]:
    """Minimise φ(w) + ⟨w, slope⟩ over w ≥ 0, ⟨w, equality⟩ = 1 by cutting planes (Kelley 1960).

    Returns:
        The least value, the value that none is proven to fall below, and w. The two values are one where they
        came within the gap; they did not within ``PLANES`` planes at m = 24 (2.266 and 2.247).
    """
    from scipy.optimize import linprog  # half a second of imports that feasible margins need not wait for

    count = len(equality)
    start = np.where(equality > 0, equality, 0)
    point = start / (start @ equality)
    planes, best, least, bound = [], point, np.inf, -np.inf
    for _ in range(PLANES):
        gradient = best_response(point)
        value = (gradient + slope) @ point  # φ is homogeneous: φ(w) = ⟨w, ∇φ(w)⟩
        if value < least:
            least, best = value, point
        planes.append(np.append(gradient + slope, -1.0))
        program = linprog(
            np.append(np.zeros(count), 1.0),
            A_ub=np.array(planes),
            b_ub=np.zeros(len(planes)),
            A_eq=np.append(equality, 0.0)[None],
            b_eq=[1.0],
            bounds=[(0, widest)] * count + [(None, None)],
        )
        if not program.success:
            break
        bound = max(bound, program.fun)
        if least - bound <= gap * max(1.0, abs(least)):
            return least, least, best
        point = program.x[:-1]
    return least, bound, best
