"""Programs on small tables are compiled with little optimization, wherever a caller stands."""

import jax
import numpy as np
import pytest
from scipy.special import softmax

from cann_jax.core import compilation
from cann_jax.core.solver.solve import solve_dual
from tests.core.tables import random_table

BETA, MARGIN = 0.7, 0.4


def slack(table, multiplier: float) -> float:
    """The improvement of the tilted policy, less the margin, in float64."""
    reward, score = np.asarray(table.reward, float), np.asarray(table.constraints, float)[..., 0]
    policy = softmax((reward + multiplier * score) / BETA, axis=-1)
    return float(np.mean(np.sum(policy * score, axis=-1) - score.mean(-1)) - MARGIN)


@pytest.mark.parametrize("limit", [0, compilation.SMALL])
def test_the_answer_is_right_at_any_effort(monkeypatch, limit):
    monkeypatch.setattr(compilation, "SMALL", limit)
    table = random_table(3)
    found = solve_dual(table, MARGIN, BETA, "newton")
    assert slack(table, float(found.multipliers[0])) == pytest.approx(0, abs=2e-6)


@pytest.mark.parametrize(("size", "fails"), [(4, True), (compilation.SMALL + 1, False)])
def test_only_small_tables_are_compiled_quickly(monkeypatch, size, fails):
    monkeypatch.setattr(compilation, "_known_options", lambda: {"xla_has_no_such_option": True})
    plus_one, values = compilation.jit()(lambda values: values + 1), np.ones(size, np.float32)
    if fails:
        with pytest.raises(jax.errors.JaxRuntimeError, match="xla_has_no_such_option"):
            plus_one(values)
    else:
        assert plus_one(values)[-1] == 2


def test_a_traced_function_may_hold_a_table():
    table = random_table(3)
    doubled = compilation.jit()(lambda values: values * 2)
    values = np.asarray(table.reward)
    found = jax.jit(lambda x: x + doubled(values))(1.0)
    np.testing.assert_allclose(found, 1 + 2 * values, rtol=1e-6)


def test_options_that_xla_no_longer_has_are_left_out(monkeypatch):
    known = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(compilation, "QUICK", {"xla_has_no_such_option": True, **known})
    compilation._known_options.cache_clear()
    try:
        assert compilation._known_options() == known
        assert compilation.jit()(lambda values: values + 1)(np.ones(2, np.float32)).tolist() == [2, 2]
    finally:
        compilation._known_options.cache_clear()
