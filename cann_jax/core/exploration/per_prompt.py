"""What a tilt is predicted to do to each prompt."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from cann_jax.core.arrays import Array, response_mean
from cann_jax.core.compilation import jit
from cann_jax.core.dual import tilted_weights
from cann_jax.core.scores import Scores
from cann_jax.core.solver.blocks import over_prompts


def predict_per_prompt(scores: Scores, multipliers: Array, beta: ArrayLike) -> tuple[Array, Array]:
    """Return the reward ``(prompts,)`` and gains ``(m, prompts)`` of each prompt predicted under π_λ."""
    reward, gains = over_prompts(_predict, scores, multipliers, beta)
    return reward, gains


@jit()
def _predict(scores: Scores, multipliers: Array, beta: float | Array) -> tuple[Array, Array]:
    policy = tilted_weights(multipliers, scores, beta)
    reward = jnp.sum(policy * jnp.where(policy > 0, scores.reward, 0), axis=-1)
    constraints = jnp.moveaxis(scores.constraints, -1, 0)
    tilted = jnp.stack([jnp.sum(policy * jnp.where(policy > 0, g, 0), axis=-1) for g in constraints])
    return reward, tilted - reference_per_prompt(scores)


@jit()
def reference_per_prompt(scores: Scores) -> Array:
    """Return E_ref[g] of each prompt ``(m, prompts)``, or where it was estimated elsewhere, that for all."""
    if scores.baseline is not None:
        return scores.baseline[:, None]
    return response_mean(jnp.moveaxis(scores.constraints, -1, 0), scores.mask)
