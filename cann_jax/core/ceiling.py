"""How far a policy that tilts by predicted scores can raise each constraint alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.compilation import jit
from cann_jax.core.solver.complementarity import TiltedTable

TILTS = (0, *2.0 ** np.arange(-3, 9.01, 0.25))  # standard units; the limit comes after them
ZOOMS, POINTS = 10, 9


class Ceiling(NamedTuple):
    """Largest improvement of each constraint, ``(m,)`` each, all other multipliers at 0.

    Attributes:
        highest: sup A_j over λ_j ≥ 0, its limit included.
        greedy: A_j as λ_j → ∞: of the response with the highest ĝ_j. It can lie below ``highest``.
    """

    highest: Array
    greedy: Array


@jax.jit
def ceiling(table: TiltedTable) -> Ceiling:
    """Return the largest improvements in the user's units."""
    drift = drift_of(table)
    found = [_ceiling_of(table, j) for j in range(drift.shape[0])]
    highest, greedy = (jnp.stack(part) for part in zip(*found, strict=True))
    spread = table.true.spreads.constraints
    return Ceiling((highest + drift) * spread, (greedy + drift) * spread)


def _ceiling_of(table: TiltedTable, constraint: int) -> tuple[Array, Array]:
    def mean(size: Array) -> Array:
        return accurate_sum(_gain(table, constraint, size) * table.true.weights)

    sizes = jnp.asarray(TILTS, table.unit.dtype)
    values = jax.lax.map(mean, sizes)
    greedy = accurate_sum(_greedy_gain(table, constraint) * table.true.weights)
    best = jnp.argmax(values)
    low, high = (sizes[jnp.clip(best + side, 0, len(TILTS) - 1)] for side in (-1, 1))

    def zoom(_: int, bracket: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, highest = bracket
        points = jnp.linspace(low, high, POINTS)
        seen = jax.lax.map(mean, points)
        best = jnp.argmax(seen)
        low, high = (points[jnp.clip(best + side, 0, POINTS - 1)] for side in (-1, 1))
        return low, high, jnp.maximum(highest, seen[best])

    highest = jax.lax.fori_loop(0, ZOOMS, zoom, (low, high, jnp.max(values)))[2]
    return jnp.maximum(highest, greedy), greedy


@jit()
def drift_of(table: TiltedTable) -> Array:
    """Return the improvement ``(m,)``, in standard units, that no tilt moves."""
    return table.drift(jnp.zeros_like(table.unit))


@jit(static_argnames="constraint")
def gains_along(table: TiltedTable, constraint: int) -> Array:
    """Return each prompt's gain ``(tilts, prompts)`` at all of ``TILTS`` and in the limit, standard units."""
    sizes = jnp.asarray(TILTS, table.unit.dtype)
    gains = jax.lax.map(lambda size: _gain(table, constraint, size), sizes)
    found: Array = jnp.concatenate([gains, _greedy_gain(table, constraint)[None]])
    return found


def _gain(table: TiltedTable, constraint: int, size: Array) -> Array:
    tilt = jnp.zeros_like(table.unit).at[constraint].set(size)
    return jnp.sum(table.policy(tilt) * table.true.features[constraint], axis=-1)


def _greedy_gain(table: TiltedTable, constraint: int) -> Array:
    """Return the gain ``(prompts,)`` as θ_j → ∞; among equally high responses the reward decides."""
    feature, reward = table.predicted.features[constraint], table.predicted.reward
    feature = jnp.where(jnp.isfinite(reward), feature, -jnp.inf)
    rounding = 8 * np.finfo(feature.dtype).eps * jnp.max(jnp.abs(table.predicted.features[constraint]))
    top = feature >= jnp.max(feature, axis=-1, keepdims=True) - rounding
    policy = jax.nn.softmax(jnp.where(top, reward / table.beta, -jnp.inf), axis=-1)
    return jnp.sum(policy * table.true.features[constraint], axis=-1)
