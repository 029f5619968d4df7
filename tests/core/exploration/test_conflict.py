"""How far margins can be scaled together, against a linear program over all policies."""

import numpy as np
import pytest
from scipy.optimize import linprog

from cann_jax.core.exploration.conflict import reachability
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Constraint


@pytest.mark.parametrize("constraints", [3, 24])
def test_the_scale_is_one_that_a_policy_reaches(constraints):
    """At m = 24 the planes run out; what they have proven is given, not the upper bound (2.266 of 2.25)."""
    prompts, responses = 60, 6
    values = np.random.default_rng(0).normal(size=(constraints, prompts, responses)).astype(np.float32)
    names = [f"g{j}" for j in range(constraints)]
    goals = [Constraint(name, margin=0.1) for name in names]
    problem = prepare(
        np.zeros((prompts, responses), np.float32), dict(zip(names, values, strict=True)), goals
    )
    found = reachability(problem.scores, problem.margins)
    gains = (values - values.mean(-1, keepdims=True)).reshape(constraints, -1) / prompts
    program = linprog(
        np.append(np.zeros(prompts * responses), -1.0),
        A_ub=np.hstack([-gains, np.full((constraints, 1), 0.1)]),
        b_ub=np.zeros(constraints),
        A_eq=np.hstack([np.kron(np.eye(prompts), np.ones(responses)), np.zeros((prompts, 1))]),
        b_eq=np.ones(prompts),
        bounds=[(0, None)] * (prompts * responses) + [(None, None)],
    )
    assert 0.98 * -program.fun <= found.scale <= (1 + 1e-4) * -program.fun
