"""λ* = argmin over λ ≥ 0 of the dual function."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from cann_jax.core.feasibility import proves_infeasible
from cann_jax.core.objective import Objective, natural_residual, table_objective
from cann_jax.core.scores import Scores
from cann_jax.core.solver.blocks import block_objective, many_blocks
from cann_jax.core.solver.lbfgsb import lbfgsb
from cann_jax.core.solver.newton import newton
from cann_jax.core.solver.solution import TOLERANCE, DualSolution, certify_point
from cann_jax.core.table import Table, standardise
from cann_jax.files.errors import InputError

SOLVERS = {"lbfgsb": lbfgsb, "newton": newton}
METHODS = tuple(SOLVERS)
SOLVED = 0.1  # a tenth of the tolerance costs Newton nothing, and λ keeps digits that a flat dual would lose
ROUGH_PROMPTS = 1024


def solve_dual(
    scores: Scores,
    margins: jax.Array,
    beta: float | jax.Array,
    method: str = "lbfgsb",
    initial: jax.Array | None = None,
    tolerance: float = TOLERANCE,
) -> DualSolution:
    """Solve the one-shot dual on a table of the reference's samples (paper, algorithm 1, MoCAN's step 2).

    Runs under ``jit`` and ``vmap`` over margins, β, prompt weights or whole tables.

    Args:
        scores: The table of N prompts, K responses and m constraints.
        margins: b ``(m,)``, improvements over the reference to ask for; a scalar for m = 1.
        beta: β > 0, the KL penalty of the problem and of the DPO step after it.
        method: "lbfgsb" (jaxopt's L-BFGS-B, the reference) or "newton" (quick to compile, for many lanes).
        initial: λ ``(m,)`` to begin from; None: 0.
        tolerance: Largest KKT residual called converged, in units of the scores' spread.

    Raises:
        InputError: Unknown method, shapes that do not fit, β ≤ 0 or NaN margins where they are concrete.
    """
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not known; choose one of {', '.join(METHODS)}")
    count = scores.constraints.shape[-1]
    margins = jnp.atleast_1d(jnp.asarray(margins, scores.reward.dtype))
    if margins.shape != (count,):
        raise InputError(f"margins have shape {margins.shape}; give one for each of the {count} constraints")
    _check_settings(margins, beta)
    # L-BFGS-B stays as it is, the reference
    rough = method == "newton" and initial is None and scores.reward.shape[0] >= 8 * ROUGH_PROMPTS
    blocks = method == "newton" and many_blocks(scores.reward)
    initial = jnp.zeros_like(margins) if initial is None else jnp.asarray(initial, margins.dtype)
    beta = jnp.asarray(beta, margins.dtype)
    return _solve(scores, margins, beta, initial, method, tolerance, rough, blocks)


def _check_settings(margins: jax.Array, beta: float | jax.Array) -> None:
    """Refuse a β ≤ 0 and margins that are not finite; traced values pass.

    Raises:
        InputError: Naming the setting.
    """
    for name, value, good in [("beta", beta, lambda v: v > 0), ("margins", margins, jnp.isfinite)]:
        if not isinstance(value, jax.core.Tracer) and not bool(jnp.all(good(jnp.asarray(value)))):
            wanted = "a positive number" if name == "beta" else "finite numbers"
            raise InputError(f"{name}: {value}; give {wanted}")


@partial(jax.jit, static_argnames=("method", "tolerance", "rough", "blocks"))
def _solve(
    scores: Scores,
    margins: jax.Array,
    beta: jax.Array,
    initial: jax.Array,
    method: str,
    tolerance: float,
    rough: bool,
    blocks: bool,
) -> DualSolution:
    part = standardise(
        _some_prompts(scores)
    )  # dead code, which the compiler drops, unless one of both reads it
    if rough:
        initial = _rough_answer(part, margins, beta, initial)
    if blocks:
        objective = block_objective(scores, part.spreads, margins, beta)
    else:
        objective = table_objective(standardise(scores), margins, beta)
    return solve_objective(objective, initial, method, tolerance)


def _some_prompts(scores: Scores) -> Scores:
    """Return about a thousand prompts of many."""
    stride = max(1, scores.reward.shape[0] // ROUGH_PROMPTS)
    part = jax.tree.map(lambda leaf: leaf[::stride], dataclasses.replace(scores, baseline=None))
    weights = part.prompt_weights
    if weights is not None:
        # a stride over zero weights only would leave none; one over the sum of a few loses nothing else
        weights = jnp.where(jnp.any(weights > 0), weights, 1)
    return dataclasses.replace(part, prompt_weights=weights, baseline=scores.baseline)


def _rough_answer(part: Table, margins: jax.Array, beta: jax.Array, initial: jax.Array) -> jax.Array:
    """Return λ ``(m,)`` on some of the prompts, which saves the whole table half of its evaluations."""
    objective = table_objective(part, margins, beta)
    constants = objective.constants
    tilt, _ = newton(objective, initial / constants.multiplier_unit, 1e-3)
    seen = objective.describe(tilt)
    good = (natural_residual(tilt, seen.gradient) <= 1e-2) & ~proves_infeasible(constants, tilt, seen.value)
    return jnp.where(good, tilt * constants.multiplier_unit, initial)


def solve_objective(
    objective: Objective, initial: jax.Array, method: str = "newton", tolerance: float = TOLERANCE
) -> DualSolution:
    """Solve the dual of any objective: one table, many lanes of it, blocks or a stream.

    Args:
        objective: F of the table at its margins and β.
        initial: λ ``(m,)`` to begin from.
        method: As in ``solve_dual``.
        tolerance: As in ``solve_dual``.
    """
    start = initial / objective.constants.multiplier_unit
    tilt, evaluations = SOLVERS[method](objective, start, SOLVED * tolerance)
    return certify_point(objective, tilt, evaluations, tolerance)
