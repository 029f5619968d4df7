"""A table that is streamed in chunks has the answer of the whole table."""

import jax.numpy as jnp
import numpy as np

from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import solve_dual
from cann_jax.core.solver.stream import solve_stream
from tests.core.tables import margin_problem, random_table

BETA = 0.5


def test_passes_over_chunks_equal_one_table():
    table = random_table(4, constraints=2)
    mask = np.arange(8) < np.random.default_rng(0).integers(2, 9, size=32)[:, None]
    margins = np.array([0.3, 0.1], np.float32)
    whole = solve_dual(Scores(table.reward, table.constraints, jnp.asarray(mask)), margins, BETA, "newton")

    def chunks():
        for rows in (slice(0, 16), slice(16, 32)):
            yield Scores(table.reward[rows], table.constraints[rows], jnp.asarray(mask[rows]))

    found = solve_stream(chunks, margin_problem(table, margins).targets, BETA)
    assert found.solution.converged
    for field in ("multipliers", "value", "slack", "kl", "predicted_reward", "effective_sample_size"):
        np.testing.assert_allclose(
            getattr(found.solution, field), getattr(whole, field), rtol=1e-4, atol=1e-5
        )
