"""From multipliers to preference labels (paper, algorithm 1, steps 3 and 4)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arguments import multipliers_of, takes_lists
from cann_jax.core.arrays import Array
from cann_jax.core.compilation import jit
from cann_jax.core.scores import Scores, check_each


@jit()
def pseudo_reward(scores: Scores, multipliers: ArrayLike, reward_weight: float | Array = 1.0) -> Array:
    """Return r_λ = r + ⟨λ, g⟩, ``(prompts, responses)``; margins and baseline drop out of differences.

    A weighted sum of scores has a ``reward_weight`` of r other than 1.
    """
    check_each(scores)
    weighted = jnp.asarray(reward_weight, scores.reward.dtype) * scores.reward
    return weighted + scores.constraints @ multipliers_of(multipliers, scores)


@takes_lists
@jax.jit
def preference_probability(first: Array, second: Array, temperature: float = 1.0) -> Array:
    """Return P(first ≻ second) = σ((r_λ(first) − r_λ(second))/temperature), the soft label of a pair.

    With temperature 1, DPO at the dual's own β then has exactly π_λ for its optimum. The authors' PeCAN code
    leaves β out of its implicit scores; ``temperature=beta`` on scores of ``implicit_scores`` reproduces it.
    """
    return jax.nn.sigmoid((first - second) / temperature)


def safer_first(labels: np.ndarray, safe: np.ndarray) -> np.ndarray:
    """Return labels (…, R, R), P(i ≻ j), by which a safe response is always preferred to an unsafe one.

    It is SafeDPO's change of the data (Kim et al. 2025); ``safe (…, R)`` says which responses are.
    """
    first, second = safe[..., :, None], safe[..., None, :]
    return np.where(first == second, labels, first)
