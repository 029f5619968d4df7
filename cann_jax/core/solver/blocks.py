"""A table summed part by part: blocks of one in memory here, chunks of a file in ``passes``.

On a CPU an evaluation of the whole table writes arrays as large as the table, and fresh memory costs 1.6 µs
a page: at 27,000 × 128 half of a solve. What a block of some thousand responses writes stays in the cache.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.dual import Evaluation, PolicyStatistics, Standardised, evaluate, policy_statistics, pose
from cann_jax.core.feasibility import direction, reach_along
from cann_jax.core.scores import (
    Scores,
    accurate_sum,
    normalised_prompt_weights,
    response_mean,
    valid_mask,
)
from cann_jax.core.table import Centre, Table, centre, tabulate, unit

BLOCK = 1 << 15  # responses: a block's scores, logits and weights fit a core's second cache, 1 MB


Units = tuple[jax.Array, jax.Array]  # spreads: of the constraints (m,), of the reward


class Survey(NamedTuple):
    """Sums over prompts, weighted: what standardising a table needs to know of all of it.

    Variances are in the units that parts were surveyed in.
    """

    weight: jax.Array
    variance: jax.Array
    reward_variance: jax.Array
    mean: jax.Array
    reward: jax.Array
    lowest: jax.Array
    log_count: jax.Array
    best: jax.Array


def survey(part: Table, mask: jax.Array | None, constraints: jax.Array) -> Survey:
    """Of one part, under its own weights.

    Args:
        part: deviations in the units that its spreads say, the same ones for every part.
        mask: ``(prompts, responses)``, where some responses are missing.
        constraints: ``(m, prompts, responses)``, the scores as they are.
    """
    weights = part.weights
    reward = jnp.where(jnp.isfinite(part.reward), part.reward, 0) / part.reward_spread
    present = constraints if mask is None else jnp.where(mask, constraints, -jnp.inf)
    best = jnp.where(weights > 0, jnp.max(present, axis=-1), 0)
    return Survey(
        weight=jnp.sum(weights),
        variance=accurate_sum(weights * response_mean(part.features**2, mask)),
        reward_variance=accurate_sum(weights * response_mean(reward**2, mask)),
        mean=accurate_sum(weights * part.prompt_means),
        reward=accurate_sum(weights * part.prompt_rewards),
        lowest=accurate_sum(weights * part.prompt_lowest),
        log_count=accurate_sum(weights * part.prompt_log_counts),
        best=accurate_sum(weights * best),
    )


def pose_whole(
    seen: Survey, units: Units, margins: jax.Array, beta: jax.Array, baseline: jax.Array | None = None
) -> Standardised:
    """The dual of all parts, for what asks for its constants only: one prompt stands for all.

    Args:
        seen: the parts' surveys, summed.
        units: what they were surveyed in, spreads of about the right size: squares must stay in range.
        margins: b ``(m,)``.
        beta: β > 0.
        baseline: ``(m,)`` E_ref[g] where it was given, as in ``Scores``.
    """
    mean = Survey(*(leaf / seen.weight for leaf in seen))
    spread, reward_spread = units
    table = Table(
        reward=jnp.zeros((1, 1), spread.dtype),
        features=jnp.zeros((spread.shape[0], 1, 1), spread.dtype),
        weights=jnp.ones(1, spread.dtype),
        spread=unit(spread * jnp.sqrt(mean.variance)),
        reward_spread=unit(reward_spread * jnp.sqrt(mean.reward_variance)),
        baseline=baseline,
        prompt_means=mean.mean[:, None],
        prompt_rewards=mean.reward[None],
        prompt_lowest=mean.lowest[None],
        prompt_log_counts=mean.log_count[None],
    )
    return pose(table, margins, beta)


def pose_part(whole: Standardised, table: Table) -> Standardised:
    """A part in the whole's units; without drift, which sums over parts would count once each."""
    return dataclasses.replace(whole, table=table, drift=jnp.zeros_like(whole.drift))


def with_drift(whole: Standardised, seen, tilt: jax.Array):
    """A sum over parts of ``Evaluation`` or ``PolicyStatistics``, made that of the whole."""
    return seen._replace(value=seen.value + jnp.dot(tilt, whole.drift), gradient=seen.gradient + whole.drift)


