"""λ ≥ 0 with A(λ) ≥ b, each λ_j zero or its A_j equal to b_j: where tilt and measure differ, no dual has it.

Responses are tilted by predicted scores and measured by true ones, so A is no gradient and its Jacobian
E_x Cov_ŵ(g, ĝ)/β not symmetric. In standard units (``objective``), with tilts θ_j of predicted scores, the
semismooth Newton method solves min(θ, A(θ) − b) = 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.objective import EXACT, tilted_logits
from cann_jax.core.survey import table_constants
from cann_jax.core.table import Table

STEPS = 100
LADDER = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)  # how far along a direction to begin


class TiltedTable(NamedTuple):
    """Responses tilted by ``predicted`` scores and measured by ``true`` ones, both standardised, at one β."""

    predicted: Table
    true: Table
    beta: Array

    def policy(self, tilt: Array) -> Array:
        """Return ŵ(θ) ``(prompts, responses)``."""
        return jax.nn.softmax(tilted_logits(self.predicted, self.beta, tilt), axis=-1)

    def drift(self, margins: Array) -> Array:
        """Return the part ``(m,)`` of A − b, in units of the true scores' spread, that no tilt moves."""
        drift: Array = table_constants(self.true, margins, self.beta).drift
        return drift

    @property
    def unit(self) -> Array:
        """``(m,)``: λ_j/θ_j = β/ŝ_j."""
        return self.beta / self.predicted.spreads.constraints


class _State(NamedTuple):
    tilt: Array
    excess: Array
    jacobian: Array
    share: Array
    steps: Array


def precision(dtype: np.dtype) -> float:
    """Return the largest residual called solved, in units of the scores' spread."""
    return float(np.finfo(dtype).eps ** 0.75)


def residual(tilt: Array, excess: Array) -> Array:
    """Return max_j |min(θ_j, A_j − b_j)|."""
    return jnp.max(jnp.abs(jnp.minimum(tilt, excess)))


def solve_complementarity(table: TiltedTable, drift: Array, start: Array) -> tuple[Array, Array]:
    """Return θ and A(θ) − b, each ``(m,)``, in standard units, from ``start`` or a multiple of it.

    Where the margins are out of reach θ is the last point; ``residual`` tells.
    """
    # no direction to go in: each constraint alone
    along = jnp.where(jnp.any(start > 0), start, jnp.ones_like(start))
    starts = jnp.asarray(LADDER, start.dtype)[:, None] * along
    found = jax.lax.map(lambda tilt: residual(tilt, _evaluate(table, drift, tilt)[0]), starts)
    best = starts[jnp.argmin(found)]
    state = _State(best, *_evaluate(table, drift, best), jnp.ones((), start.dtype), jnp.asarray(0))
    small = precision(start.dtype)

    def unfinished(state: _State) -> Array:
        return (residual(state.tilt, state.excess) > small) & (state.steps < STEPS) & (state.share > small)

    def step(state: _State) -> _State:
        trial = jnp.maximum(state.tilt + state.share * _direction(state), 0)
        excess, jacobian = _evaluate(table, drift, trial)
        # NaN compares false: refused
        better = _merit(trial, excess) < _merit(state.tilt, state.excess)
        old = _State(state.tilt, state.excess, state.jacobian, state.share / 4, state.steps + 1)
        new = _State(trial, excess, jacobian, jnp.minimum(1, 4 * state.share), state.steps + 1)
        chosen: _State = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)
        return chosen

    state = jax.lax.while_loop(unfinished, step, state)
    # one more Newton step squares what rounding has left of the residual
    polished = jnp.maximum(state.tilt + _direction(state), 0)
    excess = _evaluate(table, drift, polished)[0]
    better = _merit(polished, excess) < _merit(state.tilt, state.excess)
    return jnp.where(better, polished, state.tilt), jnp.where(better, excess, state.excess)


def _merit(tilt: Array, excess: Array) -> Array:
    return jnp.sum(jnp.minimum(tilt, excess) ** 2)


def _direction(state: _State) -> Array:
    """Return the semismooth Newton step, no longer than 1 + max θ."""
    identity = jnp.eye(state.tilt.shape[0], dtype=state.tilt.dtype)
    rows = jnp.where((state.tilt <= state.excess)[:, None], identity, state.jacobian)
    # a flat stretch has no derivative left
    rows = rows + np.finfo(state.tilt.dtype).eps * identity
    step: Array = jnp.linalg.solve(rows, -jnp.minimum(state.tilt, state.excess))
    longest = 1 + jnp.max(state.tilt)
    return step * jnp.minimum(1, longest / jnp.maximum(jnp.max(jnp.abs(step)), longest))


def _evaluate(table: TiltedTable, drift: Array, tilt: Array) -> tuple[Array, Array]:
    """Return A − b ``(m,)`` at θ, and its Jacobian ``(m, m)``."""
    policy, weights = table.policy(tilt), table.true.weights
    gains = measured(policy, table.true)
    means = measured(policy, table.predicted)
    count = gains.shape[0]
    weighted = (table.true.features * (policy * weights[:, None])).reshape(count, -1)
    second = jnp.matmul(weighted, table.predicted.features.reshape(count, -1).T, precision=EXACT)
    jacobian = second - jnp.matmul(gains * weights, means.T, precision=EXACT)
    return accurate_sum(gains * weights) + drift, jacobian


def measured(policy: Array, table: Table) -> Array:
    """Return E_policy[features] of each prompt, ``(m, prompts)``."""
    return jnp.sum(policy * table.features, axis=-1)
