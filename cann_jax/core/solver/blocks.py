"""A table in memory as blocks of prompts.

On a CPU an evaluation of the whole table writes arrays as large as the table, and fresh memory costs 1.6 µs
a page: at 27,000 × 128 half of a solve. What a block of some thousand responses writes stays in the cache.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.objective import Objective
from cann_jax.core.scores import Scores, normalised_prompt_weights
from cann_jax.core.survey import constants_of, refine_spreads, survey
from cann_jax.core.table import Centres, Spreads, centres_of, standardise

BLOCK = 1 << 15  # responses: a block's scores, logits and weights fit a core's second cache, 1 MB
MANY_BLOCKS = 8  # from a megabyte a score on


def many_blocks(reward: Array) -> bool:
    """Return whether a table is one of many blocks on one CPU.

    Under a trace the answer is no, as only the compiler knows the device.
    """
    if isinstance(reward, jax.core.Tracer) or reward.size < MANY_BLOCKS * BLOCK:
        return False
    devices = reward.devices() if isinstance(reward, jax.Array) else jax.local_devices()[:1]
    return [device.platform for device in devices] == ["cpu"]


def block_objective(scores: Scores, spreads: Spreads, margins: Array, beta: Array) -> Objective:
    """Return F on a table of many blocks, inside one traced function.

    The spreads need only be of about the right size, so that squares stay in range.
    """
    weights = normalised_prompt_weights(scores)
    rows = dataclasses.replace(scores, prompt_weights=weights, baseline=None)
    total = partial(_sum_over_blocks, rows, centres_of(scores))
    seen = total(spreads, survey)
    spreads = jax.lax.stop_gradient(refine_spreads(spreads, seen))
    constants = constants_of(seen, spreads, margins, beta, scores.baseline)
    return Objective(constants, partial(total, spreads))


def _sum_over_blocks(
    scores: Scores, centres: Centres, spreads: Spreads, function: Callable[..., Any], *arguments: Any
) -> Any:
    prompts, responses = scores.reward.shape
    size = min(prompts, max(1, BLOCK // responses))

    def one(_: None, own: Array) -> tuple[None, Any]:
        first = jnp.minimum(own, prompts - size)
        part = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, size), scores)
        about = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, size, -1), centres)
        # the last block begins early, with prompts of the block before it
        weights = jnp.where(first + jnp.arange(size) >= own, part.prompt_weights, 0)
        return None, function(standardise(part, weights, spreads, about), *arguments)

    _, parts = jax.lax.scan(one, None, jnp.arange(0, prompts, size))
    return jax.tree.map(lambda leaf: accurate_sum(jnp.moveaxis(leaf, 0, -1)), parts)
