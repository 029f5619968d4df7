"""A score table made ready: centred within each prompt, scaled by each score's spread."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.scores import Scores, accurate_sum, normalised_prompt_weights, response_mean, valid_mask


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """A score table made ready once for many margins, β and prompt weights (of which it holds one).

    Attributes:
        reward: ``(prompts, responses)``, r − mean_x r; −inf where no response is.
        features: ``(m, prompts, responses)``, (g_j − mean_x g_j)/s_j; 0 where no response is.
        weights: ``(prompts,)``, summing to one.
        spread: ``(m,)``, s_j: the root mean square deviation of g_j within a prompt.
        reward_spread: scalar, the same of r.
        baseline: ``(m,)``, E_ref[g] where it was given; None: the mean of ``prompt_means``.
        prompt_means: ``(m, prompts)``, mean_x g_j.
        prompt_rewards: ``(prompts,)``, mean_x r.
        prompt_lowest: ``(prompts,)``, min_k reward.
        prompt_log_counts: ``(prompts,)``, ln K_x.
    """

    reward: jax.Array
    features: jax.Array
    weights: jax.Array
    spread: jax.Array
    reward_spread: jax.Array
    baseline: jax.Array | None
    prompt_means: jax.Array
    prompt_rewards: jax.Array
    prompt_lowest: jax.Array
    prompt_log_counts: jax.Array


class Centre(NamedTuple):
    """A prompt's mean ``(..., prompts)`` in two parts.

    The mean of large scores is itself rounded, and what remains would pass for a margin.
    """

    mean: jax.Array
    rest: jax.Array


@jax.jit
def standardise(scores: Scores) -> Table:
    """Centre and scale a table."""
    mask = None if scores.mask is None else valid_mask(scores)
    constraints = jnp.moveaxis(scores.constraints, -1, 0)
    centres = centre(scores.reward, mask), centre(constraints, mask)
    weights = normalised_prompt_weights(scores)
    return tabulate(scores.reward, constraints, mask, weights, centres, scores.baseline)


def tabulate(
    reward: jax.Array,
    constraints: jax.Array,
    mask: jax.Array | None,
    weights: jax.Array,
    centres: tuple[Centre, Centre],
    baseline: jax.Array | None = None,
    spreads: tuple[jax.Array, jax.Array] | None = None,
) -> Table:
    """A table about known centres.

    Args:
        reward, mask: ``(prompts, responses)``.
        constraints: ``(m, prompts, responses)``.
        weights: ``(prompts,)``, as they shall stand in the table.
        centres: of the reward, ``(prompts,)`` a part, and of the constraints, ``(m, prompts)``.
        baseline: as in ``Scores``.
        spreads: ``(m,)`` and scalar, units taken from elsewhere; None: the table's own.
    """
    about, constraints_about = centres
    deviation, features = deviations(reward, about, mask), deviations(constraints, constraints_about, mask)
    if spreads is None:
        spreads = (
            unit(root_mean_square(features, weights, mask)),
            unit(root_mean_square(deviation[None], weights, mask)[0]),
        )
    count, lowest = jnp.full(weights.shape, reward.shape[-1]), jnp.min(deviation, axis=-1)
    if mask is not None:
        present = mask | ~jnp.any(mask, axis=-1, keepdims=True)
        count = jnp.maximum(jnp.sum(mask, axis=-1), 1)
        lowest = jnp.min(jnp.where(present, deviation, jnp.inf), axis=-1)
        deviation = jnp.where(present, deviation, -jnp.inf)
    return Table(
        reward=deviation,
        features=features / spreads[0][:, None, None],
        weights=weights,
        spread=spreads[0],
        reward_spread=spreads[1],
        baseline=baseline,
        prompt_means=constraints_about.mean,
        prompt_rewards=about.mean,
        prompt_lowest=lowest,
        prompt_log_counts=jnp.log(count.astype(reward.dtype)),
    )


def reweigh(table: Table, weights: jax.Array) -> Table:
    """The table under other prompt weights ``(prompts,)``; what its units are does not change."""
    return dataclasses.replace(table, weights=weights / accurate_sum(weights))


def table_baseline(table: Table) -> jax.Array:
    """``(m,)``: E_ref[g] under the table's weights."""
    if table.baseline is not None:
        return table.baseline
    return accurate_sum(table.prompt_means * table.weights)


def centre(values: jax.Array, mask: jax.Array | None) -> Centre:
    """Means over the responses of ``values (..., prompts, responses)``."""
    mean = response_mean(values, mask)
    return Centre(mean, response_mean(values - mean[..., None], mask))


def deviations(values: jax.Array, about: Centre, mask: jax.Array | None) -> jax.Array:
    """``values`` less their prompt's mean; 0 where no response is, whatever stood there."""
    found = (values - about.mean[..., None]) - about.rest[..., None]
    return found if mask is None else jnp.where(mask, found, 0)


def centred(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    return deviations(values, centre(values, mask), mask)


def root_mean_square(deviations: jax.Array, weights: jax.Array, mask: jax.Array | None) -> jax.Array:
    """``(m,)`` spread within a prompt of ``(m, prompts, responses)``; 0 for scores that never vary."""
    # the largest deviation is divided out first: squares of 1e20 or 1e-30 leave float32's range
    size = jnp.max(jnp.abs(deviations), axis=(-2, -1))
    size = jnp.where(size > 0, size, 1)
    scaled = deviations / size[:, None, None]
    return size * jnp.sqrt(accurate_sum(response_mean(scaled * scaled, mask) * weights))


def unit(spread: jax.Array) -> jax.Array:
    """The spread, or 1 where there is none to divide by."""
    return jnp.where(spread > 0, spread, 1)
