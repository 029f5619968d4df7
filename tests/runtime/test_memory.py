"""Memory that runs out: one line, status 3, and the setting that needs less."""

import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.command_line.errors import run_command
from cann_jax.files.errors import ResourceError
from cann_jax.runtime.memory import smaller_step, within_memory
from cann_jax.sampling.mesh import Batch, smaller_batch

TOO_MUCH = 1 << 45  # floats, 128 TiB


def test_of_a_device_and_of_the_machine():
    for allocate in (jnp.zeros, np.ones):
        with pytest.raises(ResourceError) as caught, within_memory("align", lambda: "lower it"):
            allocate(TOO_MUCH)
        assert str(caught.value).startswith("align: ") and str(caught.value).endswith("; lower it")
        assert "memory is exhausted" in str(caught.value) and caught.value.exit_status == 3


@pytest.mark.parametrize("allocate", [jnp.zeros, np.ones])
def test_anywhere_else(allocate, capsys):
    assert run_command(lambda argv: allocate(TOO_MUCH)) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: memory is exhausted (") and said.count("\n") == 1


def test_other_errors_stay_as_they_are():
    with pytest.raises(ZeroDivisionError), within_memory("align", str):
        1 / 0  # noqa: B018
    with pytest.raises(RuntimeError, match="a fault"):
        run_command(lambda argv: (_ for _ in ()).throw(RuntimeError("a fault")))


@pytest.mark.parametrize(
    "given, expected",
    [
        (
            (1, 8, "elementwise"),
            "raise align.accumulation from 1 to 2, set align.rematerialise to everything",
        ),
        ((2, 6, "everything"), "raise align.accumulation from 2 to 3, give"),
        ((8, 8, "everything"), "give the mesh more devices"),
    ],
)
def test_what_makes_a_step_smaller(given, expected):
    assert smaller_step("align.", *given).startswith(expected)


def test_which_batch_fits(tiny_model, monkeypatch):
    batch = Batch(prompts=12, responses=4, width=16, length=8)
    whole = smaller_batch(tiny_model.weights, tiny_model.config, batch)
    assert whole == "lower sample.prompts_per_batch from 12 to 6"
    monkeypatch.setattr("cann_jax.sampling.mesh.memory_of", lambda device: 1.0)
    least = smaller_batch(tiny_model.weights, tiny_model.config, batch)
    assert least == "lower sample.prompts_per_batch from 12 to 1"
    slots = smaller_batch(tiny_model.weights, tiny_model.config, batch._replace(slots=10))
    assert slots == "lower sample.slots from 10 to 1"
    alone = smaller_batch(tiny_model.weights, tiny_model.config, batch._replace(prompts=1))
    assert alone.startswith("lower sample.responses")
