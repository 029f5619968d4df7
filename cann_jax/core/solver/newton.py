"""A safeguarded projected Newton method on the closed-form Hessian, for few constraints and many lanes.

Each step minimises the quadratic model over θ ≥ 0, capped in length; a step that overshoots the convex
function is cut back to the secant's root along it. One evaluation of the table a step, accepted or not.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.dual import Evaluation, Standardised, evaluate, natural_residual
from cann_jax.core.feasibility import proves_infeasible

STEPS = 80
NEAR, SHORT = 10, 0.01  # a step this short from a residual this near leaves less than a hundredth of it


class NewtonState(NamedTuple):
    """Best point so far, its evaluation, the next trial, evaluations spent, refused trials, finished."""

    tilt: jax.Array
    evaluation: Evaluation
    trial: jax.Array
    evaluations: jax.Array
    refused: jax.Array
    done: jax.Array


def newton(
    problem: Standardised,
    start: jax.Array,
    tolerance: float,
    evaluate_table: Callable[[jax.Array], Evaluation] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Minimise F over θ ≥ 0 from ``start`` ``(m,)``; returns θ and the number of evaluations.

    Stops at a natural residual of ``tolerance``, or where rounding allows no further step, or at a proof
    that the margins are out of reach. ``evaluate_table`` stands for ``evaluate`` where ``problem`` holds
    only its constants.
    """
    evaluate_table = evaluate_table or partial(evaluate, problem)
    state = begin(problem, start, evaluate_table(start), tolerance)

    def step(state):
        return advance(problem, state, evaluate_table(state.trial), tolerance)

    state = jax.lax.while_loop(lambda s: ~s.done, step, state)
    return last_step(state, tolerance), state.evaluations


def newton_by_passes(
    problem: Standardised,
    start: jax.Array,
    tolerance: float,
    evaluate_table: Callable[[jax.Array], Evaluation],
) -> tuple[jax.Array, jax.Array]:
    """The same method driven from the host, for a table that only passes by; ``problem`` holds its constants.

    Its ``features`` may be empty of prompts: only the scalars and the number of constraints are read.
    """
    state = jax.jit(begin)(problem, start, evaluate_table(start), tolerance)
    after = jax.jit(advance)
    while not state.done:
        state = after(problem, state, evaluate_table(state.trial), tolerance)
    return last_step(state, tolerance), state.evaluations


def begin(problem: Standardised, start: jax.Array, evaluation: Evaluation, tolerance: float) -> NewtonState:
    """State after the first evaluation."""
    trial = propose(problem, start, evaluation)
    done = settled(start, evaluation.gradient, trial, tolerance)
    return NewtonState(start, evaluation, trial, jnp.asarray(1), jnp.asarray(0), done)


def advance(problem: Standardised, state: NewtonState, seen: Evaluation, tolerance: float) -> NewtonState:
    """Accept or cut back the trial just evaluated, and propose the next."""
    move = state.trial - state.tilt
    before, after = jnp.dot(state.evaluation.gradient, move), jnp.dot(seen.gradient, move)
    noise = 8 * jnp.finfo(move.dtype).eps * (1 + jnp.abs(seen.value))
    # slopes keep their digits where values have lost theirs
    accept = (after <= 0) | ((after <= -0.5 * before) & (seen.value <= state.evaluation.value + noise))
    root = jnp.where(state.refused > 0, 0.5, before / jnp.where(before == after, -1, before - after))
    cut = state.tilt + jnp.clip(root, 0.05, 0.7) * move
    tilt = jnp.where(accept, state.trial, state.tilt)
    evaluation = jax.tree.map(lambda new, old: jnp.where(accept, new, old), seen, state.evaluation)
    trial = jnp.where(accept, propose(problem, tilt, evaluation), cut)
    stuck = jnp.all(jnp.abs(trial - tilt) <= 2 * jnp.finfo(tilt.dtype).eps * tilt)
    done = (
        settled(tilt, evaluation.gradient, trial, tolerance)
        | stuck
        | proves_infeasible(problem, tilt, evaluation.value)
    )
    done = done | ~jnp.isfinite(seen.value) | (state.evaluations + 1 >= STEPS)
    refused = jnp.where(accept, 0, state.refused + 1)
    return NewtonState(tilt, evaluation, trial, state.evaluations + 1, refused, done)


def settled(tilt: jax.Array, gradient: jax.Array, trial: jax.Array, tolerance: float) -> jax.Array:
    """Whether a residual is within tolerance, or will be after the step to the trial, which is short."""
    residual = natural_residual(tilt, gradient)
    return (residual <= tolerance) | ((residual <= NEAR * tolerance) & _is_short(tilt, trial))


def _is_short(tilt: jax.Array, trial: jax.Array) -> jax.Array:
    return jnp.all(jnp.abs(trial - tilt) <= SHORT * jnp.maximum(tilt, 1))


def last_step(state: NewtonState, tolerance: float) -> jax.Array:
    """θ ``(m,)``: a settled state's last proposal squares the residual, and costs no evaluation."""
    near = natural_residual(state.tilt, state.evaluation.gradient) <= NEAR * tolerance
    return jnp.where(near & _is_short(state.tilt, state.trial), state.trial, state.tilt)


def propose(problem: Standardised, tilt: jax.Array, evaluation: Evaluation) -> jax.Array:
    """The next trial ``(m,)``: the quadratic model's minimiser over θ ≥ 0, no further than a cap.

    Where the weights have collapsed on one response each, the Hessian vanishes and the model has no
    minimiser; the cap grows with θ, so that even then an end or a proof is reached in a few steps.
    """
    diagonal = jnp.diag(evaluation.hessian)
    ridge = 1e-6 * jnp.max(diagonal) + 1e-9
    hessian = evaluation.hessian + ridge * jnp.eye(tilt.shape[0], dtype=tilt.dtype)
    move = _box_step(tilt, evaluation.gradient, hessian) - tilt
    cap = 10 * jnp.maximum(jnp.maximum(jnp.max(tilt), problem.reach), 1)
    return jnp.maximum(tilt + move * jnp.minimum(1, cap / jnp.maximum(jnp.max(jnp.abs(move)), cap)), 0)


def _box_step(tilt: jax.Array, gradient: jax.Array, hessian: jax.Array) -> jax.Array:
    """argmin over θ' ≥ 0 of the model, by a primal-dual active set; a scaled gradient step if that fails."""
    simple = jnp.maximum(tilt - gradient / jnp.diag(hessian), 0)
    if tilt.shape[0] == 1:
        return simple
    linear = hessian @ tilt - gradient
    identity = jnp.eye(tilt.shape[0], dtype=tilt.dtype)

    def refine(_, point):
        slope = hessian @ point - linear
        free = point / jnp.diag(identity) - slope / jnp.diag(hessian) > 0
        matrix = jnp.where(free[:, None] & free[None, :], hessian, identity)
        return jnp.linalg.solve(matrix, jnp.where(free, linear, 0))

    point = jnp.maximum(jax.lax.fori_loop(0, 2 * tilt.shape[0] + 2, refine, tilt), 0)
    promised = jnp.dot(gradient, point - tilt) + 0.5 * (point - tilt) @ hessian @ (point - tilt)
    downhill = (jnp.dot(gradient, point - tilt) < 0) & (promised < 0) & jnp.all(jnp.isfinite(point))
    return jnp.where(downhill, point, _damped(tilt, simple))


def _damped(tilt: jax.Array, simple: jax.Array) -> jax.Array:
    """A diagonal step overshoots by at most m where constraints are parallel; divide by m."""
    return tilt + (simple - tilt) / tilt.shape[0]
