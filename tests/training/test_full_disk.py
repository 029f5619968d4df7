"""A disk that fills up during a save: one line, and the checkpoint before it stays good."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.files.errors import InputError
from cann_jax.training.checkpoints import Checkpoints, save_weights
from cann_jax.training.step import TrainState

# What Python cannot raise, it prints with a traceback.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


def state_at(step: int, size: int = 300_000) -> TrainState:
    noise = jax.random.normal(jax.random.key(step), (size,))  # does not compress
    return TrainState(jnp.int32(step), noise, jnp.zeros(3))


@pytest.mark.disk("2m")
def test_a_save_on_a_full_disk_is_one_line_and_keeps_the_last(small_disk):
    with (
        pytest.raises(InputError, match="disk full while writing") as caught,
        Checkpoints(small_disk, 3, 1) as kept,
    ):
        for step in (1, 2):
            kept.save(state_at(step), last=True)
    assert "\n" not in str(caught.value)
    with Checkpoints(small_disk, keep=3, every=1) as found:
        restored = found.restore(state_at(0))
    assert int(restored.step) == 1
    np.testing.assert_array_equal(restored.weights, state_at(1).weights)


@pytest.mark.disk("2m")
def test_weights_on_a_full_disk(small_disk):
    with pytest.raises(InputError, match="disk full while writing"):
        save_weights(small_disk / "weights", {"noise": state_at(1, 900_000).weights})
