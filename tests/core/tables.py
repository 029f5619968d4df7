"""Score tables that the core's tests share; few shapes, so that each solver compiles few times."""

import jax.numpy as jnp
import numpy as np

from cann_jax.core.problem import Constraint, Problem, make_targets
from cann_jax.core.scores import Scores

_I, _J = np.arange(4)[:, None], np.arange(6)[None, :]
REWARD = np.sin(1 + 2 * _I + 3 * _J)
FIRST = np.cos(0.5 + 1.7 * _I - 1.3 * _J)
SECOND = np.sin(0.4 + 0.9 * _I + 1.1 * _J)


def vector_table(constraints: int = 1) -> Scores:
    """The closed-form table of the method's test vectors."""
    stacked = np.stack([FIRST, SECOND][:constraints], axis=-1)
    return Scores(jnp.asarray(REWARD), jnp.asarray(stacked))


def random_table(seed: int, constraints: int = 1, prompts: int = 32, responses: int = 8) -> Scores:
    """Correlated Gaussian scores."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(prompts, responses, constraints))
    r = rng.normal(size=(prompts, responses)) - 0.5 * g.mean(-1)
    return Scores(jnp.asarray(r), jnp.asarray(g))


def gaussian_oracle(seed: int, responses: int, correlation: float = -0.5, prompts: int = 4000) -> Scores:
    """r, g ~ N(0, 1) with a correlation; the true multiplier is max(0, βb − ρ)."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(prompts, responses)).astype(np.float32)
    noise = rng.normal(size=(prompts, responses)).astype(np.float32)
    r = correlation * g + np.sqrt(1 - correlation**2) * noise
    return Scores(jnp.asarray(r), jnp.asarray(g)[..., None], baseline=jnp.zeros(1))


def margin_problem(scores: Scores, margins) -> Problem:
    """The problem of a table as it is, with margins over the reference."""
    values = np.atleast_1d(np.asarray(margins, scores.reward.dtype))
    constraints = [Constraint(f"constraint {j}", margin=value) for j, value in enumerate(values)]
    return Problem(scores, make_targets(constraints, scores.reward.dtype), tuple(constraints))
