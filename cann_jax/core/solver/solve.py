"""λ* = argmin over λ ≥ 0 of the dual function."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arguments import finite_multipliers, required_beta, required_margins
from cann_jax.core.arrays import Array, is_traced, numbers
from cann_jax.core.compilation import jit
from cann_jax.core.feasibility import proves_infeasible
from cann_jax.core.objective import Objective, natural_residual, table_objective
from cann_jax.core.scores import Scores
from cann_jax.core.solver.blocks import block_objective, many_blocks
from cann_jax.core.solver.lbfgsb import lbfgsb
from cann_jax.core.solver.newton import newton
from cann_jax.core.solver.solution import TOLERANCE, DualSolution, Minimum, certify_point
from cann_jax.core.table import Table, standardise
from cann_jax.files.errors import InputError

SOLVERS = {"lbfgsb": lbfgsb, "newton": newton}
METHODS = tuple(SOLVERS)
SOLVED = 0.1  # a tenth of the tolerance costs Newton nothing, and λ keeps digits that a flat dual would lose
ROUGH_PROMPTS = 1024


def solve_dual(
    scores: Scores,
    margins: ArrayLike | Mapping[str, float],
    beta: float | Array,
    method: str = "lbfgsb",
    initial: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
) -> DualSolution:
    """Solve the one-shot dual on a table of the reference's samples (paper, algorithm 1, MoCAN's step 2).

    Runs under ``jit`` and ``vmap`` over margins, β, prompt weights or whole tables, and under ``grad`` and
    ``jacfwd`` in all of them: where λ_j > 0 its derivatives are those of the optimality conditions; a
    multiplier at 0 stays there.

    Args:
        scores: The table of N prompts, K responses and m constraints.
        margins: b ``(m,)``, improvements over the reference to ask for; a scalar for m = 1. By name where the
            scores have names: ``{"safe": 0.5}``.
        beta: β > 0, the KL penalty of the problem and of the DPO step after it.
        method: "lbfgsb" (jaxopt's L-BFGS-B, the reference) or "newton" (quick to compile, for many lanes).
            Where L-BFGS-B gives up, as on nearly parallel constraints, Newton's method takes over, and
            ``fell_back`` says so.
        initial: λ ``(m,)`` to begin from; None: 0.
        tolerance: Largest KKT residual called converged, in units of the scores' spread.

    Raises:
        InputError: Unknown method, shapes that do not fit; where they are concrete, β ≤ 0, or margins, λ or
            scores that are NaN or infinite, scores of which float32 would round away the differences, or
            weights that are negative or all 0. Traced scores are not looked at: ``check_scores`` them before.
    """
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not known; choose one of {', '.join(METHODS)}")
    required, beta = required_margins(margins, scores), required_beta(beta, scores.dtype)
    precise = _positive(tolerance)
    # L-BFGS-B stays as it is, the reference
    rough = method == "newton" and initial is None and scores.reward.shape[0] >= 8 * ROUGH_PROMPTS
    blocks = method == "newton" and many_blocks(scores.reward)
    begin = np.zeros(required.shape, required.dtype) if initial is None else initial
    start = finite_multipliers(begin, scores, "initial")
    return _solve(scores, required, beta, start, _Way(method, precise, rough, blocks)).named(scores.names)


def _positive(tolerance: float) -> float:
    """Return the tolerance, of which a program is compiled for each, so that it may not be traced."""
    found = np.nan if is_traced(tolerance) else numbers("tolerance", tolerance, np.float64)
    if np.shape(found) != () or not found >= 0:
        raise InputError(f"tolerance: {tolerance}; give a positive number that is not traced")
    return float(found)


class _Way(NamedTuple):
    """How a table is solved; nothing of it is traced.

    Attributes:
        method: As in ``solve_dual``.
        tolerance: As in ``solve_dual``.
        rough: Whether some of the prompts are solved first.
        blocks: Whether the table is read in blocks of prompts.
    """

    method: str
    tolerance: float
    rough: bool
    blocks: bool


@jit(static_argnames="way")
def _solve(scores: Scores, margins: Array, beta: Array, initial: Array, way: _Way) -> DualSolution:
    found = _optimal_tilt(scores, margins, beta, initial, way)
    return certify_point(_objective(scores, margins, beta, way.blocks), found, way.tolerance)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _optimal_tilt(scores: Scores, margins: Array, beta: Array, initial: Array, way: _Way) -> Minimum:
    if way.rough:
        initial = _rough_answer(standardise(_some_prompts(scores)), margins, beta, initial)
    objective = _objective(scores, margins, beta, way.blocks)
    return _minimise(objective, initial, way.method, way.tolerance)


@_optimal_tilt.defjvp
def _optimal_tilt_jvp(
    way: _Way, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Minimum, Minimum]:
    """Differentiate ∇F(θ*) = 0 where θ* > 0 (implicit function theorem); the iterations are not traced."""
    found = _optimal_tilt(*primals, way)
    tilt = found.tilt

    def slope(scores: Scores, margins: Array, beta: Array) -> Array:
        return _objective(scores, margins, beta, way.blocks).evaluate(tilt).gradient

    scores, margins, beta, _ = primals  # where the solver began has no effect on where it ends
    hessian = _objective(scores, margins, beta, way.blocks).evaluate(tilt).hessian
    _, moved = jax.jvp(slope, (scores, margins, beta), tangents[:3])
    active = tilt > 0
    held = jnp.where(active[:, None] & active, hessian, jnp.eye(len(tilt), dtype=tilt.dtype))
    d_tilt = -jnp.linalg.solve(held, jnp.where(active, moved, 0))
    still = (np.zeros(jnp.shape(leaf), jax.dtypes.float0) for leaf in found[1:])
    return found, Minimum(d_tilt, *still)


def _objective(scores: Scores, margins: Array, beta: Array, blocks: bool) -> Objective:
    """Return F in units that count as constants: λ = θ·β/s moves by θ and β, whatever the unit s is."""
    if blocks:
        provisional = standardise(_some_prompts(scores)).spreads
        return block_objective(scores, jax.lax.stop_gradient(provisional), margins, beta)
    spreads = jax.lax.stop_gradient(standardise(scores).spreads)
    return table_objective(standardise(scores, spreads=spreads), margins, beta)


def _some_prompts(scores: Scores) -> Scores:
    """Return about a thousand prompts of many."""
    stride = max(1, scores.reward.shape[0] // ROUGH_PROMPTS)
    part: Scores = jax.tree.map(lambda leaf: leaf[::stride], dataclasses.replace(scores, baseline=None))
    weights = part.prompt_weights
    if weights is not None:
        # a stride over zero weights only would leave none; one over the sum of a few loses nothing else
        weights = jnp.where(jnp.any(weights > 0), weights, 1)
    return dataclasses.replace(part, prompt_weights=weights, baseline=scores.baseline)


def _rough_answer(part: Table, margins: Array, beta: Array, initial: Array) -> Array:
    """Return λ ``(m,)`` on some of the prompts, which saves the whole table half of its evaluations."""
    objective = table_objective(part, margins, beta)
    constants = objective.constants
    tilt, _ = newton(objective, initial / constants.multiplier_unit, 1e-3)
    seen = objective.describe(tilt)
    good = (natural_residual(tilt, seen.gradient) <= 1e-2) & ~proves_infeasible(constants, tilt, seen.value)
    return jnp.where(good, tilt * constants.multiplier_unit, initial)


def solve_objective(
    objective: Objective, initial: Array, method: str = "newton", tolerance: float = TOLERANCE
) -> DualSolution:
    """Return the solution of any objective, from λ ``(m,)``: the end of every route from scores to λ*."""
    return certify_point(objective, _minimise(objective, initial, method, tolerance), tolerance)


def _minimise(objective: Objective, initial: Array, method: str, tolerance: float) -> Minimum:
    """Return θ* from λ ``(m,)``, by Newton's method where L-BFGS-B ends without an answer or a proof."""
    start = initial / objective.constants.multiplier_unit
    tilt, evaluations = SOLVERS[method](objective, start, SOLVED * tolerance)
    if method == "newton":
        return Minimum(tilt, evaluations, jnp.asarray(False))
    seen, spent = objective.evaluate(tilt), evaluations + 1
    solved = natural_residual(tilt, seen.gradient) <= tolerance
    done = solved | proves_infeasible(objective.constants, tilt, seen.value)

    def again() -> tuple[Array, Array]:
        other, more = newton(objective, start, SOLVED * tolerance)
        return other, spent + more

    answer, total = jax.lax.cond(done, lambda: (tilt, spent), again)
    return Minimum(answer, total, ~done)