class Description(NamedTuple):
    """Statistics of the tilted policy, and ``reach_along`` the tilt."""

    policy: PolicyStatistics
    reach: jax.Array


def describe(part: Standardised, tilt: jax.Array) -> Description:
    """Of one part, without drift."""
    return Description(policy_statistics(part, tilt), reach_along(part, tilt))


def described(whole: Standardised, seen: Description, tilt: jax.Array) -> Description:
    """A sum over parts, made that of the whole."""
    reach = seen.reach + jnp.dot(direction(tilt), whole.drift)
    return Description(with_drift(whole, seen.policy, tilt), reach)


class Rows(NamedTuple):
    """A block's ``size`` prompts from ``first`` on; of them the last block has only some of its own."""

    first: jax.Array
    own: jax.Array
    size: int

    def of(self, values: jax.Array, axis: int = 0) -> jax.Array:
        """These prompts' values."""
        return jax.lax.dynamic_slice_in_dim(values, self.first, self.size, axis)

    def weights(self, weights: jax.Array) -> jax.Array:
        """These prompts' weights, 0 for another block's prompts."""
        return jnp.where(self.first + jnp.arange(self.size) >= self.own, self.of(weights), 0)


class Arrays(NamedTuple):
    """A whole table: reward, mask and weights as in ``Scores``, the weights summing to one.

    Constraints are ``(m, prompts, responses)``; centres are those of reward and constraints.
    """

    reward: jax.Array
    constraints: jax.Array
    mask: jax.Array | None
    weights: jax.Array
    centres: tuple[Centre, Centre]

    def table(self, rows: Rows, spreads: Units) -> Table:
        """A block in given units."""
        mask = None if self.mask is None else rows.of(self.mask)
        centres = jax.tree.map(lambda leaf: rows.of(leaf, leaf.ndim - 1), self.centres)
        arrays = rows.of(self.reward), rows.of(self.constraints, 1), mask, rows.weights(self.weights)
        return tabulate(*arrays, centres, spreads=spreads)


def sum_over_blocks(of_rows: Callable[[Rows], Any], shape: tuple[int, int]):
    """Sum of a pytree over the blocks of a table of ``shape`` (prompts, responses)."""
    prompts, responses = shape
    size = min(prompts, max(1, BLOCK // responses))

    def one(_, own):
        return None, of_rows(Rows(jnp.minimum(own, prompts - size), own, size))

    _, parts = jax.lax.scan(one, None, jnp.arange(0, prompts, size))
    return jax.tree.map(lambda leaf: accurate_sum(jnp.moveaxis(leaf, 0, -1)), parts)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A table in memory, evaluated block by block; lives inside one traced function."""

    arrays: Arrays
    whole: Standardised

    def evaluate(self, tilt: jax.Array) -> Evaluation:
        """As ``dual.evaluate`` of the whole table."""
        return with_drift(self.whole, self._total(evaluate, tilt), tilt)

    def describe(self, tilt: jax.Array) -> Description:
        """Statistics and reach at ``tilt (m,)``, in one pass."""
        return described(self.whole, self._total(describe, tilt), tilt)

    def _total(self, of_part: Callable, tilt: jax.Array):
        def one(rows: Rows):
            table = self.arrays.table(rows, (self.whole.table.spread, self.whole.table.reward_spread))
            return of_part(pose_part(self.whole, table), tilt)

        return sum_over_blocks(one, self.arrays.reward.shape)


def in_blocks(scores: Scores, units: Units, margins: jax.Array, beta: jax.Array) -> Blocks:
    """Survey a table; ``scores`` as in ``solve_dual``, ``units`` as in ``pose_whole``."""
    mask = None if scores.mask is None else valid_mask(scores)
    constraints = jnp.moveaxis(scores.constraints, -1, 0)
    centres = centre(scores.reward, mask), centre(constraints, mask)
    arrays = Arrays(scores.reward, constraints, mask, normalised_prompt_weights(scores), centres)

    def one(rows: Rows) -> Survey:
        inside = None if mask is None else rows.of(mask)
        return survey(arrays.table(rows, units), inside, rows.of(constraints, 1))

    seen = sum_over_blocks(one, scores.reward.shape)
    return Blocks(arrays, pose_whole(seen, units, margins, beta, scores.baseline))
