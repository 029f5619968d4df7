"""A table in memory as blocks of prompts.

On a CPU an evaluation of the whole table writes arrays as large as the table, and fresh memory costs 1.6 µs
a page: at 27,000 × 128 half of a solve. What a block of some thousand responses writes stays in the cache.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.objective import Objective
from cann_jax.core.scores import Scores, accurate_sum, normalised_prompt_weights, response_mask
from cann_jax.core.survey import PromptMeans, constants_of, refine_spreads, survey
from cann_jax.core.table import Centre, Spreads, Table, centre, tabulate

BLOCK = 1 << 15  # responses: a block's scores, logits and weights fit a core's second cache, 1 MB
MANY_BLOCKS = 8  # from a megabyte a score on


class _Rows(NamedTuple):
    """The prompts of a block: ``size`` from ``first`` on, of which those before ``own`` are another block's."""

    first: jax.Array
    own: jax.Array
    size: int

    def of(self, values: jax.Array, axis: int = 0) -> jax.Array:
        """Return these prompts' values."""
        return jax.lax.dynamic_slice_in_dim(values, self.first, self.size, axis)

    def weights(self, weights: jax.Array) -> jax.Array:
        """Return these prompts' weights, 0 for another block's prompts."""
        return jnp.where(self.first + jnp.arange(self.size) >= self.own, self.of(weights), 0)


class _Arrays(NamedTuple):
    """A whole table as it was given, its constraints ``(m, prompts, responses)``, with its centres."""

    reward: jax.Array
    constraints: jax.Array
    mask: jax.Array | None
    weights: jax.Array
    centres: tuple[Centre, Centre]

    def block(self, rows: _Rows, spreads: Spreads) -> Table:
        """Return a block in given units."""
        mask = None if self.mask is None else rows.of(self.mask)
        centres = jax.tree.map(lambda leaf: rows.of(leaf, leaf.ndim - 1), self.centres)
        weights = rows.weights(self.weights)
        constraints = rows.of(self.constraints, 1)
        return tabulate(rows.of(self.reward), constraints, mask, weights, centres, spreads=spreads)


def many_blocks(reward: jax.Array) -> bool:
    """Return whether a table is one of many blocks on one CPU.

    Under a trace the answer is no, as only the compiler knows the device.
    """
    if isinstance(reward, jax.core.Tracer) or reward.size < MANY_BLOCKS * BLOCK:
        return False
    devices = reward.devices() if isinstance(reward, jax.Array) else jax.local_devices()[:1]
    return [device.platform for device in devices] == ["cpu"]


def block_objective(scores: Scores, spreads: Spreads, margins: jax.Array, beta: jax.Array) -> Objective:
    """Return F on a table of many blocks; lives inside one traced function.

    Args:
        scores: The table.
        spreads: Spreads of about the right size, so that squares stay in range.
        margins: b ``(m,)``.
        beta: β > 0.
    """
    mask, constraints = response_mask(scores), jnp.moveaxis(scores.constraints, -1, 0)
    centres = centre(scores.reward, mask), centre(constraints, mask)
    arrays = _Arrays(scores.reward, constraints, mask, normalised_prompt_weights(scores), centres)
    seen = _sum_over_blocks(arrays, spreads, survey)
    spreads = refine_spreads(spreads, seen)
    means = PromptMeans(*(leaf / seen.weight for leaf in seen.means))
    constants = constants_of(means, spreads, margins, beta, scores.baseline)
    return Objective(constants, partial(_sum_over_blocks, arrays, spreads))


def _sum_over_blocks(arrays: _Arrays, spreads: Spreads, function: Callable[..., Any], *arguments: Any) -> Any:
    prompts, responses = arrays.reward.shape
    size = min(prompts, max(1, BLOCK // responses))

    def one(_: None, own: jax.Array) -> tuple[None, Any]:
        rows = _Rows(jnp.minimum(own, prompts - size), own, size)
        return None, function(arrays.block(rows, spreads), *arguments)

    _, parts = jax.lax.scan(one, None, jnp.arange(0, prompts, size))
    return jax.tree.map(lambda leaf: accurate_sum(jnp.moveaxis(leaf, 0, -1)), parts)
