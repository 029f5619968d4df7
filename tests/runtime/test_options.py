"""Options of JAX by which a command would compute or draw otherwise than it says."""

import subprocess
import sys

import jax
import pytest

from cann_jax.files.errors import InputError
from cann_jax.runtime.options import check_options
from tests.builders import ROOT
from tests.builders.processes import environment

# Each looks at the options before it looks for what is not there.
COMMANDS = {
    "train": ["--config", "configs/quickstart.yaml", "--dry_run"],
    "reward": ["--config", "configs/score_models/reward_hh.yaml", "--dry_run"],
    "dual": ["--scores", "there-is-none.parquet"],
    "chat": ["there-is-none"],
    "judge": ["there-is-none", "--judge.base_url", "http://localhost:1", "--judge.model", "none"],
    "compile_check": ["--config", "configs/quickstart.yaml", "--topology", "v5e:2x2"],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_enable_x64", True),
    ],
)
def test_an_option_that_is_not_the_usual_one_is_named(name, value):
    usual = jax.config.values[name]
    jax.config.update(name, value)
    try:
        with pytest.raises(InputError, match=f"^{name.upper()}: JAX is set to {value}"):
            check_options()
    finally:
        jax.config.update(name, usual)
    check_options()


def test_those_that_may_differ_are_left_out():
    with jax.enable_x64(True):
        check_options(may_differ=["jax_enable_x64"])
        with pytest.raises(InputError, match="JAX_ENABLE_X64: JAX is set to True"):
            check_options()


def failed(command: str, **variables: str) -> str:
    run = [sys.executable, "-m", f"cann_jax.{command}", *COMMANDS[command]]
    done = subprocess.run(run, cwd=ROOT, env=environment(**variables), capture_output=True, text=True)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_so_in_one_line(command):
    line = failed(command, JAX_DEFAULT_PRNG_IMPL="rbg")
    assert line.startswith("error: JAX_DEFAULT_PRNG_IMPL: JAX is set to rbg")


@pytest.mark.parametrize("command", COMMANDS)
def test_only_score_tables_may_be_solved_in_64_bits(command):
    refused = failed(command, JAX_ENABLE_X64="1").startswith("error: JAX_ENABLE_X64")
    assert refused == (command != "dual")
