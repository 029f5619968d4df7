"""Memory that runs out: one line, status 3, and the setting that needs less."""

import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.command_line.errors import run_command
from cann_jax.files.errors import ResourceError
from cann_jax.runtime import host_memory
from cann_jax.runtime.compilation import compiled, keep_compilations
from cann_jax.runtime.memory import checked, smaller_step, within_memory
from cann_jax.sampling.mesh import Batch, smaller_batch

TOO_MUCH = 1 << 45  # floats, 128 TiB


def test_of_a_device_and_of_the_machine():
    for allocate in (jnp.zeros, np.ones):
        with pytest.raises(ResourceError) as caught, within_memory("align", lambda times: "lower it"):
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
        ((1, 8, "everything", 2.1), "raise align.accumulation from 1 to 4, give"),
        ((2, 12, "everything", 2.5), "raise align.accumulation from 2 to 6, give"),
        ((1, 4, "everything", 99.0), "raise align.accumulation from 1 to 4, give"),
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


def test_a_program_that_does_not_fit_does_not_begin(monkeypatch):
    """It is compiled once, whether it fits or not, and checked once for each of its shapes."""
    keep_compilations()
    begun = []

    def sort(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: begun.append(x.shape))
        return jnp.sort(
            jnp.sin(x * jnp.arange(4.0)[:, None]), axis=0
        )  # 16 bytes a number, and 16 of temporaries

    function, numbers = checked(jax.jit(sort)), jnp.ones(1 << 18)
    function(jnp.ones(8)).block_until_ready()
    before = compiled()[0]
    monkeypatch.setattr(host_memory, "available", lambda: 1 << 20)
    for _ in range(2):
        with pytest.raises(ResourceError) as caught, within_memory("align", "at least {:.0f}".format):
            function(numbers)
    assert compiled()[0] == before + 1 and begun == [(8,)]
    said = str(caught.value)
    assert (
        said.startswith("align: this machine's memory is exhausted (a program needs 0.00")
        and "GB are left" in said
    )
    assert 4 <= float(said.rpartition("at least ")[2]) <= 16
    monkeypatch.setattr(host_memory, "available", lambda: 1 << 30)
    function(numbers).block_until_ready()
    assert compiled()[0] == before + 1 and len(begun) == 2
    jax.jit(lambda: function(jnp.ones(3)))().block_until_ready()  # inside another program, which is checked


def test_what_is_left(monkeypatch, tmp_path):
    """Of the machine, of a control group and those that it is in, and of what ``ulimit -v`` allows."""
    machine = host_memory.available()
    assert 0 < machine <= host_memory.total()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (64 << 20), hard))
    limited = host_memory.available()
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert 32 << 20 < limited <= 64 << 20
    monkeypatch.setattr(host_memory, "_groups", lambda: [tmp_path / "pod", tmp_path / "old", tmp_path])
    for folder, files in {
        "pod": {
            "memory.max": 300 << 20,
            "memory.current": 250 << 20,
            "memory.stat": "anon 9\ninactive_file 1048576",
        },
        "old": {
            "memory.limit_in_bytes": 400 << 20,
            "memory.usage_in_bytes": 100 << 20,
            "memory.stat": "cache 0",
        },
        ".": {"memory.max": "max", "memory.current": 1, "memory.stat": "cache 0"},
    }.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, content in files.items():
            (tmp_path / folder / name).write_text(f"{content}\n")
    assert (host_memory.total(), host_memory.available()) == (300 << 20, 51 << 20)


def test_the_groups_that_this_process_is_in():
    """Whatever this machine has: each is a folder below that of its kind, the nearest first."""
    found = list(host_memory._groups())
    assert found and all(group.is_relative_to("/sys/fs/cgroup") for group in found)
