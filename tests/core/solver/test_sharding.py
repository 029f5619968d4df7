"""A table sharded over prompts gives the same answer, on eight devices that XLA pretends to have."""

from tests.builders.processes import finish, start

PROGRAM = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from cann_jax import Scores, solve_dual
rng = np.random.default_rng(0)
r = rng.normal(size=(64, 8)).astype(np.float32)
table = Scores(r, (rng.normal(size=(64, 8, 2)) - 0.5 * r[..., None]).astype(np.float32))
mesh = Mesh(np.array(jax.devices()), ("prompts",))
sharded = jax.device_put(table, NamedSharding(mesh, P("prompts")))
assert len(sharded.reward.sharding.device_set) == 8
alone = solve_dual(jax.device_put(table), np.array([0.4, 0.2]), 0.5, "newton")
spread = solve_dual(sharded, np.array([0.4, 0.2]), 0.5, "newton")
assert spread.converged and alone.converged
np.testing.assert_allclose(spread.multipliers, alone.multipliers, rtol=1e-5, atol=1e-5)
np.testing.assert_allclose(spread.value, alone.value, rtol=1e-5)
print("same")
"""


def test_sharded_over_prompts():
    ((said, _),) = finish(start(["-c", PROGRAM], 8))
    assert said.strip() == "same"
