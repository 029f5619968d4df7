"""From multipliers to preference labels (paper, algorithm 1, steps 3 and 4)."""

import jax
import jax.numpy as jnp

from cann_jax.core.arrays import Array
from cann_jax.core.compilation import jit
from cann_jax.core.scores import Scores


@jit()
def pseudo_reward(scores: Scores, multipliers: Array) -> Array:
    """Return r_λ = r + ⟨λ, g⟩, ``(prompts, responses)``; margins and baseline drop out of differences."""
    return scores.reward + scores.constraints @ jnp.asarray(multipliers, scores.constraints.dtype)


@jax.jit
def preference_probability(first: Array, second: Array, temperature: float = 1.0) -> Array:
    """Return P(first ≻ second) = σ((r_λ(first) − r_λ(second))/temperature), the soft label of a pair.

    With temperature 1, DPO at the dual's own β then has exactly π_λ for its optimum. The authors' PeCAN code
    leaves β out of its implicit scores; ``temperature=beta`` on scores of ``implicit_scores`` reproduces it.
    """
    return jax.nn.sigmoid((first - second) / temperature)
