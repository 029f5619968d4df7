"""A score table in standard form: centred within each prompt, divided by each score's spread.

Everything that standardising needs to know of the other prompts is in the spreads, so a table may be
standardised whole, or part by part under spreads that are known already.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.scores import (
    Scores,
    accurate_sum,
    normalised_prompt_weights,
    response_mask,
    response_mean,
)


class Spreads(NamedTuple):
    """Root mean square deviations within a prompt: of the constraints ``(m,)`` and of the reward."""

    constraints: jax.Array
    reward: jax.Array


class Centre(NamedTuple):
    """Means over a prompt's responses ``(..., prompts)``, in two parts.

    The mean of large scores is itself rounded, and what remains would pass for a margin.
    """

    mean: jax.Array
    rest: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """A standardised score table, for many margins, β and prompt weights (of which it holds one).

    Attributes:
        reward: ``(prompts, responses)``, r − mean_x r; −∞ for missing responses.
        features: ``(m, prompts, responses)``, (g_j − mean_x g_j)/s_j; 0 for missing responses.
        weights: ``(prompts,)``; they sum to one over the whole table.
        spreads: s_j and the spread of the reward.
        baseline: ``(m,)``, E_ref[g] where it was given; None: the mean of ``prompt_means``.
        prompt_means: ``(m, prompts)``, mean_x g_j.
        prompt_rewards: ``(prompts,)``, mean_x r.
        prompt_lowest: ``(prompts,)``, min_k reward.
        prompt_log_counts: ``(prompts,)``, ln K_x.
    """

    reward: jax.Array
    features: jax.Array
    weights: jax.Array
    spreads: Spreads
    baseline: jax.Array | None
    prompt_means: jax.Array
    prompt_rewards: jax.Array
    prompt_lowest: jax.Array
    prompt_log_counts: jax.Array


@jax.jit
def standardise(scores: Scores, weights: jax.Array | None = None, spreads: Spreads | None = None) -> Table:
    """Return the scores in standard form.

    Args:
        scores: The table, or a part of one.
        weights: ``(prompts,)``, taken as they are; None: the table's own, normalised.
        spreads: Units to standardise in; None: the table's own.
    """
    mask, constraints = response_mask(scores), jnp.moveaxis(scores.constraints, -1, 0)
    centres = centre(scores.reward, mask), centre(constraints, mask)
    weights = normalised_prompt_weights(scores) if weights is None else weights
    return tabulate(scores.reward, constraints, mask, weights, centres, scores.baseline, spreads)


def tabulate(
    reward: jax.Array,
    constraints: jax.Array,
    mask: jax.Array | None,
    weights: jax.Array,
    centres: tuple[Centre, Centre],
    baseline: jax.Array | None = None,
    spreads: Spreads | None = None,
) -> Table:
    """Return a table standardised about known centres.

    Args:
        reward: ``(prompts, responses)``.
        constraints: ``(m, prompts, responses)``.
        mask: ``(prompts, responses)`` bool, or None where no response is missing.
        weights: ``(prompts,)``, taken as they are.
        centres: Centres of the reward and of the constraints.
        baseline: As in ``Scores``.
        spreads: Units to standardise in; None: the table's own.
    """
    about, constraints_about = centres
    deviation, features = deviations(reward, about, mask), deviations(constraints, constraints_about, mask)
    if spreads is None:
        spreads = Spreads(
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
        features=features / spreads.constraints[:, None, None],
        weights=weights,
        spreads=spreads,
        baseline=baseline,
        prompt_means=constraints_about.mean,
        prompt_rewards=about.mean,
        prompt_lowest=lowest,
        prompt_log_counts=jnp.log(count.astype(reward.dtype)),
    )


def reweigh(table: Table, weights: jax.Array) -> Table:
    """Return the table under other prompt weights ``(prompts,)`` of any scale, in unchanged units."""
    return dataclasses.replace(table, weights=weights / accurate_sum(weights))


def mix_features(table: Table, combination: jax.Array) -> jax.Array:
    """Return ⟨w, features⟩ ``(prompts, responses)`` for w ``(m,)``, −∞ for missing responses."""
    mixed = jnp.zeros_like(table.reward)
    for j in range(table.features.shape[0]):
        mixed = mixed + combination[j] * table.features[j]
    return jnp.where(jnp.isfinite(table.reward), mixed, -jnp.inf)


def best_mean(table: Table, combination: jax.Array) -> jax.Array:
    """Return φ(w) = E_x max_k ⟨w, features⟩: the most that any weighting of the responses does for w."""
    return accurate_sum(jnp.max(mix_features(table, combination), axis=-1) * table.weights)


def centre(values: jax.Array, mask: jax.Array | None) -> Centre:
    """Return the means over the responses of ``values (..., prompts, responses)``."""
    mean = response_mean(values, mask)
    return Centre(mean, response_mean(values - mean[..., None], mask))


def deviations(values: jax.Array, about: Centre, mask: jax.Array | None) -> jax.Array:
    """Return ``values`` less their prompt's mean; 0 for missing responses, whatever their values."""
    found = (values - about.mean[..., None]) - about.rest[..., None]
    return found if mask is None else jnp.where(mask, found, 0)


def root_mean_square(deviations: jax.Array, weights: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return the spread ``(m,)`` within a prompt of ``(m, prompts, responses)`` deviations."""
    # the largest deviation is divided out first: squares of 1e20 or 1e-30 leave float32's range
    size = jnp.max(jnp.abs(deviations), axis=(-2, -1))
    size = jnp.where(size > 0, size, 1)
    scaled = deviations / size[:, None, None]
    return size * jnp.sqrt(accurate_sum(response_mean(scaled * scaled, mask) * weights))


def unit(spread: jax.Array) -> jax.Array:
    """Return the spread, or 1 for scores that never vary."""
    return jnp.where(spread > 0, spread, 1)


def centred(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return ``values (..., prompts, responses)`` less their prompt's mean; 0 for missing responses."""
    return deviations(values, centre(values, mask), mask)
