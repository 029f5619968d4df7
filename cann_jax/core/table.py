"""A score table in standard form: centred within each prompt, divided by each score's spread.

Everything that standardising needs to know of the other prompts is in the spreads, so a table may be
standardised whole, or part by part under spreads that are known already.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.arrays import Array, accurate_sum, response_mean, slice_along
from cann_jax.core.compilation import jit
from cann_jax.core.scores import Scores, normalised_prompt_weights, response_mask


class Spreads(NamedTuple):
    """Root mean square deviations within a prompt: of the constraints ``(m,)`` and of the reward."""

    constraints: Array
    reward: Array


class Centre(NamedTuple):
    """Means over a prompt's responses ``(..., prompts)``, in two parts.

    The mean of large scores is itself rounded, and what remains would pass for a margin.
    """

    mean: Array
    rest: Array


class Centres(NamedTuple):
    """Centres of a table's reward ``(prompts,)`` and constraints ``(m, prompts)``."""

    reward: Centre
    constraints: Centre


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

    reward: Array
    features: Array
    weights: Array
    spreads: Spreads
    baseline: Array | None
    prompt_means: Array
    prompt_rewards: Array
    prompt_lowest: Array
    prompt_log_counts: Array


@jit()
def standardise(
    scores: Scores,
    weights: Array | None = None,
    spreads: Spreads | None = None,
    centres: Centres | None = None,
) -> Table:
    """Return the scores in standard form.

    ``weights (prompts,)`` are taken as they are; by default they are the table's own, normalised. ``spreads``
    are the units, by default the table's own, and ``centres`` are given where they are known.
    """
    mask, weights = response_mask(scores), normalised_prompt_weights(scores) if weights is None else weights
    about = centres_of(scores) if centres is None else centres
    reward = _deviations(scores.reward, about.reward, mask)
    features = _deviations(jnp.moveaxis(scores.constraints, -1, 0), about.constraints, mask)
    if spreads is None:
        spread = unit(_root_mean_square(features, weights, mask))
        spreads = Spreads(spread, unit(_root_mean_square(reward[None], weights, mask)[0]))
    count, lowest = jnp.full(weights.shape, reward.shape[-1]), jnp.min(reward, axis=-1)
    if mask is not None:
        present = mask | ~jnp.any(mask, axis=-1, keepdims=True)
        count = jnp.maximum(jnp.sum(mask, axis=-1), 1)
        lowest = jnp.min(jnp.where(present, reward, jnp.inf), axis=-1)
        reward = jnp.where(present, reward, -jnp.inf)
    return Table(
        reward=reward,
        features=features / spreads.constraints[:, None, None],
        weights=weights,
        spreads=spreads,
        baseline=scores.baseline,
        prompt_means=about.constraints.mean,
        prompt_rewards=about.reward.mean,
        prompt_lowest=lowest,
        prompt_log_counts=jnp.log(count.astype(reward.dtype)),
    )


def table_prompts(table: Table, first: int | Array, size: int) -> Table:
    """Return ``size`` prompts of a table, from the ``first``-th on, with the weights of the whole."""

    def cut(values: Array, axis: int = -1) -> Array:
        return slice_along(values, first, size, axis)

    return dataclasses.replace(
        table,
        reward=cut(table.reward, -2),
        features=cut(table.features, -2),
        weights=cut(table.weights),
        prompt_means=cut(table.prompt_means),
        prompt_rewards=cut(table.prompt_rewards),
        prompt_lowest=cut(table.prompt_lowest),
        prompt_log_counts=cut(table.prompt_log_counts),
    )


def reweigh(table: Table, weights: Array) -> Table:
    """Return the table under other prompt weights ``(prompts,)`` of any scale, in unchanged units."""
    return dataclasses.replace(table, weights=weights / accurate_sum(weights))


def mix_features(table: Table, combination: Array) -> Array:
    """Return ⟨w, features⟩ ``(prompts, responses)`` for w ``(m,)``, −∞ for missing responses."""
    mixed = jnp.zeros_like(table.reward)
    for j in range(table.features.shape[0]):
        mixed = mixed + combination[j] * table.features[j]
    return jnp.where(jnp.isfinite(table.reward), mixed, -jnp.inf)


def best_features(table: Table, combination: Array) -> Array:
    """Return the features ``(m, prompts)`` of the response of each prompt that is best for w ``(m,)``."""
    best = jnp.argmax(mix_features(table, combination), axis=-1)
    return jnp.take_along_axis(table.features, best[None, :, None], axis=-1)[..., 0]


def best_mean(table: Table, combination: Array) -> Array:
    """Return φ(w) = E_x max_k ⟨w, features⟩: the most that any weighting of the responses does for w."""
    return accurate_sum(jnp.max(mix_features(table, combination), axis=-1) * table.weights)


def centres_of(scores: Scores) -> Centres:
    """Return the centres of a table's reward ``(prompts,)`` and constraints ``(m, prompts)``."""
    mask = response_mask(scores)
    return Centres(_centre(scores.reward, mask), _centre(jnp.moveaxis(scores.constraints, -1, 0), mask))


def centred(values: Array, mask: Array | None) -> Array:
    """Return ``values (..., prompts, responses)`` less their prompt's mean; 0 for missing responses."""
    return _deviations(values, _centre(values, mask), mask)


def _centre(values: Array, mask: Array | None) -> Centre:
    mean = response_mean(values, mask)
    return Centre(mean, response_mean(values - mean[..., None], mask))


def _deviations(values: Array, about: Centre, mask: Array | None) -> Array:
    found = (values - about.mean[..., None]) - about.rest[..., None]
    return found if mask is None else jnp.where(mask, found, 0)


def _root_mean_square(deviations: Array, weights: Array, mask: Array | None) -> Array:
    """Return the spread ``(m,)`` within a prompt of ``(m, prompts, responses)`` deviations."""
    # the largest deviation is divided out first: squares of 1e20 or 1e-30 leave float32's range
    size = unit(jnp.max(jnp.abs(deviations), axis=(-2, -1)))
    scaled = deviations / size[:, None, None]
    return size * jnp.sqrt(accurate_sum(response_mean(scaled * scaled, mask) * weights))


def unit(spread: Array) -> Array:
    """Return the spread, or 1 for scores that never vary."""
    return jnp.where(spread > 0, spread, 1)
