"""jaxopt's L-BFGS-B on the dual; the one file that imports jaxopt, which is no longer maintained.

Its own error estimate is 0.0 on infeasible tables (in float32 λ − ∇D rounds to λ), so the loop here stops by
our residual and our proof of infeasibility.
"""

import warnings
from typing import Any

import jax.numpy as jnp

from cann_jax.core.arrays import Array
from cann_jax.core.feasibility import proves_infeasible
from cann_jax.core.objective import Objective, natural_residual

STEPS = 60


def lbfgsb(objective: Objective, start: Array, tolerance: float) -> tuple[Array, Array]:
    """Minimise F over θ ≥ 0 from ``start`` ``(m,)``; return θ and the number of evaluations.

    Variables are scaled by the curvature at the start, so that the first step is about Newton's.
    """
    scale = _curvature_scale(objective, start)

    def value_and_gradient(scaled: Array) -> tuple[Array, Array]:
        seen = objective.evaluate(scaled * scale)
        return seen.value, seen.gradient * scale

    solver = _solver_class()(
        value_and_gradient, value_and_grad=True, maxls=20, stop_if_linesearch_fails=True, implicit_diff=False
    )
    bounds = (jnp.zeros_like(start), jnp.full_like(start, jnp.inf))

    def unfinished(carry: tuple[Array, Any]) -> Array:
        scaled, state = carry
        tilt, value = scaled * scale, jnp.asarray(state.value)
        going = ~state.failed_linesearch & jnp.isfinite(value) & (state.iter_num < STEPS)
        going &= natural_residual(tilt, state.grad / scale) > tolerance
        return jnp.asarray(going & ~proves_infeasible(objective.constants, tilt, value))

    def step(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        return tuple(solver.update(*carry, bounds))

    first = start / scale
    carry = first, solver.init_state(first, bounds)
    scaled, state = objective.loop(unfinished, step, carry)
    # Bounds are kept to rounding only: a multiplier of 0 came back as −5e-12.
    return jnp.maximum(scaled * scale, 0), state.num_fun_eval + 1


def _solver_class() -> Any:
    """Import the class late: it costs a second that the Newton method's users need not wait for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it warns that it is unmaintained; see above
        from jaxopt import LBFGSB
    return LBFGSB


def _curvature_scale(objective: Objective, start: Array) -> Array:
    """Return ``(m,)``: 1/√diagonal of the Hessian, or the logits' size where there is no curvature."""
    diagonal = jnp.diag(objective.evaluate(start).hessian)
    largest = jnp.maximum(objective.constants.logit_scale, 1)
    return jnp.minimum(1 / jnp.sqrt(jnp.maximum(diagonal, 1e-12)), largest)
