"""A safeguarded projected Newton method on the closed-form Hessian, for few constraints and many lanes.

Each step minimises the quadratic model over θ ≥ 0, capped in length. Where it overshoots the convex function
the model is damped by the curvature met on the way (Levenberg and Marquardt): so steps follow a bent valley,
in which steps cut back along a line crept, and did not arrive in 80. Each step evaluates the table once,
accepted or not.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array
from cann_jax.core.feasibility import proves_infeasible
from cann_jax.core.objective import Evaluation, Objective, natural_residual
from cann_jax.core.survey import Constants

STEPS = 80
NEAR, SHORT = 10, 0.01  # a step this short from a residual this near leaves less than a hundredth of it


class _State(NamedTuple):
    """Best point so far, its evaluation, the next trial, evaluations spent, the damping, finished."""

    tilt: Array
    evaluation: Evaluation
    trial: Array
    evaluations: Array
    damping: Array
    done: Array


def newton(objective: Objective, start: Array, tolerance: float) -> tuple[Array, Array]:
    """Minimise F over θ ≥ 0 from ``start`` ``(m,)``; return θ and the number of evaluations.

    Stops at a natural residual of ``tolerance``, or where rounding allows no further step, or at a proof
    that the margins are out of reach.
    """
    constants = objective.constants

    def step(state: _State) -> Any:
        return _advance(constants, state, objective.evaluate(state.trial), tolerance)

    # The start is the first trial: a program with an evaluation of its own for it compiles in twice the time.
    unseen = Evaluation(jnp.zeros((), start.dtype), jnp.zeros_like(start), jnp.diag(jnp.zeros_like(start)))
    nothing = jnp.zeros_like(unseen.value)
    state = _State(start, unseen, start, jnp.asarray(0), nothing, jnp.asarray(False))
    state = objective.loop(lambda state: ~state.done, step, state)
    # a settled state's last proposal squares the residual, and costs no evaluation
    near = natural_residual(state.tilt, state.evaluation.gradient) <= NEAR * tolerance
    tilt = jnp.where(near & _is_short(state.tilt, state.trial), state.trial, state.tilt)
    return tilt, state.evaluations


@partial(jax.jit, static_argnames="tolerance")
def _advance(constants: Constants, state: _State, seen: Evaluation, tolerance: float) -> _State:
    """Accept or refuse the trial just evaluated, and propose the next."""
    move = state.trial - state.tilt
    before, after = jnp.dot(state.evaluation.gradient, move), jnp.dot(seen.gradient, move)
    noise = 8 * np.finfo(move.dtype).eps * (1 + jnp.abs(seen.value))
    # slopes keep their digits where values have lost theirs
    accept = (after <= 0) | ((after <= -0.5 * before) & (seen.value <= state.evaluation.value + noise))
    tilt = jnp.where(accept, state.trial, state.tilt)
    evaluation = jax.tree.map(lambda new, old: jnp.where(accept, new, old), seen, state.evaluation)
    # the curvature met along the move, at most what cuts it to a twentieth
    met = jnp.minimum(after - before, -20 * before) / jnp.maximum(jnp.dot(move, move), 1e-30)
    damping = jnp.where(accept, state.damping / 8, jnp.maximum(4 * state.damping, met))
    damping = jnp.where(damping > 1e-3 * jnp.max(jnp.diag(evaluation.hessian)), damping, 0)
    trial = _propose(constants, tilt, evaluation, damping)
    stuck = jnp.all(jnp.abs(trial - tilt) <= 2 * np.finfo(tilt.dtype).eps * tilt)
    done = (
        _settled(tilt, evaluation.gradient, trial, tolerance)
        | stuck
        | proves_infeasible(constants, tilt, evaluation.value)
        | ~jnp.isfinite(seen.value)
        | (state.evaluations + 1 >= STEPS)
    )
    return _State(tilt, evaluation, trial, state.evaluations + 1, damping, done)


def _settled(tilt: Array, gradient: Array, trial: Array, tolerance: float) -> Array:
    """Return whether the residual is within tolerance, or will be after the step to the trial."""
    residual = natural_residual(tilt, gradient)
    return (residual <= tolerance) | ((residual <= NEAR * tolerance) & _is_short(tilt, trial))


def _is_short(tilt: Array, trial: Array) -> Array:
    return jnp.all(jnp.abs(trial - tilt) <= SHORT * jnp.maximum(tilt, 1))


def _propose(constants: Constants, tilt: Array, evaluation: Evaluation, damping: Array) -> Array:
    """Return the next trial ``(m,)``: the quadratic model's minimiser over θ ≥ 0, no further than a cap.

    Where the weights have collapsed on one response each, the Hessian vanishes and the model has no
    minimiser; the cap grows with θ, so that even then an end or a proof is reached in a few steps.
    """
    identity = jnp.eye(tilt.shape[0], dtype=bool)
    # what is left of a Hessian that has vanished is rounding, of either sign; features have unit spread
    noise = 8 * np.finfo(tilt.dtype).eps
    diagonal = jnp.maximum(jnp.diag(evaluation.hessian), 0)
    ridge = 1e-6 * jnp.max(diagonal) + noise + damping
    hessian = jnp.where(identity, diagonal + ridge, evaluation.hessian)
    move = box_step(tilt, evaluation.gradient, hessian) - tilt
    cap = 10 * jnp.maximum(jnp.maximum(jnp.max(tilt), constants.logit_scale), 1)
    return jnp.maximum(tilt + move * jnp.minimum(1, cap / jnp.maximum(jnp.max(jnp.abs(move)), cap)), 0)


def box_step(tilt: Array, gradient: Array, hessian: Array) -> Array:
    """Return the model's minimiser over θ ≥ 0 by a primal-dual active set, or else a gradient step."""
    simple = jnp.maximum(tilt - gradient / jnp.diag(hessian), 0)
    if tilt.shape[0] == 1:
        return simple
    linear = hessian @ tilt - gradient
    identity = jnp.eye(tilt.shape[0], dtype=tilt.dtype)

    def refine(_: int, point: Array) -> Array:
        slope = hessian @ point - linear
        free = point - slope / jnp.diag(hessian) > 0
        matrix = jnp.where(free[:, None] & free[None, :], hessian, identity)
        return jnp.asarray(jnp.linalg.solve(matrix, jnp.where(free, linear, 0)))

    point = jnp.maximum(jax.lax.fori_loop(0, 2 * tilt.shape[0] + 2, refine, tilt), 0)
    promised = jnp.dot(gradient, point - tilt) + 0.5 * (point - tilt) @ hessian @ (point - tilt)
    downhill = (jnp.dot(gradient, point - tilt) < 0) & (promised < 0) & jnp.all(jnp.isfinite(point))
    # a diagonal step overshoots by at most m where constraints are parallel: divide by m
    return jnp.where(downhill, point, tilt + (simple - tilt) / tilt.shape[0])
