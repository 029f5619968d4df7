"""A table in memory as blocks of prompts.

On a CPU an evaluation of the whole table writes arrays as large as the table, and fresh memory costs 1.6 µs
a page: at 27,000 × 128 half of a solve. What a block of some thousand responses writes stays in the cache.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array, accurate_sum, slice_along
from cann_jax.core.objective import Objective, table_objective
from cann_jax.core.scores import Scores, normalised_prompt_weights, score_prompts
from cann_jax.core.survey import constants_of, refine_spreads, survey
from cann_jax.core.table import Spreads, Table, centres_of, standardise, table_prompts

BLOCK = 1 << 15  # responses: a block's scores, logits and weights fit a core's second cache, 1 MB
PART = 1 << 20  # responses that host code takes at once: what it makes of them is some tens of megabytes
MANY_BLOCKS = 8  # from a megabyte a score on


def many_blocks(reward: Array) -> bool:
    """Return whether a table is one of many blocks on one CPU.

    Under a trace the answer is no, as only the compiler knows the device.
    """
    if isinstance(reward, jax.core.Tracer) or reward.size < MANY_BLOCKS * BLOCK:
        return False
    devices = reward.devices() if isinstance(reward, jax.Array) else jax.local_devices()[:1]
    return [device.platform for device in devices] == ["cpu"]


def over_prompts(function: Callable[..., Any], values: Scores | Table, *arguments: Any) -> Any:
    """Return ``function(values, *arguments)``, arrays with a last axis of prompts, of some prompts at a time.

    So that what it makes of a table of many blocks need not be as large as the table.
    """
    prompts, responses = values.reward.shape
    size = max(1, PART // responses)
    if size >= prompts or not many_blocks(values.reward):
        return function(values, *arguments)
    some = score_prompts if isinstance(values, Scores) else table_prompts
    host, parts = jax.tree.map(np.asarray, values), []
    for own in range(0, prompts, size):
        first = min(own, prompts - size)  # parts of one shape: the last one begins early
        found = function(some(host, first, size), *arguments)
        parts.append(jax.tree.map(lambda leaf, seen=own - first: np.asarray(leaf)[..., seen:], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1), *parts)


def block_objective(scores: Scores, spreads: Spreads, margins: Array, beta: Array) -> Objective:
    """Return F on a table of many blocks, inside one traced function.

    The spreads need only be of about the right size, so that squares stay in range.
    """
    rows = dataclasses.replace(scores, prompt_weights=normalised_prompt_weights(scores), baseline=None)
    centres = centres_of(scores)

    def part_of(spreads: Spreads, first: Array, size: int) -> Table:
        part = score_prompts(rows, first, size)
        about = jax.tree.map(lambda leaf: slice_along(leaf, first, size, -1), centres)
        table: Table = standardise(part, part.prompt_weights, spreads, about)
        return table

    shape = scores.reward.shape
    seen = _sum_over_blocks(shape, partial(part_of, spreads), survey)
    spreads = jax.lax.stop_gradient(refine_spreads(spreads, seen))
    constants = constants_of(seen, spreads, margins, beta, scores.baseline)
    return Objective(constants, partial(_sum_over_blocks, shape, partial(part_of, spreads)))


def objective_of(
    table: Table, margins: Array, beta: Array, blocks: bool, part_of: Callable[[Table], Table] = lambda t: t
) -> Objective:
    """Return F on a table in standard form, or on what ``part_of`` makes of it, or of each of its blocks."""
    if not blocks:
        return table_objective(part_of(table), margins, beta)
    total = partial(
        _sum_over_blocks,
        table.reward.shape,
        lambda first, size: part_of(table_prompts(table, first, size)),
    )
    return Objective(constants_of(total(survey), table.spreads, margins, beta, table.baseline), total)


def _sum_over_blocks(
    shape: Sequence[int],
    part_of: Callable[[Array, int], Table],
    function: Callable[..., Any],
    *arguments: Any,
) -> Any:
    prompts, responses = shape
    size = min(prompts, max(1, BLOCK // responses))

    def one(_: None, own: Array) -> tuple[None, Any]:
        first = jnp.minimum(own, prompts - size)
        part = part_of(first, size)
        # the last block begins early, with prompts of the block before it
        weights = jnp.where(first + jnp.arange(size) >= own, part.weights, 0)
        return None, function(dataclasses.replace(part, weights=weights), *arguments)

    _, parts = jax.lax.scan(one, None, jnp.arange(0, prompts, size))
    return jax.tree.map(lambda leaf: accurate_sum(jnp.moveaxis(leaf, 0, -1)), parts)
